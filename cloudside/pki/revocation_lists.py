"""Revokes certificates, and signs an authority's next revocation list from what the registry says is revoked."""

from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives import serialization
from sqlalchemy.orm import Session

from cloudside.pki.authority import REVOCATION_LIST_LIFETIME, ROOT_LIST_LIFETIME, Authority, make_revocation_list
from cloudside.pki.store import ROOT_KEY
from cloudside.registry import certificates
from cloudside.registry.tables import Certificate, RevocationList


def renew(session: Session, issuer: Authority, *, now: datetime) -> RevocationList:
    """Sign and keep the authority's next list. The write session makes numbers increase without gaps or races."""
    number = next_number(session, issuer.name)
    revoked = [
        (int(record.serial, 16), record.revoked_at)
        for record in certificates.revoked_by(session, authority=issuer.name, now=now)
        if record.revoked_at is not None
    ]
    lifetime = ROOT_LIST_LIFETIME if issuer.name == ROOT_KEY else REVOCATION_LIST_LIFETIME
    made = make_revocation_list(issuer, revoked=revoked, number=number, now=now, lifetime=lifetime)
    return certificates.keep_revocation_list(
        session,
        authority=issuer.name,
        number=number,
        der=made.public_bytes(serialization.Encoding.DER),
        next_update=made.next_update_utc or now,
    )


def revoke(session: Session, issuer: Authority, records: Sequence[Certificate], *, at: datetime, now: datetime) -> None:
    """Mark an authority's certificates revoked since ``at`` and sign its next list, if there are any."""
    if not records:
        return
    for record in records:
        record.revoked_at = at
    session.flush()
    renew(session, issuer, now=now)


def next_number(session: Session, authority: str) -> int:
    """The number of an authority's next list."""
    before = certificates.revocation_list(session, authority)
    return 1 if before is None else before.number + 1
