"""Firmware for routers over HTTP: metadata, documents and payloads, whole or in ranges (RFC 9110 section 14).

Nothing secret and nothing to be believed: what is served is signed, and routers check it. Who asks is known all the
same, as for heartbeats, so that strangers cost nothing. Files are never held in memory; a site gets at most its rate,
and a router that no longer takes what it asked for is let go of.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send

from cloudside.errors import KyotenError
from cloudside.fleet.documents import problem_response
from cloudside.fleet.identity import Speaker

KINDS = ("metadata", "targets", "payload")

PIECE_BYTES = 64 * 1024
#: Seconds that a router may take for a piece. The slowest line that we serve takes 10 for it.
STALL_S = 60.0
#: Reads from storage at once.
READERS = 4
#: Sites whose pace is remembered; those that asked for nothing lately are forgotten first.
SITES_MAX = 4096

#: Every part begins with a letter or digit: no `..`, no hidden file, nothing empty.
_PART = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}"
_NAMES = {
    "metadata": re.compile(rf"{_PART}\.json", re.ASCII),
    "targets": re.compile(rf"({_PART}/){{0,4}}{_PART}", re.ASCII),
    "payload": re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,8})?", re.ASCII),
}
_log = structlog.get_logger()
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is there. ``etag``: another one for every other content, a quoted string."""

    kind: str
    name: str
    size: int
    etag: str


class Store(Protocol):
    """Where published firmware is: a directory, or an S3-compatible store. May wait; is called in threads."""

    def look(self, kind: str, name: str) -> Stored | None:
        """What there is under a name that is well formed; None: nothing. Raises OSError."""
        ...

    def read(self, stored: Stored, start: int, end: int) -> Iterator[bytes]:
        """Bytes ``start`` up to and without ``end``, in pieces. Raises OSError: changed meanwhile, or unreadable."""
        ...


class Directory:
    """Published files below ``root``: ``metadata/``, ``targets/``, ``payload/``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def look(self, kind: str, name: str) -> Stored | None:
        try:
            path = self._path(kind, name)
            return self._stored(kind, name, path) if path is not None and path.is_file() else None
        except FileNotFoundError:
            return None

    def read(self, stored: Stored, start: int, end: int) -> Iterator[bytes]:
        path = self._path(stored.kind, stored.name)
        if path is None:
            raise FileNotFoundError(stored.name)
        with path.open("rb") as stream:
            if self._stored(stored.kind, stored.name, path) != stored:
                raise OSError("replaced meanwhile")
            stream.seek(start)
            while start < end:
                piece = stream.read(min(PIECE_BYTES, end - start))
                if not piece:
                    raise OSError("shorter than it was")
                start += len(piece)
                yield piece

    def _path(self, kind: str, name: str) -> Path | None:
        """Where it is, links followed; None: a link leads out of the directory."""
        top = (self._root / kind).resolve()
        path = (top / name).resolve()
        return path if path.is_relative_to(top) else None

    @staticmethod
    def _stored(kind: str, name: str, path: Path) -> Stored:
        found = path.stat()
        return Stored(kind, name, found.st_size, f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"')


class _NoSuchError(KyotenError):
    http_status = 404


class Paces:
    """How fast each site may go, over all of its connections: ``rate_bytes_s``; 0: as fast as the line does."""

    def __init__(self, rate_bytes_s: float) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._free_at: dict[str, float] = {}

    def wait_s(self, site: str, length: int, now: float) -> float:
        """Seconds to wait before the next piece, if one of this length goes now; a second's worth may go ahead."""
        if self._rate_bytes_s <= 0:
            return 0.0
        free_at = max(self._free_at.pop(site, 0.0), now - 1.0) + length / self._rate_bytes_s
        self._free_at[site] = free_at
        while len(self._free_at) > SITES_MAX:
            del self._free_at[next(iter(self._free_at))]
        return max(0.0, free_at - now)


def add(
    app: FastAPI, store: Store, speaker: Callable[[Request], Awaitable[Speaker]], *, rate_bytes_s: float = 0.0
) -> None:
    """Add the paths to the agents' endpoint. ``speaker``: who asks; raises what the endpoint answers to strangers."""
    threads = ThreadPoolExecutor(READERS, thread_name_prefix="firmware")
    paces = Paces(rate_bytes_s)

    @app.api_route("/firmware/v1/{kind}/{name:path}", methods=["GET", "HEAD"])
    async def serve(request: Request, kind: str, name: str) -> Response:
        who = await speaker(request)
        stored = None
        if kind in KINDS and _NAMES[kind].fullmatch(name):
            stored = await asyncio.get_running_loop().run_in_executor(threads, store.look, kind, name)
        if stored is None:
            raise _NoSuchError("fleet.no-such-firmware", name=f"{kind}/{name}"[:120])
        headers = {"ETag": stored.etag, "Accept-Ranges": "bytes"}
        if _is_known(request.headers.get("if-none-match"), stored.etag):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        wanted = None
        if request.method == "GET" and request.headers.get("if-range", stored.etag) == stored.etag:
            wanted = parse_range(request.headers.get("range"), stored.size)
        if wanted is not None and wanted[0] >= wanted[1]:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            answer = problem_response(request.url.path, status, "fleet.no-such-range", {"size": stored.size})
            answer.headers["Content-Range"] = f"bytes */{stored.size}"
            return answer
        start, end = wanted or (0, stored.size)
        headers |= {"Content-Length": str(end - start)}
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
        status = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=_media_type(name))

        async def pieces() -> AsyncIterator[bytes]:
            loop = asyncio.get_running_loop()
            source = store.read(stored, start, end)
            while piece := await loop.run_in_executor(threads, next, source, b""):
                await asyncio.sleep(paces.wait_s(who.site_id, len(piece), loop.time()))
                yield piece

        return _Patient(pieces(), status_code=status, headers=headers, media_type=_media_type(name))


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """What a Range header asks of ``size`` bytes: first byte, and the first after the last. An empty one (start at or
    behind end) cannot be had: 416. None: there is no such header, or none that has to be obeyed, such as several ranges
    (RFC 9110 sections 14.1.2 and 14.2); then all of it is sent.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    return start, min(size, int(match[2]) + 1) if match[2] else size


class _Patient(StreamingResponse):
    """A response that a peer has to take: after STALL_S without taking any of it the connection ends."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for piece in self.body_iterator:
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            _log.info("firmware: nobody takes it")
            return  # the server ends a connection whose answer is not whole
        except OSError as error:
            _log.error("firmware: not readable", reason=str(error))
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_known(header: str | None, etag: str) -> bool:
    """If-None-Match (RFC 9110 section 13.1.2), compared weakly."""
    if header is None:
        return False
    given = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in given or etag in given


def _media_type(name: str) -> str:
    return "application/json" if name.endswith(".json") else "application/octet-stream"
