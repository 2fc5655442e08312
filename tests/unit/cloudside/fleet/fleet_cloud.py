"""What the fleet's tests share: a cloud side on a temporary registry, a router's files, a router's way in."""

import asyncio
import io
import json
import socket
import ssl
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloudside import config as configuration
from cloudside.registry.database import Database
from lab import enrolled

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Enrolled:
    """What a router has: its files in a directory, and its device id."""

    site: str
    directory: Path
    device_id: str


@dataclass
class Cloud:
    """A configured, initialised cloud side."""

    config: configuration.Config
    database: Database
    #: The endpoint's clock.
    now: datetime = NOW

    def enrol(self, site: str, directory: Path, *, now: datetime = NOW) -> Enrolled:
        output = directory / f"{site}.tar"
        with self.database.write() as session:
            enrolled.enrol(session, self.config, site_id=site, output=output, now=now)
        unpacked = directory / f"{site}-{now.timestamp()}"
        unpacked.mkdir()
        with tarfile.open(fileobj=io.BytesIO(output.read_bytes())) as archive:
            for member in archive.getmembers():
                content = archive.extractfile(member)
                assert content is not None
                (unpacked / member.name).write_bytes(content.read())
        chain = (unpacked / "site.crt").read_bytes() + (unpacked / "tenant-authority.crt").read_bytes()
        (unpacked / "chain.crt").write_bytes(chain)
        return Enrolled(site, unpacked, (unpacked / "device_id").read_text().strip())


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Endpoint:
    """The endpoint under test, reached as a router reaches it."""

    port: int
    root: Path

    async def post(
        self,
        path: str,
        body: bytes | str,
        *,
        router: Enrolled | None,
        device_id: str | None = None,
        extra: str = "",
        headers_only: bool = False,
    ) -> Answer:
        """One request on a connection of its own. Raises ssl.SSLError or ConnectionError: TLS refused."""
        context = ssl.create_default_context(cafile=str(self.root))
        if router is not None:
            context.load_cert_chain(router.directory / "chain.crt", router.directory / "site.key")
            device_id = router.device_id if device_id is None else device_id
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="agent.kyoten"
        )
        try:
            content = body.encode() if isinstance(body, str) else body
            authorization = f"Authorization: KyotenDevice {device_id}\r\n" if device_id else ""
            length = "" if "Content-Length" in extra else f"Content-Length: {len(content)}\r\n"
            head = f"POST {path} HTTP/1.1\r\nHost: agent.kyoten\r\n{authorization}{length}{extra}\r\n"
            writer.write(head.encode() + (b"" if headers_only else content))
            await writer.drain()
            async with asyncio.timeout(5):
                header = await reader.readuntil(b"\r\n\r\n")
                lines = header.decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
                }
                answer = await reader.readexactly(int(headers.get("content-length", "0")))
            return Answer(int(lines[0].split()[1]), headers, answer)
        finally:
            writer.transport.abort()


def tls_refusal(server: ssl.SSLContext, root: Path, router: Enrolled | None) -> str:
    """Why the server's side of a handshake in memory refuses; empty: it does not. asyncio tells neither side."""
    client = ssl.create_default_context(cafile=str(root))
    if router is not None:
        client.load_cert_chain(router.directory / "chain.crt", router.directory / "site.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="agent.kyoten")
    for _ in range(5):
        with suppress(ssl.SSLWantReadError):
            theirs.do_handshake()
        try:
            ours.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as refused:
            return str(refused)
    return ""


async def until_listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.transport.abort()
        return
    raise AssertionError("the endpoint does not listen")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def heartbeat_document(site: str = "tokyo-1", **changes: Any) -> str:
    document: dict[str, Any] = {
        "protocol": 1,
        "site": site,
        "sent_at": "2026-11-21T09:00:00Z",
        "uplink": {"kind": "wired", "interface": "wan0", "address": "198.51.100.7"},
        "tunnel": {"up": True, "gateway": "203.0.113.2", "since_s": 12.5, "suite": "AES_GCM_16_256"},
        "load": {"load_1m": 0.1, "memory_available_mib": 80.0, "uptime_s": 3600.0, "agent_rss_mib": 31.0},
        "versions": {"agent": "0.1.0"},
        "settings": {"version": 0},
        "problems": [],
    }
    return json.dumps({**document, **changes})
