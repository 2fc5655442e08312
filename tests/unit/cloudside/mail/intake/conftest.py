"""The listeners on loopback, in front of a queue that only remembers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from cloudside.config import Config, Listen, Registry, Relay
from cloudside.mail.intake.assembly import Intake, intake
from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.doors import Door
from cloudside.mail.model import NewMessage, Receipt, Spilled
from cloudside.mail.store.engine import StorageFullError
from cloudside.mail.watch.sightings import Sightings
from cloudside.registry.database import Database

DEVICE = "127.0.1.20"
HELLO = b"EHLO plc\r\n"
ENVELOPE = b"MAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\n"


@dataclass
class Shelf:
    """A queue as the listeners know it. ``error`` is raised instead of taking; ``slow`` is waited for."""

    taken: list[NewMessage] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    error: Exception | None = None
    slow: asyncio.Event | None = None
    full: bool = False
    held: str = ""

    def require_space(self, size_bytes: int) -> None:
        if self.full:
            raise StorageFullError("mail.disk-full", path="x")

    async def accept(self, new: NewMessage) -> Receipt:
        if self.slow is not None:
            await self.slow.wait()
        if isinstance(new.body, Spilled):
            body = new.body.path.read_bytes()
            assert len(body) == new.body.size
            new.body.path.unlink()
        else:
            body = new.body
        if self.error is not None:
            raise self.error
        self.taken.append(new)
        self.bodies.append(body)
        return Receipt(taken=True, held=new.held or self.held, hour_count=1)


@dataclass
class Client:
    """A client that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def reply(self, timeout_s: float = 20.0) -> str:
        """One whole reply; empty: the relay hung up."""
        lines = []
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    line = (await self.reader.readline()).decode("ascii")
                except ConnectionError:
                    line = ""
                lines.append(line)
                if line[3:4] != "-":
                    return "".join(lines)

    async def say(self, command: bytes | str) -> str:
        """A command and its reply."""
        self.send(command)
        return await self.reply()

    def send(self, data: bytes | str) -> None:
        """A line, if it is text; else octets."""
        self.writer.write(data if isinstance(data, bytes) else data.encode() + b"\r\n")

    async def greeted(self) -> "Client":
        """Up to the reply to EHLO."""
        assert (await self.reply()).startswith("220")
        assert (await self.say("EHLO plc")).startswith("250")
        return self

    async def in_data(self) -> "Client":
        """Up to the 354 that asks for a mail."""
        await self.greeted()
        for command, code in (("MAIL FROM:<plc@site.test>", "250"), ("RCPT TO:<ops@customer.test>", "250")):
            assert (await self.say(command)).startswith(code)
        assert (await self.say("DATA")).startswith("354")
        return self

    async def start_tls(self, context: ssl.SSLContext) -> None:
        assert (await self.say("STARTTLS")).startswith("220")
        await self.writer.start_tls(context)

    async def rest(self, timeout_s: float = 20.0) -> str:
        """Everything until the relay hangs up."""
        async with asyncio.timeout(timeout_s):
            try:
                return (await self.reader.read()).decode("ascii")
            except ConnectionError:
                return ""


@dataclass
class Desk:
    """Running listeners."""

    intake: Intake
    shelf: Shelf
    directory: Directory
    database: Database
    sightings: Sightings
    config: Config
    certificate: Path
    ports: dict[str, int]
    clients: list[Client] = field(default_factory=list)

    async def connect(self, door: str = "site", source: str = DEVICE, tls: ssl.SSLContext | None = None) -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.ports[door], local_addr=(source, 0), ssl=tls, limit=2**22
        )
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    def trust(self) -> ssl.SSLContext:
        """A client that believes our certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        return context

    async def submit(self, user: str = "plc") -> Client:
        """A client with TLS on the submission port."""
        client = await (await self.connect("submission")).greeted()
        await client.start_tls(self.trust())
        await client.say("EHLO plc")
        return client


Open = Callable[..., "asynccontextmanager[Desk]"]


@pytest.fixture
def desk(tmp_path: Path, registry: Database, certificate) -> Open:
    """Opens the listeners with settings of the relay changed: ``async with desk(recipients_max=2) as open_desk``."""

    @asynccontextmanager
    async def opened(idle_s: float = 30.0, **relay: object) -> AsyncIterator[Desk]:
        loopback = Listen(address=ip_address("127.0.0.1"), port=1)
        config = Config(
            state_directory=tmp_path,
            registry=Registry(url=f"sqlite:///{tmp_path / 'registry.sqlite'}"),
            relay=Relay(
                site_listen=loopback, submission_listen=loopback, tls_listen=loopback, host_name="relay.test",
                bounce_domain="bounces.test", **{"max_message_bytes": 100_000, **relay},
            ),
        )  # fmt: skip
        shelf, directory, sightings = Shelf(), Directory(registry), Sightings()
        await asyncio.to_thread(directory.refresh)
        made = intake(
            config, shelf, directory, lambda: None, certificate=(certificate.certificate, certificate.key),
            sightings=sightings, idle_s=idle_s,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        doors: dict[str, Door] = {"site": made.site, "submission": made.submission, "tls": made.tls}
        servers = {name: await loop.create_server(door.connection, "127.0.0.1", 0) for name, door in doors.items()}
        ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
        found = Desk(made, shelf, directory, registry, sightings, config, certificate.certificate, ports)
        try:
            yield found
        finally:
            for client in found.clients:
                client.writer.close()
            for server in servers.values():
                server.close()
            for door in doors.values():
                for connection in tuple(door.connections):
                    connection.abort()
            async with asyncio.timeout(20):
                while any(door.connections for door in doors.values()):
                    await asyncio.sleep(0.005)
            made.close()
        assert made.memory.used == 0
        assert all(door.gate.open == 0 for door in doors.values())
        assert not list((tmp_path / "mail" / "incoming").glob("*"))

    return opened
