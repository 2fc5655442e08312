"""Firmware from the real endpoint: ranges as RFC 9110 has them, nobody else's files, the router's own client."""

import asyncio
import hashlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from fleet_cloud import Cloud, Endpoint, Enrolled
from starlette.types import Message

from cloudside.fleet import payloads
from cloudside.fleet.payloads import Directory, Paces, parse_range
from firmware import chunks
from firmware.release import File
from router_agent.bundle import Endpoint as Place
from router_agent.errors import CloudRefusedError
from router_agent.update.client import FirmwareClient
from router_agent.update.fetch import fetch

CONTENT = random.Random(4).randbytes(300_000)
NAME = hashlib.sha256(CONTENT).hexdigest() + ".zst"
PATH = f"/firmware/v1/payload/{NAME}"


@pytest.fixture
def published(cloud: Cloud) -> Path:
    place = cloud.config.firmware_directory
    for kind in ("payload", "metadata", "targets/releases/generic-x86-64"):
        (place / kind).mkdir(parents=True)
    (place / "payload" / NAME).write_bytes(CONTENT)
    (place / "metadata" / "timestamp.json").write_text("{}")
    (place / "targets" / "releases" / "generic-x86-64" / "abc.1.0.json").write_text('{"release":1}')
    (place / "secret.json").write_text("not to be served")
    return place


async def ask(endpoint: Endpoint, router: Enrolled, path: str, *lines: str, method: str = "GET") -> tuple[str, bytes]:
    """Head and body of an answer, as they came over the wire, up to the end of the connection."""
    context = endpoint_context(endpoint, router)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", endpoint.port, ssl=context, server_hostname="agent.kyoten"
    )
    head = [f"{method} {path} HTTP/1.1", "Host: agent.kyoten", "Connection: close", *lines]
    if router.device_id:
        head.append(f"Authorization: KyotenDevice {router.device_id}")
    writer.write("\r\n".join([*head, "", ""]).encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.transport.abort()
    text, _, body = answer.partition(b"\r\n\r\n")
    return text.decode().lower(), body


def endpoint_context(endpoint: Endpoint, router: Enrolled) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(endpoint.root))
    context.load_cert_chain(router.directory / "chain.crt", router.directory / "site.key")
    return context


@pytest.mark.usefixtures("published")
async def test_a_whole_file_with_its_length_and_tag(endpoint: Endpoint, tokyo: Enrolled) -> None:
    head, body = await ask(endpoint, tokyo, PATH)
    assert head.startswith("http/1.1 200")
    assert body == CONTENT
    for line in ("content-length: 300000", "accept-ranges: bytes", 'etag: "'):
        assert line in head
    bare, nothing = await ask(endpoint, tokyo, PATH, "Range: bytes=0-9", method="HEAD")
    assert (bare.startswith("http/1.1 200"), "content-length: 300000" in bare, nothing) == (True, True, b"")


RANGES = [("0-0", 0, 1), ("100-199", 100, 200), ("299990-", 299_990, 300_000), ("-10", 299_990, 300_000),
          ("0-99999999", 0, 300_000), ("-99999999", 0, 300_000)]  # fmt: skip


@pytest.mark.usefixtures("published")
async def test_ranges(endpoint: Endpoint, tokyo: Enrolled) -> None:
    for asked, start, end in RANGES:
        head, body = await ask(endpoint, tokyo, PATH, f"Range: bytes={asked}")
        assert head.startswith("http/1.1 206"), asked
        assert f"content-range: bytes {start}-{end - 1}/300000" in head
        assert f"content-length: {end - start}" in head
        assert body == CONTENT[start:end]
    for asked in ("300000-", "300000-300001", "-0"):
        head, _ = await ask(endpoint, tokyo, PATH, f"Range: bytes={asked}")
        assert head.startswith("http/1.1 416"), asked
        assert "content-range: bytes */300000" in head


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=-", "bytes=9-8", "bytes=0-1,5-6", "lines=0-1", "bytes=x-", "bytes=1-2-3"]
)
def test_a_range_that_need_not_be_obeyed_is_not(header: str | None) -> None:
    assert parse_range(header, 100) is None
    assert parse_range("bytes = 1 - 2", 100) == (1, 3)


@pytest.mark.usefixtures("published")
async def test_tags(endpoint: Endpoint, tokyo: Enrolled) -> None:
    head, _ = await ask(endpoint, tokyo, PATH)
    (tag,) = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("etag")]
    unchanged, body = await ask(endpoint, tokyo, PATH, f'If-None-Match: "other", W/{tag}')
    assert (unchanged.startswith("http/1.1 304"), body) == (True, b"")
    partial, _ = await ask(endpoint, tokyo, PATH, f"If-Range: {tag}", "Range: bytes=0-9")
    assert partial.startswith("http/1.1 206")
    changed, whole = await ask(endpoint, tokyo, PATH, 'If-Range: "other"', "Range: bytes=0-9")
    assert (changed.startswith("http/1.1 200"), whole) == (True, CONTENT)


