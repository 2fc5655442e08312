"""Enrolment: a router's certificate for the key that it has made itself, and what it needs beside.

One router a site: whoever is enrolled shuts the one before out. The same device id cannot stand at two sites.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from cloudside.config import Config
from cloudside.errors import ConfigurationError, InputError, RefusedError
from cloudside.pki import console_key, issuing, revocation
from cloudside.pki.authority import CLIENT_AUTH, Leaf
from cloudside.pki.bundle import CONFIGURATION, Description, Endpoint, document_text, pack
from cloudside.pki.initialise import ENDPOINT_NAME, GATEWAY_IDENTITY, endpoint_addresses
from cloudside.pki.requests import Applicant
from cloudside.pki.store import KeyStore
from cloudside.registry import routers, sites, tenants
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.tables import Site
from linux.files import rename_durably, write_durably


class DeviceElsewhereError(RefusedError):
    """The device id is another site's: the router was carried from there, or copied. ``other`` is not for strangers."""

    http_status = 409

    def __init__(self, *, site: str, other: str) -> None:
        super().__init__("pki.device-elsewhere", site=site)
        self.site = site
        self.other = other


@dataclass(frozen=True, slots=True)
class Admitted:
    """A router that may come in from now on. ``replaced``: certificates of the one before, revoked."""

    certificate: x509.Certificate
    files: Mapping[str, bytes]
    replaced: int


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What came of it. ``fingerprint`` is the certificate's SHA-256; ``replaced``: certificates that were revoked."""

    site: str
    path: Path
    fingerprint: str
    not_after: datetime
    replaced: int


def admit(
    session: Session, config: Config, caller: Caller, *, site_id: str, applicant: Applicant, now: datetime
) -> Admitted:
    """Issue the certificate of a site's router. The session must be a writing one.

    A router enrolled before is shut out: its certificates are revoked, its device id forgotten.
    Raises InputError: unknown site. RefusedError: the site is revoked or retired; DeviceElsewhereError: the device
    stands at another site. ConfigurationError: no public address, PKI not initialised, a key missing or damaged.
    """
    site = sites.get(session, caller, site_id)
    require_enrollable(site)
    hashed = routers.hash_device_id(applicant.device_id)
    other = routers.elsewhere(session, site_id=site.id, device_id_sha256=hashed)
    if other is not None:
        raise DeviceElsewhereError(site=site.id, other=other.site_id)
    if not config.gateway.public_addresses:
        raise ConfigurationError("pki.no-public-address", gateway=config.gateway.name)
    store = KeyStore.of(config)
    tenant = tenants.get(session, OPERATOR, site.tenant_id)
    authority = issuing.ensure_tenant_authority(session, store, tenant=tenant, now=now)
    replaced = revocation.revoke_certificates(session, store, site=site, now=now)
    certificate = issuing.issue(session, authority, site_leaf(site), kind="site", key=applicant.key, now=now)
    routers.enrol(
        session,
        caller,
        site_id=site.id,
        device_id=applicant.device_id,
        ssh_host_key=f"{applicant.ssh_host_key} {site.id}",
        now=now,
    )
    return Admitted(certificate, files(session, config, site, certificate), replaced)


def enrol(
    session: Session,
    config: Config,
    caller: Caller,
    *,
    site_id: str,
    applicant: Applicant,
    output: Path,
    now: datetime,
    force: bool = False,
) -> Enrolment:
    """Admit a router that cannot be reached, and write what it needs to ``output`` (mode 0600).

    The file is written last, so when writing fails and the session is rolled back, the old router still counts. It
    gets its name when the session commits: a bundle whose certificate is not in the registry would connect and could
    not be revoked.
    Raises what admit does, and InputError: ``output`` exists (without ``force``) or cannot be written.
    """
    site = sites.get(session, caller, site_id)
    require_enrollable(site)
    _require_writable(output, force=force)
    made = admit(session, config, caller, site_id=site_id, applicant=applicant, now=now)
    session.flush()
    pending = output.with_name(f".{output.name}.pending")
    members = [(name, content) for name, content in made.files.items() if name != CONFIGURATION]
    try:
        write_durably(pending, pack(describe(config, site), members, now=now))
    except OSError as error:
        raise InputError("pki.output-unwritable", path=str(output), reason=str(error.strerror)) from None
    _name_on_commit(session, pending, output)
    fingerprint = made.certificate.fingerprint(hashes.SHA256()).hex()
    return Enrolment(site.id, output, fingerprint, made.certificate.not_valid_after_utc, made.replaced)


