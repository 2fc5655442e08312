"""A relay on loopback with a smarthost that can be told how to answer. Sites live in 127.0.1.0/24 and 127.0.2.0/24."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import aiosmtplib
import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from argon2 import PasswordHasher
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudside.config import Alerts, Config, Listen, Registry, Relay
from cloudside.mail import service
from cloudside.registry.database import Database
from cloudside.registry.tables import Site, SmtpCredential, Table, Tenant

SITE_SOURCE = ("127.0.1.20", 0)
PASSWORD = "correct horse battery"


@dataclass
class Taken:
    """A mail as the smarthost got it."""

    sender: str
    recipient: str
    content: bytes


@dataclass
class Smarthost:
    """A smarthost with STARTTLS and AUTH. ``answers`` are used up one a transaction; then everything is taken.

    An answer "drop" closes the connection in the middle of the data.
    """

    port: int
    answers: list[str] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    #: RCPT answers by address.
    refused: dict[str, str] = field(default_factory=dict)
    password: str = "smarthost-password"
    transactions: int = 0
    logins: int = 0

    def authenticate(self, _server, _session, _envelope, _mechanism, data) -> AuthResult:
        self.logins += 1
        return AuthResult(success=data.password.decode() == self.password, handled=False)

    async def handle_MAIL(self, server, session, envelope, address, options):
        self.transactions += 1
        if self.answers and self.answers[0] != "drop":
            return self.answers.pop(0)
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if self.answers and self.answers[0] == "drop":
            self.answers.pop(0)
            server.transport.close()
            return "250 never seen"
        self.taken.append(Taken(envelope.mail_from, envelope.rcpt_tos[0], envelope.content))
        return "250 OK 0100-ses-id"

    async def wait(self, count: int, timeout_s: float = 5.0) -> list[Taken]:
        """The first ``count`` mails, when they are there."""
        async with asyncio.timeout(timeout_s):
            while len(self.taken) < count:
                await asyncio.sleep(0.005)
        return self.taken


@dataclass
class World:
    """A relay's surroundings: configuration, registry, smarthost, certificate."""

    config: Config
    smarthost: Smarthost
    database: Database
    tls: service.TlsFiles
    password: str = PASSWORD
    #: An address of the site tokyo-1.
    source: tuple[str, int] = SITE_SOURCE

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[None]:
        """A running relay."""
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(self.config, stop, tls=self.tls))
        try:
            await self.listening(self.config.relay.site_listen, task)
            await self.listening(self.config.relay.submission_listen, task)
            yield
        finally:
            stop.set()
            await task

    async def listening(self, listen: Listen, task: asyncio.Task[None] | None = None) -> None:
        async with asyncio.timeout(5):
            while True:
                if task is not None and task.done():
                    await task
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(str(listen.address), listen.port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)

    def client(self, source: tuple[str, int] = SITE_SOURCE) -> aiosmtplib.SMTP:
        """A site's device."""
        listen = self.config.relay.site_listen
        return aiosmtplib.SMTP(
            hostname=str(listen.address),
            port=listen.port,
            source_address=source,
            start_tls=False,
            timeout=10,
            local_hostname="plc",
        )

    def changed(self, **relay: object) -> "World":
        """The same with other settings of the relay."""
        config = self.config.model_copy(update={"relay": self.config.relay.model_copy(update=relay)})
        return World(config, self.smarthost, self.database, self.tls)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> service.TlsFiles:
    """A self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    files = service.TlsFiles(directory / "cert.pem", directory / "key.pem")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.fixture(scope="session")
def password_hash() -> str:
    return PasswordHasher().hash(PASSWORD)


@pytest.fixture
async def smarthost(certificate: service.TlsFiles) -> AsyncIterator[Smarthost]:
    host = Smarthost(free_port())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return SMTP(
            host, loop=loop, tls_context=context, require_starttls=True, authenticator=host.authenticate,
            auth_required=True, hostname="ses.invalid",
        )  # fmt: skip

    server = await loop.create_server(connection, "127.0.0.1", host.port)
    yield host
    server.close()


@pytest.fixture
def registry(tmp_path: Path, password_hash: str) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    Table.metadata.create_all(database.engine)
    now = datetime.now(UTC)
    with database.write() as session:
        session.add(Tenant(id="acme", block=ip_network("127.0.0.0/16"), created_at=now))
        session.flush()
        for site, prefix, revoked in (("tokyo-1", "127.0.1.0/24", None), ("osaka-1", "127.0.2.0/24", now)):
            session.add(
                Site(id=site, tenant_id="acme", overlay=ip_network(prefix), lan=ip_network(prefix), created_at=now,
                     revoked_at=revoked)
            )  # fmt: skip
        session.flush()
        session.add(SmtpCredential(user="plc", site_id="tokyo-1", password_hash=password_hash, created_at=now))
        session.add(SmtpCredential(user="old", site_id="osaka-1", password_hash=password_hash, created_at=now))
    yield database
    database.close()


@pytest.fixture
def world(tmp_path: Path, smarthost: Smarthost, registry: Database, certificate: service.TlsFiles) -> World:
    credentials = tmp_path / "smarthost.credentials"
    credentials.write_text(f"AKIAEXAMPLE\n{smarthost.password}\n")
    loopback = ip_address("127.0.0.1")
    config = Config(
        state_directory=tmp_path,
        runtime_directory=tmp_path / "run",
        registry=Registry(url=f"sqlite:///{tmp_path / 'registry.sqlite'}"),
        relay=Relay(
            site_listen=Listen(address=loopback, port=free_port()),
            submission_listen=Listen(address=loopback, port=free_port()),
            tls_listen=Listen(address=loopback, port=free_port()),
            bounce_listen=Listen(address=loopback, port=free_port()),
            bounce_domain="bounces.test",
            host_name="relay.test",
            smarthost="127.0.0.1",
            smarthost_port=smarthost.port,
            smarthost_credentials=credentials,
            smarthost_ca=certificate.certificate,
            max_message_bytes=100_000,
            retry_first_s=0.3,
            retry_later_s=0.3,
            give_up_s=60,
        ),
        alerts=Alerts(staff=("ops@kyoten.test",), sender="kyoten@kyoten.test"),
    )
    return World(config, smarthost, registry, certificate)


@pytest.fixture
def mail() -> Callable[..., bytes]:
    """A mail as a controller writes it."""

    def make(subject: str = "Fault 7", extra: str = "", body: str = "Pump 3 stopped.\r\n") -> bytes:
        return f"From: plc@site.test\r\nTo: ops@customer.test\r\nSubject: {subject}\r\n{extra}\r\n{body}".encode()

    return make
