"""Calls between the relay's own processes, over a socket pair that only they hold.

One side calls by name and waits, the other answers; many calls are under way at once, answers come in any order. A
frame is four octets of length and a pickle: both ends are the same program and user, and nobody else has the socket.
What somebody sent us travels inside as bytes and text, it is never unpickled itself.
"""

import asyncio
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

import structlog

from cloudside.errors import KyotenError, UnavailableError

log = structlog.get_logger(__name__)

_LENGTH = struct.Struct("!I")
#: A frame that is larger than this is a bug: large bodies travel as files.
FRAME_MAX_BYTES = 64 * 1024 * 1024

Method = Callable[..., Awaitable[Any]]


class Link(asyncio.Protocol):
    """One end. ``methods``: what the other end may call here. Frames of one turn of the loop leave in one write."""

    def __init__(self, methods: Mapping[str, Method] | None = None) -> None:
        self._methods = methods or {}
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._outgoing: list[bytes] = []
        #: Set when the other end is gone.
        self.closed = asyncio.Event()

    async def call(self, name: str, *arguments: object) -> Any:
        """What the other end's method returns.

        Raises the KyotenError that it raised; UnavailableError: the other end is gone, or has a bug.
        """
        if self.closed.is_set():
            raise UnavailableError("mail.link-closed", call=name)
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send((number, name, arguments))
        return await future

    def tell(self, name: str, *arguments: object) -> None:
        """The same without an answer."""
        if not self.closed.is_set():
            self._send((-1, name, arguments))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(UnavailableError("mail.link-closed", call=""))
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        received = self._rest + data if self._rest else data
        view = memoryview(received)
        position = 0
        while len(received) - position >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(received, position)
            if size > FRAME_MAX_BYTES:
                self.close()
                return
            end = position + _LENGTH.size + size
            if len(received) < end:
                break
            self._take(pickle.loads(view[position + _LENGTH.size : end]))  # noqa: S301 - from ourselves
            position = end
        self._rest = received[position:]

    def _take(self, frame: Any) -> None:
        number, name, content = frame
        if name is None:  # an answer: (number, None, (worked, result or error))
            future = self._waiting.pop(number, None)
            if future is not None and not future.done():
                worked, value = content
                if worked:
                    future.set_result(value)
                else:
                    kind, key, params = value
                    future.set_exception(kind(key, **params))
            return
        task = asyncio.get_running_loop().create_task(self._answer(number, self._methods[name], content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, method: Method, arguments: tuple[Any, ...]) -> None:
        try:
            result = (True, await method(*arguments))
        except KyotenError as error:
            result = (False, (type(error), error.key, dict(error.params)))
        except Exception as error:  # a bug here must not leave the caller waiting
            log.error("link-call-crashed", exc_info=error)
            result = (False, (UnavailableError, "mail.link-crashed", {"call": type(error).__name__}))
        if number >= 0 and not self.closed.is_set():
            self._send((number, None, result))

    def _send(self, frame: object) -> None:
        packed = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += (_LENGTH.pack(len(packed)), packed)

    def _flush(self) -> None:
        content, self._outgoing = b"".join(self._outgoing), []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)


async def attach(end: socket.socket, methods: Mapping[str, Method] | None = None) -> Link:
    """Talk over this end of a socket pair."""
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: Link(methods), sock=end)
    return link
