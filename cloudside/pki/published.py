"""What daemons load: a gateway into charon, the agents' endpoint into TLS. Private keys come from the store."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import ConfigurationError
from cloudside.pki import issuing
from cloudside.pki.initialise import ENDPOINT, gateway_file
from cloudside.pki.store import KeyStore, key_to_pem
from cloudside.registry import certificates
from cloudside.registry.tables import Certificate


@dataclass(frozen=True, slots=True)
class GatewayCredentials:
    """Everything one gateway needs to prove itself and to judge its peers. PEM texts; lists are DER."""

    private_key: str = field(repr=False)
    certificate: str
    root: str
    #: The cloud's and all tenants' authorities.
    authorities: tuple[str, ...]
    revocation_lists: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EndpointFiles:
    """Paths for a TLS server: its key, its certificate with the cloud authority, and the root that clients chain to."""

    key: Path
    chain: Path
    root: Path


def load_gateway(session: Session, config: Config, *, now: datetime) -> GatewayCredentials:
    """This gateway's credentials.

    Raises ConfigurationError: not initialised, key missing or not the certificate's, certificate expired.
    """
    name = config.gateway.name
    store = KeyStore.of(config)
    record = certificates.current(session, authority=issuing.CLOUD, kind="gateway", subject=name)
    root = certificates.current(session, authority=issuing.ROOT, kind="root", subject=issuing.ROOT)
    if record is None or root is None:
        raise ConfigurationError("pki.not-initialised", authority=name)
    if record.not_after <= now:
        raise ConfigurationError("pki.expired", subject=name, since=record.not_after.isoformat(timespec="seconds"))
    key = store.read_key(gateway_file(name))
    if key.public_key() != issuing.parse(record).public_key():
        path = store.key_path(gateway_file(name))
        raise ConfigurationError("pki.key-mismatch", path=str(path), authority=name)
    query = select(Certificate).where(Certificate.kind == "authority", Certificate.revoked_at.is_(None))
    return GatewayCredentials(
        private_key=key_to_pem(key).decode(),
        certificate=record.pem,
        root=root.pem,
        authorities=tuple(found.pem for found in session.scalars(query.order_by(Certificate.subject))),
        revocation_lists=tuple(kept.der for kept in certificates.revocation_lists(session)),
    )


def endpoint_files(config: Config) -> EndpointFiles:
    """The endpoint's files. Raises ConfigurationError: not initialised, a key missing, open to others or damaged."""
    store = KeyStore.of(config)
    store.read_key(ENDPOINT)
    files = EndpointFiles(
        store.key_path(ENDPOINT), store.certificate_path(ENDPOINT), store.certificate_path(issuing.ROOT)
    )
    for path in (files.chain, files.root):
        try:
            x509.load_pem_x509_certificates(path.read_bytes())
        except FileNotFoundError:
            raise ConfigurationError("pki.not-initialised", authority=path.stem) from None
        except (OSError, ValueError):
            raise ConfigurationError("pki.certificate-damaged", path=str(path)) from None
    return files
