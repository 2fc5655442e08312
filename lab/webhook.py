"""A receiver for alarms over HTTPS, as a chat or paging service has one: keeps what it gets, answers as it is told.

``python -m lab.webhook --address A --port P --certificate FILE --key FILE --output FILE`` writes each post as one
line of JSON: ``{"headers": {...}, "body": "..."}``. It is a stand-in: one request a connection, HTTP/1.1 with
Content-Length.
"""

import argparse
import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

_BODY_MAX_BYTES = 1024 * 1024
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Post:
    """What was posted. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Webhook:
    """The receiver. ``answers`` are used up one a post, then it says 200; 0 is silence until the client gives up."""

    answers: list[int] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    taken: Callable[[Post], None] = lambda post: None

    @asynccontextmanager
    async def listening(self, address: str, port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
        """Listen; yields the port (a free one for 0)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = await asyncio.start_server(self._serve, address, port, ssl=context)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                post = await _read(reader)
                status = self.answers.pop(0) if self.answers else 200
                self.posts.append(post)
                if not status:
                    await reader.read()
                    return
                if 200 <= status < 300:
                    self.taken(post)
                writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            pass  # whoever does not speak HTTP is not answered
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Post:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    size = int(headers.get("content-length", "0"))
    if method != "POST" or size > _BODY_MAX_BYTES:
        raise ValueError(method)
    return Post(path, headers, await reader.readexactly(size))


async def _main(chosen: argparse.Namespace) -> None:
    with chosen.output.open("a", encoding="utf-8") as output:

        def write(post: Post) -> None:
            output.write(json.dumps({"headers": post.headers, "body": post.body.decode(errors="replace")}) + "\n")
            output.flush()

        webhook = Webhook(taken=write)
        async with webhook.listening(chosen.address, chosen.port, chosen.certificate, chosen.key):
            await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--certificate", "--key", "--output"):
        parser.add_argument(name, type=Path, required=True)
    sys.exit(asyncio.run(_main(parser.parse_args())))
