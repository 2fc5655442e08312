"""Enrolment over the network: a ticket that a person carries to the router, and what the router gets for it, once.

The ticket names the site, the agents' endpoint and the root to trust, and holds a one-time token. It is a secret until
it has been used, has expired or was withdrawn.
"""

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import InputError, RefusedError
from cloudside.pki import enrolment, issuing, renewal
from cloudside.pki.bundle import FORMAT
from cloudside.pki.initialise import ENDPOINT_NAME
from cloudside.pki.requests import Applicant
from cloudside.pki.store import write_secret
from cloudside.registry import certificates, routers, sites, tokens
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.tables import EnrolmentToken, Site

#: Random bytes in a token: 160 bits.
TOKEN_BYTES = 20
VALID_AT_MOST = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a router got. ``again``: the answer to an earlier try, whose certificate it is."""

    files: Mapping[str, bytes] = field(repr=False)
    serial: str
    replaced: int
    again: bool


def write(
    session: Session,
    config: Config,
    caller: Caller,
    *,
    site_id: str,
    output: Path,
    valid: timedelta,
    author: str,
    now: datetime,
    force: bool = False,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> datetime:
    """Write a site's ticket (mode 0600) and withdraw those before; returns when it expires.

    The file is written before the session commits: if the commit fails, it holds a token that nobody knows.
    Raises InputError: unknown site; ``valid`` not between a minute and 90 days; ``output`` exists (without ``force``).
    RefusedError: the site is revoked or retired. ConfigurationError: PKI not initialised, or it cannot be written.
    """
    site = sites.get(session, caller, site_id)
    enrolment.require_enrollable(site)
    if not timedelta(minutes=1) <= valid <= VALID_AT_MOST:
        raise InputError("pki.ticket-validity", most_days=VALID_AT_MOST.days)
    if output.exists() and not force:
        raise InputError("pki.ticket-exists", path=str(output))
    token = base64.b32encode(random_bytes(TOKEN_BYTES)).decode().lower()
    expires_at = now + valid
    tokens.add(session, caller, site_id=site.id, token=token, author=author, expires_at=expires_at, now=now)
    document = {**open_part(session, config, site), "token": token}
    write_secret(output, (json.dumps(document, indent=2) + "\n").encode())
    return expires_at


def open_part(session: Session, config: Config, site: Site) -> dict[str, object]:
    """A ticket without its token. Endpoints outside the tunnel come first: there is no tunnel yet."""
    places = sorted(enrolment.endpoints(config), key=lambda place: place.in_tunnel)
    root = issuing.load_authority_certificate(session, issuing.ROOT)
    return {
        "format": FORMAT,
        "site": site.id,
        "endpoints": [{"address": str(place.address), "port": place.port} for place in places],
        "endpoint_name": ENDPOINT_NAME,
        "root": root.public_bytes(serialization.Encoding.PEM).decode(),
    }


def redeem(
    session: Session, config: Config, *, site_id: str, token: str, applicant: Applicant, now: datetime
) -> Redeemed:
    """Enrol a router for its token. The session must be a writing one.

    The same token, key and device id within the token's validity are the same router, whose answer was lost: it gets
    the same certificate again, as long as that counts.
    Raises RefusedError: the token is unknown, used, expired, withdrawn or another site's, without telling which; or
    what enrolment.admit raises.
    """
    record = tokens.find(session, token)
    if record is None or record.site_id != site_id or record.withdrawn_at is not None or record.expires_at <= now:
        raise RefusedError("fleet.enrolment-refused")
    if record.used_at is not None:
        return _again(session, config, record, applicant, now=now)
    made = enrolment.admit(session, config, OPERATOR, site_id=record.site_id, applicant=applicant, now=now)
    record.used_at = now
    record.certificate_serial = issuing.serial_text(made.certificate.serial_number)
    session.flush()
    return Redeemed(made.files, record.certificate_serial, made.replaced, again=False)


def _again(
    session: Session, config: Config, record: EnrolmentToken, applicant: Applicant, *, now: datetime
) -> Redeemed:
    refused = RefusedError("fleet.enrolment-refused")
    issued = certificates.by_serial(session, record.certificate_serial or "")
    site = sites.get(session, OPERATOR, record.site_id)
    if issued is None or issued.revoked_at is not None or issued.not_after <= now or site.revoked_at is not None:
        raise refused
    certificate = issuing.parse(issued)
    router = routers.get(session, OPERATOR, site.id)
    if certificate.public_key() != applicant.key or not routers.proves_device_id(router, applicant.device_id):
        raise refused
    if not renewal.says(certificate, site):  # the site has moved since: issued then for the same key
        name = issuing.tenant_authority_name(site.tenant_id)
        counting = certificates.counting(session, authority=name, kind="site", subject=site.id, now=now)
        fitting = [one for one in counting if one.overlay == site.overlay and issuing.site_key(one) == applicant.key]
        if fitting:
            issued, certificate = fitting[-1], issuing.parse(fitting[-1])
    router.ssh_host_key = f"{applicant.ssh_host_key} {site.id}"
    session.flush()
    return Redeemed(enrolment.files(session, config, site, certificate), issued.serial, 0, again=True)
