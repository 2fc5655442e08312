"""Enrolment: a site's certificate, device id and SSH host key, written as one file for its router."""

import errno
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from cloudside.config import Config
from cloudside.errors import ConfigurationError, InputError, RefusedError
from cloudside.pki import issuing, revocation
from cloudside.pki.authority import CLIENT_AUTH, Leaf
from cloudside.pki.bundle import Description, Endpoint, pack
from cloudside.pki.initialise import ENDPOINT_NAME, GATEWAY_IDENTITY, endpoint_addresses
from cloudside.pki.ssh_keys import make_pair
from cloudside.pki.store import KeyStore, key_to_pem
from cloudside.registry import routers, sites, tenants
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.tables import Site
from linux.files import rename_durably, write_durably

#: Random bytes in a device id; written as twice as many hexadecimal digits.
DEVICE_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What came of it. ``fingerprint`` is the certificate's SHA-256; ``replaced``: certificates that were revoked."""

    site: str
    path: Path
    fingerprint: str
    not_after: datetime
    replaced: int


def enrol(
    session: Session,
    config: Config,
    caller: Caller,
    *,
    site_id: str,
    output: Path,
    now: datetime,
    force: bool = False,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> Enrolment:
    """Issue what the site's router needs and write it to ``output`` (mode 0600). The session must be a writing one.

    A router enrolled before is shut out: its certificates are revoked, its device id forgotten. The file is written
    last, so when writing fails and the session is rolled back, the old router still counts. It gets its name when the
    session commits: a bundle whose certificate is not in the registry would connect and could not be revoked.

    Raises InputError: unknown site; ``output`` exists (without ``force``) or cannot be written. RefusedError: the site
    is revoked or retired. ConfigurationError: no public address, PKI not initialised, a key missing or damaged.
    """
    site = sites.get(session, caller, site_id)
    _require_enrollable(site, output, force=force)
    if not config.gateway.public_addresses:
        raise ConfigurationError("pki.no-public-address", gateway=config.gateway.name)
    store = KeyStore(config.state_directory)
    root = issuing.load_authority_certificate(session, issuing.ROOT)
    cloud = issuing.load_authority_certificate(session, issuing.CLOUD)
    operator_key = _operator_public_key(store)
    tenant = tenants.get(session, OPERATOR, site.tenant_id)
    authority = issuing.ensure_tenant_authority(session, store, tenant=tenant, now=now)
    replaced = revocation.revoke_certificates(session, store, site=site, now=now)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = Leaf(common_name=site.id, dns_names=(site.id,), usages=(CLIENT_AUTH,), blocks=(site.overlay,))
    certificate = issuing.issue(session, authority, leaf, kind="site", key=key.public_key(), now=now)
    device_id = random_bytes(DEVICE_ID_BYTES).hex()
    host_key = make_pair(site.id)
    routers.enrol(session, caller, site_id=site.id, device_id=device_id, ssh_host_key=host_key.public, now=now)
    files = [
        ("site.key", key_to_pem(key)),
        ("site.crt", _pem(certificate)),
        ("tenant-authority.crt", _pem(authority.certificate)),
        ("cloud-authority.crt", _pem(cloud)),
        ("root.crt", _pem(root)),
        ("device_id", f"{device_id}\n".encode()),
        ("ssh_host_ed25519_key", host_key.private),
        ("ssh_host_ed25519_key.pub", f"{host_key.public}\n".encode()),
        ("authorized_keys", operator_key),
    ]
    session.flush()
    pending = output.with_name(f".{output.name}.pending")
    try:
        write_durably(pending, pack(describe(config, site), files, now=now))
    except OSError as error:
        raise InputError("pki.output-unwritable", path=str(output), reason=str(error.strerror)) from None
    _name_on_commit(session, pending, output)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Enrolment(site.id, output, fingerprint, certificate.not_valid_after_utc, replaced)


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
    issuing.ensure_tenant_authority(session, KeyStore(config.state_directory), tenant=tenant, now=now)


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
        endpoints=_endpoints(config),
        endpoint_name=ENDPOINT_NAME,
        heartbeat_s=config.web.heartbeat_wired_s,
    )


def _endpoints(config: Config) -> tuple[Endpoint, ...]:
    found = [
        Endpoint(address, listen.port, in_tunnel=address == config.gateway.service_address)
        for listen in config.web.listen
        for address in endpoint_addresses(config)
        if listen.address.is_unspecified or listen.address == address
    ]
    return tuple(dict.fromkeys(found))


def _require_enrollable(site: Site, output: Path, *, force: bool) -> None:
    if site.revoked_at is not None:
        raise RefusedError("pki.site-revoked", site=site.id, since=site.revoked_at.isoformat(timespec="seconds"))
    if site.phase == sites.Phase.RETIRED.value:
        raise RefusedError("pki.site-retired", site=site.id)
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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
