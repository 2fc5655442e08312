"""What the agents' endpoint does about certificates: the first one for a token, the next one, and the wish for it."""

from collections.abc import Mapping
from datetime import datetime

import structlog
from cryptography import x509
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import KyotenError
from cloudside.fleet.identity import Speaker
from cloudside.fleet.protocol import CertificateRequest, Certificates, EnrolmentRequest
from cloudside.pki import enrolment, renewal, requests, tickets
from cloudside.registry import sites
from cloudside.registry.addresses import Address
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell

#: What changes when a certificate is renewed; the rest of the bundle stays.
_RENEWED = ("site.crt", "tenant-authority.crt", "bundle.json")

_log = structlog.get_logger()


def is_superseding(session: Session, who: Speaker, *, now: datetime) -> bool:
    """Whether a router speaks with a certificate for its site's new prefix while others for the old one still count."""
    site = sites.get(session, OPERATOR, who.site_id)
    return renewal.says(who.certificate, site) and bool(renewal.superseded(session, site, now=now))


def is_renewal_wanted(session: Session, who: Speaker, *, now: datetime) -> bool:
    """Whether this router should fetch another certificate now."""
    return renewal.wants(session, who.certificate, sites.get(session, OPERATOR, who.site_id), now=now)


def retire_superseded(database: Database, config: Config, who: Speaker, *, now: datetime) -> None:
    """End the certificates for a prefix that a site has left, now that its router has shown the new one.

    Trouble of ours is not the heartbeat's: it is logged, and the next heartbeat tries again.
    """
    try:
        with database.write() as session:
            site = sites.get(session, OPERATOR, who.site_id)
            ended = renewal.retire_superseded(session, config, site, who.certificate, now=now)
    except KyotenError as error:
        _log.error("certificates of the prefix before not revoked", site=who.site_id, key=error.key)
        return
    _log.info("certificates of the prefix before revoked", site=who.site_id, count=ended)
    Doorbell(config.runtime_directory, "gateway", database).ring()


def renew(
    database: Database, config: Config, who: Speaker, wanted: CertificateRequest, *, now: datetime
) -> Certificates:
    """The next certificate of a router. Raises InputError (the request) and what renewal.renew raises."""
    key = requests.read_key(wanted.csr.encode())
    with database.write(actor=f"router {who.site_id}") as session:
        site = sites.get(session, OPERATOR, who.site_id)
        made = renewal.renew(session, config, site, who.certificate, key=key, now=now)
        files = enrolment.files(session, config, site, made.certificate)
    if made.issued:
        _log.info("certificate renewed", site=site.id, until=_until(made.certificate), revoked=made.revoked)
    if made.revoked:
        Doorbell(config.runtime_directory, "gateway", database).ring()
    return _answer({name: files[name] for name in _RENEWED})


def enrol(
    database: Database, config: Config, wanted: EnrolmentRequest, source: Address, *, now: datetime
) -> Certificates:
    """The first certificate of a router. Raises InputError (what it says of itself) and what tickets.redeem raises."""
    applicant = requests.read_applicant(wanted.csr.encode(), wanted.device_id, wanted.ssh_host_key)
    with database.write(actor=f"router {wanted.site}") as session:
        made = tickets.redeem(session, config, site_id=wanted.site, token=wanted.token, applicant=applicant, now=now)
    _log.info("router enrolled", site=wanted.site, source=str(source), again=made.again, replaced=made.replaced)
    Doorbell(config.runtime_directory, "gateway", database).ring()
    return _answer(made.files)


def _answer(files: Mapping[str, bytes]) -> Certificates:
    return Certificates(files={name: content.decode() for name, content in files.items()})


def _until(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.isoformat(timespec="seconds")