def site_leaf(site: Site) -> Leaf:
    """What a site's certificate says, by the registry alone."""
    return Leaf(common_name=site.id, dns_names=(site.id,), usages=(CLIENT_AUTH,), blocks=(site.overlay,))


def files(session: Session, config: Config, site: Site, certificate: x509.Certificate) -> dict[str, bytes]:
    """All that a router with this certificate needs, by name. Raises ConfigurationError: something is missing."""
    tenant_authority = issuing.load_authority_certificate(session, issuing.tenant_authority_name(site.tenant_id))
    return {
        CONFIGURATION: document_text(describe(config, site)).encode(),
        "site.crt": _pem(certificate),
        "tenant-authority.crt": _pem(tenant_authority),
        "cloud-authority.crt": _pem(issuing.load_authority_certificate(session, issuing.CLOUD)),
        "root.crt": _pem(issuing.load_authority_certificate(session, issuing.ROOT)),
        "authorized_keys": _operator_public_key(KeyStore.of(config)),
        **_console_key(KeyStore.of(config)),
    }


def _name_on_commit(session: Session, pending: Path, output: Path) -> None:
    def tidy(_session: Session, ended: SessionTransaction) -> None:
        if ended.parent is None:  # closing a session rolls back without an event of its own
            pending.unlink(missing_ok=True)

    event.listen(session, "after_commit", lambda _: rename_durably(pending, output), once=True)
    event.listen(session, "after_transaction_end", tidy)


def prepare_tenant(session: Session, config: Config, caller: Caller, *, tenant_id: str, now: datetime) -> None:
    """Make a new tenant's authority, so that gateways know it before the first site connects. Repeating it is fine.

    Raises InputError: unknown tenant. ConfigurationError: PKI not initialised, a key missing or damaged.
    """
    tenant = tenants.get(session, caller, tenant_id)
    issuing.ensure_tenant_authority(session, KeyStore.of(config), tenant=tenant, now=now)


def describe(config: Config, site: Site) -> Description:
    """The open part of a site's bundle."""
    return Description(
        site=site.id,
        tenant=site.tenant_id,
        overlay=site.overlay,
        lan=site.lan,
        gateways=config.gateway.public_addresses,
        gateway_identity=GATEWAY_IDENTITY,
        service_address=config.gateway.service_address,
        reachable=config.gateway.overlay,
        endpoints=endpoints(config),
        endpoint_name=ENDPOINT_NAME,
        heartbeat_s=config.web.heartbeat_wired_s,
    )


def endpoints(config: Config) -> tuple[Endpoint, ...]:
    """Where routers find the agents' endpoint."""
    found = [
        Endpoint(address, listen.port, in_tunnel=address == config.gateway.service_address)
        for listen in config.web.listen
        for address in endpoint_addresses(config)
        if listen.address.is_unspecified or listen.address == address
    ]
    return tuple(dict.fromkeys(found))


def reached_from_outside(config: Config) -> bool:
    """Whether a router without a tunnel finds the agents' endpoint."""
    return any(not place.in_tunnel for place in endpoints(config))


def require_enrollable(site: Site) -> None:
    """Raises RefusedError: the site is revoked or retired."""
    if site.revoked_at is not None:
        raise RefusedError("pki.site-revoked", site=site.id, since=site.revoked_at.isoformat(timespec="seconds"))
    if site.phase == sites.Phase.RETIRED.value:
        raise RefusedError("pki.site-retired", site=site.id)


def _require_writable(output: Path, *, force: bool) -> None:
    if output.exists() and not force:
        raise InputError("pki.output-exists", path=str(output))
    if output.is_dir():
        raise InputError("pki.output-unwritable", path=str(output), reason=os.strerror(errno.EISDIR))


def _operator_public_key(store: KeyStore) -> bytes:
    path = store.operator_key_path()
    public = path.with_name(f"{path.name}.pub")
    try:
        return public.read_bytes()
    except OSError:
        raise ConfigurationError("pki.key-missing", path=str(public)) from None


def _console_key(store: KeyStore) -> dict[str, bytes]:
    """Nothing on an installation of before: routers get it with an answer once there is one."""
    public = console_key.published(store)
    return {} if public is None else {"console.pub": public.encode()}


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
