"""A relay's directory: configuration, registry, certificates. Its sites live on loopback.

Site ``tokyo-1`` sends from 127.0.1.0/24. Mail of ``osaka-1``, 127.0.2.0/24, is taken and held.
"""

import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudside import config
from cloudside.pki import initialise
from cloudside.registry.database import Database
from cloudside.registry.tables import MailHold, Site, Tenant
from lab.mail_proof.traffic import SENDER_DOMAIN

SOURCE = "127.0.1.20"
HELD_SOURCE = "127.0.2.20"
STAFF = f"staff@{SENDER_DOMAIN}"
_HOUR_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """What a relay is started with, and where it listens for sites."""

    configuration: Path
    port: int

    def with_processes(self, count: int) -> Path:
        """The same configuration with so many processes that take mail."""
        path = self.configuration.with_name(f"{self.configuration.stem}-{count}.toml")
        if not path.exists():
            text = self.configuration.read_text()
            path.write_text(text.replace("[relay]\n", f"[relay]\nintake_processes = {count}\n"))
        return path

    @property
    def config(self) -> config.Config:
        """As the relay reads it."""
        return config.load(self.configuration)


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, for the smarthost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "smarthost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "smarthost.pem", directory / "smarthost.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def lay_out(
    directory: Path, *, smarthost_port: int, authority: Path, queue_directory: Path, **relay: str | float
) -> Place:
    """Fill ``directory``; ``relay`` are further settings of the relay."""
    state = directory / "state"
    state.mkdir(mode=0o700)
    credentials = directory / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text("AKIAEXAMPLE\nnot-a-secret\n")
    place = Place(directory / "kyoten.toml", free_port())
    settings: Mapping[str, str | float] = {
        "host_name": "relay.test",
        "bounce_domain": "bounces.test",
        "smarthost": "127.0.0.1",
        "smarthost_port": smarthost_port,
        "smarthost_credentials": str(credentials),
        "smarthost_ca": str(authority),
        "queue_directory": str(queue_directory),
        "rate_per_minute": _HOUR_MAX,
        "hourly_limit_per_site": _HOUR_MAX,
        "daily_limit_per_site": _HOUR_MAX,
        **relay,
    }
    listeners = {"site": place.port, "submission": free_port(), "tls": free_port()}
    place.configuration.write_text(
        "\n".join(
            [
                f'state_directory = "{state}"',
                f'runtime_directory = "{directory / "run"}"',
                "[relay]",
                *(f'{name}_listen = {{ address = "127.0.0.1", port = {port} }}' for name, port in listeners.items()),
                *(f"{name} = {_toml(value)}" for name, value in settings.items()),
                "[alerts]",
                f'staff = ["{STAFF}"]',
                f'sender = "kyoten@{SENDER_DOMAIN}"',
                "",
            ]
        )
    )
    _fill_registry(place.config)
    return place


def _toml(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _fill_registry(wanted: config.Config) -> None:
    now = datetime.now(UTC)
    with closing(Database(wanted.registry_url)) as database:
        database.migrate()
        with database.write() as session:
            initialise.initialise(session, wanted, now=now)
            session.add(Tenant(id="acme", block=ip_network("127.0.0.0/16"), created_at=now))
            session.flush()
            for name, prefix in (("tokyo-1", "127.0.1.0/24"), ("osaka-1", "127.0.2.0/24")):
                net = ip_network(prefix)
                session.add(Site(id=name, tenant_id="acme", overlay=net, lan=net, created_at=now))
            session.flush()
            session.add(
                MailHold(scope="site", name="osaka-1", tenant_id="acme", reason="the rig", author="rig", since=now)
            )
