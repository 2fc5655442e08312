"""Renewal of sites' certificates. Old and new count together: a router changes over when it is ready.

A certificate is renewed from a third of its lifetime before its end, or earlier when the registry says something else
than the certificate: another prefix, or an authority that is about to end. Before that a request is answered with the
certificate that is there. A revoked one is never renewed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import KyotenError, RefusedError
from cloudside.pki import address_blocks, enrolment, issuing, revocation_lists
from cloudside.pki.authority import BACKDATE, is_due
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.tables import Certificate, Site

#: A site's certificates that count at once: the one in use, the next one, and two whose answers were lost with their
#: keys. When there are more, the oldest but the one in use is revoked.
COUNTING_AT_MOST = 4
#: Certificates issued to one site within a day. A router that asks for more is in a loop.
ISSUED_A_DAY_AT_MOST = 6
#: How long a certificate for a prefix that its site has left may be used to fetch the new one.
GRACE = timedelta(days=30)


class TooOftenError(KyotenError):
    """A router asks for one certificate after another."""

    exit_code = 5
    http_status = 429


@dataclass(frozen=True, slots=True)
class Renewed:
    """The certificate to use from now on. ``issued``: it is new. ``revoked``: surplus ones that count no more."""

    certificate: x509.Certificate
    issued: bool
    revoked: int


def is_wanted(shown: x509.Certificate, site: Site, issuer: x509.Certificate, now: datetime) -> bool:
    """Whether a router with this certificate should fetch another one. ``issuer``: the tenant's authority as it is."""
    return is_due(shown, now) or not says(shown, site) or not _issued_by(shown, issuer)


def says(certificate: x509.Certificate, site: Site) -> bool:
    """Whether a certificate speaks for exactly the site's prefix."""
    return address_blocks.read(certificate) == (site.overlay,)


def wants(session: Session, shown: x509.Certificate, site: Site, *, now: datetime) -> bool:
    """is_wanted, with the authority from the registry; False while it has none."""
    issuer = issuing.find_authority_certificate(session, issuing.tenant_authority_name(site.tenant_id))
    return issuer is not None and is_wanted(shown, site, issuer, now)


def renew(
    session: Session,
    config: Config,
    site: Site,
    shown: x509.Certificate,
    *,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
) -> Renewed:
    """The next certificate of a router that has proved itself with ``shown``. The session must be a writing one.

    Repeating it with the same key gives the same certificate. Raises RefusedError: the site is revoked or retired, or
    ``shown`` is revoked. TooOftenError: it had too many today. ConfigurationError: an authority is missing.
    """
    enrolment.require_enrollable(site)
    # Looked at before, but its request may have taken a minute to come in: another router may be the site's by now.
    used = certificates.by_serial(session, issuing.serial_text(shown.serial_number))
    if used is None or used.revoked_at is not None:
        raise RefusedError("fleet.certificate-refused")
    name = issuing.tenant_authority_name(site.tenant_id)
    issuer = issuing.load_authority_certificate(session, name)
    if not is_wanted(shown, site, issuer, now):
        return Renewed(shown, issued=False, revoked=0)
    counting = certificates.counting(session, authority=name, kind="site", subject=site.id, now=now)
    for record in reversed(counting):
        there = issuing.parse(record)
        if there.public_key() == key and not is_wanted(there, site, issuer, now):
            return Renewed(there, issued=False, revoked=0)
    since = now - timedelta(days=1) - BACKDATE
    today = certificates.issued_since(session, authority=name, kind="site", subject=site.id, since=since)
    if today >= ISSUED_A_DAY_AT_MOST:
        raise TooOftenError("fleet.renewed-too-often", site=site.id, most=ISSUED_A_DAY_AT_MOST)
    store = KeyStore.of(config)
    tenant = tenants.get(session, OPERATOR, site.tenant_id)
    authority = issuing.ensure_tenant_authority(session, store, tenant=tenant, now=now)
    made = issuing.issue(session, authority, enrolment.site_leaf(site), kind="site", key=key, now=now)
    in_use = issuing.serial_text(shown.serial_number)
    spare = [record for record in counting if record.serial != in_use]
    surplus = spare[: max(0, len(counting) + 1 - COUNTING_AT_MOST)]
    revoke(session, store, authority_name=name, records=surplus, at=now, now=now)
    return Renewed(made, issued=True, revoked=len(surplus))


def superseded(session: Session, site: Site, *, now: datetime) -> list[Certificate]:
    """A site's certificates that count and are for a prefix that it has left."""
    name = issuing.tenant_authority_name(site.tenant_id)
    counting = certificates.counting(session, authority=name, kind="site", subject=site.id, now=now)
    return [record for record in counting if record.overlay not in (None, site.overlay)]


def retire_superseded(session: Session, config: Config, site: Site, shown: x509.Certificate, *, now: datetime) -> int:
    """A router has shown a certificate for its site's new prefix: those for the old one count no more. How many.

    They are revoked since the new one was issued: a tunnel that began later was made with it and goes on.
    """
    if not says(shown, site):
        return 0
    name = issuing.tenant_authority_name(site.tenant_id)
    old = superseded(session, site, now=now)
    issued_at = shown.not_valid_before_utc + BACKDATE
    revoke(session, KeyStore.of(config), authority_name=name, records=old, at=min(issued_at, now), now=now)
    return len(old)


def retire_left_behind(session: Session, config: Config, *, now: datetime) -> list[str]:
    """Revoke certificates for prefixes that their sites left GRACE ago; the sites. Their routers never came back."""
    ended: list[str] = []
    for site_id, _ in certificates.still_certified(session, now=now):
        site = sites.get(session, OPERATOR, site_id)
        name = issuing.tenant_authority_name(site.tenant_id)
        counting = certificates.counting(session, authority=name, kind="site", subject=site.id, now=now)
        moved = [record.not_before + BACKDATE for record in counting if record.overlay == site.overlay]
        if site_id in ended or not moved or min(moved) > now - GRACE:
            continue
        old = [record for record in counting if record.overlay not in (None, site.overlay)]
        revoke(session, KeyStore.of(config), authority_name=name, records=old, at=now, now=now)
        ended.append(site_id)
    return ended


def revoke(
    session: Session, store: KeyStore, *, authority_name: str, records: list[Certificate], at: datetime, now: datetime
) -> None:
    """Mark certificates revoked since ``at`` and sign the authority's next list, if there are any."""
    if not records:
        return
    revocation_lists.revoke(session, issuing.load_authority(session, store, authority_name), records, at=at, now=now)


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    theirs = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    ours = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return certificate.issuer == issuer.subject and theirs == ours
