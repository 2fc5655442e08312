"""Signs with the stored keys and records in the registry. A certificate that is not in the registry does not exist.

Authorities are named ``root``, ``cloud`` and ``tenant-<tenant>``; their keys have the same names in the store.
"""

import secrets
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from cloudside.errors import ConfigurationError
from cloudside.pki import authority, revocation_lists
from cloudside.pki.authority import Authority, Leaf, Network
from cloudside.pki.store import ROOT_KEY, KeyStore
from cloudside.registry import certificates
from cloudside.registry.tables import Certificate, Tenant

ROOT = ROOT_KEY
CLOUD = "cloud"

#: Positive and at most 20 octets (RFC 5280 section 4.1.2.2); more than 64 random bits.
_SERIAL_BITS = 127


def tenant_authority_name(tenant_id: str) -> str:
    """The name of a tenant's authority. The prefix keeps a tenant called "root" from being the root."""
    return f"tenant-{tenant_id}"


def new_serial() -> int:
    """A random serial number, never zero."""
    return secrets.randbits(_SERIAL_BITS) | (1 << _SERIAL_BITS)


def load_authority(session: Session, store: KeyStore, name: str) -> Authority:
    """An authority that can sign. Raises ConfigurationError: not made yet, key missing or not this certificate's."""
    certificate = load_authority_certificate(session, name)
    key = store.read_key(name)
    if key.public_key() != certificate.public_key():
        raise ConfigurationError("pki.key-mismatch", path=str(store.key_path(name)), authority=name)
    return Authority(name, certificate, key, store.public_url)


def load_authority_certificate(session: Session, name: str) -> x509.Certificate:
    """An authority's certificate, without its key. Raises ConfigurationError: not made yet."""
    found = find_authority_certificate(session, name)
    if found is None:
        raise ConfigurationError("pki.not-initialised", authority=name)
    return found


def find_authority_certificate(session: Session, name: str) -> x509.Certificate | None:
    """The same, None when it was not made yet."""
    kind = "root" if name == ROOT else "authority"
    record = certificates.current(session, authority=ROOT, kind=kind, subject=name)
    return None if record is None else parse(record)


def make_root(session: Session, store: KeyStore, *, now: datetime) -> Authority:
    """The root, with a first revocation list. Uses the key in the store when there is one already."""
    key = store.read_or_make_key(ROOT)
    made = authority.make_root(key, now=now, serial=new_serial())
    return take_in(session, store, Authority(ROOT, made, key, store.public_url), kind="root", now=now)


def make_authority(session: Session, store: KeyStore, *, name: str, block: Network, now: datetime) -> Authority:
    """An authority below the root, with a first revocation list."""
    root = load_authority(session, store, ROOT)
    key = store.read_or_make_key(name)
    made = authority.make_authority(root, name=name, block=block, key=key.public_key(), now=now, serial=new_serial())
    return take_in(session, store, Authority(name, made, key, store.public_url), kind="authority", now=now)


def ensure_tenant_authority(session: Session, store: KeyStore, *, tenant: Tenant, now: datetime) -> Authority:
    """A tenant's authority, holding the tenant's block; made when there is none.

    Raises ConfigurationError: no root yet, or a key is missing or damaged.
    """
    name = tenant_authority_name(tenant.id)
    if find_authority_certificate(session, name) is not None:
        return load_authority(session, store, name)
    return make_authority(session, store, name=name, block=tenant.block, now=now)


def issue(
    session: Session, issuer: Authority, leaf: Leaf, *, kind: str, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.Certificate:
    """Sign a certificate and record it. ``kind`` is site, gateway or server."""
    made = authority.make_leaf(issuer, leaf, key=key, now=now, serial=new_serial())
    record = _record(made, authority_name=issuer.name, kind=kind, subject=leaf.common_name)
    if kind == "site" and leaf.blocks:
        record.overlay = leaf.blocks[0]
    certificates.record(session, record)
    return made


def parse(record: Certificate) -> x509.Certificate:
    """The certificate in a record."""
    return x509.load_pem_x509_certificate(record.pem.encode())


def site_key(record: Certificate) -> ec.EllipticCurvePublicKey:
    """The key that a certificate of ours is for."""
    key = parse(record).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):  # pragma: no cover - nothing else is ever certified
        raise TypeError(f"certificate {record.serial} has no EC key")
    return key


def serial_text(serial: int) -> str:
    """A serial as the registry has it."""
    return f"{serial:x}"


def take_in(session: Session, store: KeyStore, made: Authority, *, kind: str = "authority", now: datetime) -> Authority:
    """An authority that was signed: record it, with its first revocation list, and publish it."""
    certificates.record(session, _record(made.certificate, authority_name=ROOT, kind=kind, subject=made.name))
    revocation_lists.renew(session, made, now=now)
    store.publish(made.name, (made.certificate,))
    return made


def _record(made: x509.Certificate, *, authority_name: str, kind: str, subject: str) -> Certificate:
    return Certificate(
        serial=serial_text(made.serial_number),
        authority=authority_name,
        kind=kind,
        subject=subject,
        pem=made.public_bytes(serialization.Encoding.PEM).decode(),
        not_before=made.not_valid_before_utc,
        not_after=made.not_valid_after_utc,
        revoked_at=None,
    )
