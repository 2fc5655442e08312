"""Signs an authority's next revocation list from what the registry says is revoked."""

from datetime import datetime

from cryptography.hazmat.primitives import serialization
from sqlalchemy.orm import Session

from cloudside.pki.authority import Authority, make_revocation_list
from cloudside.registry import certificates
from cloudside.registry.tables import RevocationList


def renew(session: Session, issuer: Authority, *, now: datetime) -> RevocationList:
    """Sign and keep the authority's next list. The write session makes numbers increase without gaps or races."""
    before = certificates.revocation_list(session, issuer.name)
    number = 1 if before is None else before.number + 1
    revoked = [
        (int(record.serial, 16), record.revoked_at)
        for record in certificates.revoked_by(session, authority=issuer.name, now=now)
        if record.revoked_at is not None
    ]
    made = make_revocation_list(issuer, revoked=revoked, number=number, now=now)
    return certificates.keep_revocation_list(
        session,
        authority=issuer.name,
        number=number,
        der=made.public_bytes(serialization.Encoding.DER),
        next_update=made.next_update_utc or now,
    )