UNPUBLISHED = [
    "payload/../secret.json", "payload/%2e%2e/secret.json", "payload/..%2fsecret.json", "metadata/../../secret.json",
    "targets/../secret.json", "targets/releases/../../../secret.json", "targets//etc/passwd", "targets/.hidden.json",
    "metadata/%00.json", "metadata/link.json", "targets/out/secret.json", "payload/secret.json", "other/secret.json",
    "payload/", "targets/releases", f"payload/{'0' * 64}.zst", f"payload/{'f' * 3000}",
]  # fmt: skip


async def test_what_was_not_published_is_not_there(endpoint: Endpoint, tokyo: Enrolled, published: Path) -> None:
    (published / "metadata" / "link.json").symlink_to(published / "secret.json")
    (published / "targets" / "out").symlink_to(published)
    (published / "targets" / ".hidden.json").write_text("not to be served")
    for path in UNPUBLISHED:
        head, body = await ask(endpoint, tokyo, f"/firmware/v1/{path}")
        assert head.startswith("http/1.1 404"), path
        assert b"not to be served" not in body


@pytest.mark.usefixtures("published")
async def test_strangers_get_nothing(endpoint: Endpoint, tokyo: Enrolled) -> None:
    for device_id, status in (("", 401), ("f" * 64, 403)):
        stranger = Enrolled(tokyo.site, tokyo.directory, device_id)
        head, body = await ask(endpoint, stranger, PATH)
        assert head.startswith(f"http/1.1 {status}")
        assert CONTENT[:100] not in body


def test_a_file_that_is_replaced_while_it_is_sent_ends_the_answer(published: Path) -> None:
    store = Directory(published)
    stored = store.look("metadata", "timestamp.json")
    assert stored is not None
    (published / "metadata" / "new").write_text('{"newer": 1}')
    (published / "metadata" / "new").rename(published / "metadata" / "timestamp.json")
    with pytest.raises(OSError, match="replaced"):
        next(store.read(stored, 0, stored.size))


async def stream(pieces: AsyncIterator[bytes], send: Callable[[Message], Awaitable[None]]) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    await payloads._Patient(pieces)({"type": "http"}, receive, send)


async def test_a_router_that_takes_nothing_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "STALL_S", 0.05)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        if len(sent) == 2:
            await asyncio.Event().wait()
        sent.append(message)

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    async with asyncio.timeout(10):
        await stream(pieces(), send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"], "an answer that is not whole must not look whole"


async def test_a_file_that_cannot_be_read_to_its_end_never_looks_whole() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        raise OSError("replaced meanwhile")

    await stream(pieces(), send)
    assert sent[-1]["more_body"]


def test_each_site_has_its_own_pace() -> None:
    paces = Paces(1000)
    assert paces.wait_s("tokyo-1", 1000, 50.0) == 0.0
    assert paces.wait_s("tokyo-1", 1000, 50.0) == 1.0
    assert paces.wait_s("kobe-1", 1000, 50.0) == 0.0
    assert paces.wait_s("tokyo-1", 500, 60.0) == 0.0
    assert Paces(0).wait_s("tokyo-1", 10**9, 50.0) == 0.0
    for number in range(payloads.SITES_MAX + 10):
        paces.wait_s(f"site-{number}", 1, 70.0)
    assert len(paces._free_at) == payloads.SITES_MAX


def client(endpoint: Endpoint, router: Enrolled) -> FirmwareClient:
    places = (Place("127.0.0.1", 1, False), Place("127.0.0.1", endpoint.port, True))
    return FirmwareClient(
        endpoint_context(endpoint, router),
        name="agent.kyoten",
        device_id=router.device_id,
        source="127.0.0.1",
        endpoints=places,
    )


async def test_the_router_fetches_from_the_real_endpoint(
    endpoint: Endpoint, tokyo: Enrolled, published: Path, tmp_path: Path
) -> None:
    described = chunks.describe(published / "payload" / NAME, suffix=".zst", chunk_bytes=65536)
    line = client(endpoint, tokyo)
    whole = await asyncio.to_thread(
        lambda: fetch(
            described, line, tmp_path / "update", now=time.monotonic, sleep=time.sleep, report=lambda _progress: None
        )
    )
    assert whole.is_complete
    assert (tmp_path / "update" / "payload" / NAME).read_bytes() == CONTENT
    document = await asyncio.to_thread(lambda: b"".join(line.open("targets", "releases/generic-x86-64/abc.1.0.json")))
    assert document == b'{"release":1}'
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(lambda: list(line.open("metadata", "7.root.json")))
    absent = File("0" * 64, 10, "0" * 64, 4096, ("0" * 64,))
    with pytest.raises(CloudRefusedError) as missing:
        await asyncio.to_thread(lambda: list(line.ranged(absent.name, 0, 10, 10)))
    assert missing.value.key == "agent.update-payload-missing"
    line.close()
