"""The queue for `kyoten mail`: through a running relay's socket, or by itself when none runs.

A PostgreSQL queue is always opened directly, beside its relays. While an embedded queue is open here no relay can start
on it (it waits some seconds), so keep it open only as long as it takes.
"""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from cloudside.config import Config
from cloudside.errors import UnavailableError
from cloudside.mail.model import Entry, Selection, Story
from cloudside.mail.store import wire
from cloudside.mail.store.control import FILE_NAME as SOCKET_NAME
from cloudside.mail.store.queue import FILE_NAME, Queue

#: Seconds that a relay has to answer.
_ANSWER_S = 60.0


class QueueAccess(Protocol):
    """What is done by hand; see Queue, whose operations these are. All raise UnavailableError."""

    def entries(self, which: Selection, limit: int) -> list[Entry]:
        """Recipients, the oldest message first."""
        ...

    def stories(self, which: Selection, limit: int) -> list[Story]:
        """Whole messages, the newest first."""
        ...

    def states(self) -> dict[str, int]:
        """Recipients by state."""
        ...

    def hold(self, which: Selection, now: float, reason: str) -> int:
        """Have queued recipients wait; their number."""
        ...

    def release(self, which: Selection, now: float) -> int:
        """Have held recipients delivered; their number."""
        ...

    def retry(self, which: Selection, now: float) -> int:
        """Have waiting recipients tried at once; their number."""
        ...

    def drop(self, which: Selection, now: float, reason: str) -> int:
        """End queued and held recipients; their number."""
        ...


@contextmanager
def opened(config: Config) -> Iterator[QueueAccess]:
    """The queue of this configuration.

    Raises UnavailableError: there is none, or the relay does not answer; ConfigurationError: it cannot be opened.
    """
    if config.relay.queue_url:
        from cloudside.mail.store.postgresql import PostgresqlEngine

        engine = PostgresqlEngine(config.relay.queue_url, relay=None)
        with _Direct(Queue(config.queue_directory, engine=engine)) as access:
            yield access
        return
    caller = _called(config.runtime_directory / SOCKET_NAME)
    if caller is not None:
        with closing(caller):
            yield _Remote(caller)
        return
    path = config.queue_directory / FILE_NAME
    if not path.exists():
        raise UnavailableError("mail.no-queue", path=str(path))
    with _Direct(Queue(config.queue_directory)) as access:
        yield access


def _called(path: Path) -> socket.socket | None:
    """A connection to the running relay; None: none runs."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(_ANSWER_S)
    try:
        caller.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        caller.close()
        return None
    except OSError as error:
        caller.close()
        raise UnavailableError("mail.relay-silent", path=str(path), reason=error.strerror or str(error)) from error
    return caller


class _Remote:
    """A running relay."""

    def __init__(self, caller: socket.socket) -> None:
        self._caller = caller

    def entries(self, which: Selection, limit: int) -> list[Entry]:
        return [wire.entry_in(item) for item in self._asked("entries", which, limit=limit)[0]]

    def stories(self, which: Selection, limit: int) -> list[Story]:
        return [wire.story_in(item) for item in self._asked("stories", which, limit=limit)[0]]

    def states(self) -> dict[str, int]:
        return dict(self._asked("states", Selection())[1])

    def hold(self, which: Selection, now: float, reason: str) -> int:
        return int(self._asked("hold", which, now=now, reason=reason)[1])

    def release(self, which: Selection, now: float) -> int:
        return int(self._asked("release", which, now=now)[1])

    def retry(self, which: Selection, now: float) -> int:
        return int(self._asked("retry", which, now=now)[1])

    def drop(self, which: Selection, now: float, reason: str) -> int:
        return int(self._asked("drop", which, now=now, reason=reason)[1])

    def _asked(self, do: str, which: Selection, **given: float | str) -> tuple[list[Any], Any]:
        """What came in parts, and at the end."""
        parts: list[Any] = []
        try:
            self._caller.sendall(wire.frame({"do": do, "which": wire.selection_out(which), **given}))
            while True:
                (size,) = wire.LENGTH.unpack(self._read(wire.LENGTH.size))
                document = json.loads(self._read(size))
                if "error" in document:
                    raise wire.error_in(document["error"])
                if "done" in document:
                    return parts, document["done"]
                parts += document["part"]
        except (OSError, ValueError) as error:
            raise UnavailableError("mail.relay-silent", path=SOCKET_NAME, reason=str(error)) from error

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            piece = self._caller.recv(min(size - len(found), 1 << 20))
            if not piece:
                raise ConnectionResetError("the relay hung up")
            found += piece
        return bytes(found)


class _Direct:
    """The queue itself, with an event loop of its own."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._runner = asyncio.Runner()

    def __enter__(self) -> "_Direct":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        self._queue.close()

    def entries(self, which: Selection, limit: int) -> list[Entry]:
        return self._runner.run(self._queue.entries(which, limit))

    def stories(self, which: Selection, limit: int) -> list[Story]:
        return self._runner.run(self._queue.stories(which, limit))

    def states(self) -> dict[str, int]:
        return self._runner.run(self._queue.states())

    def hold(self, which: Selection, now: float, reason: str) -> int:
        return self._runner.run(self._queue.hold(which, now, reason))

    def release(self, which: Selection, now: float) -> int:
        return self._runner.run(self._queue.release(which, now))

    def retry(self, which: Selection, now: float) -> int:
        return self._runner.run(self._queue.retry(which, now))

    def drop(self, which: Selection, now: float, reason: str) -> int:
        return self._runner.run(self._queue.drop(which, now, reason))
