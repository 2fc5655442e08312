"""Large bodies as files: ``bodies/<message id>`` in the queue's directory; what is being received in ``incoming``.

Invariants: a file and its directory are on the disk before the transaction that names it commits, and it goes only
after the transaction that no longer needs it is durable. So after a crash there may be files that no message names,
never a message without its file; those are swept at start. All of it blocks: call it from a thread.
"""

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from cloudside.mail.model import Spilled, number_of, shown_id
from linux.files import flush_directory

#: Larger bodies than this, in octets, are files: in the database they would be written twice (log and table).
IN_DATABASE_MAX_BYTES = 64 * 1024


class Bodies:
    """The files of one queue."""

    def __init__(self, directory: Path) -> None:
        """Files of the queue in ``directory``."""
        self._bodies = directory / "bodies"
        self.incoming = directory / "incoming"
        #: Journals of the processes that take mail (see journal).
        self.journals = directory / "journals"

    def make(self) -> None:
        """Make the directories if they are not there. Raises OSError."""
        for place in (self._bodies, self.incoming, self.journals):
            if not place.is_dir():
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
                if os.geteuid() == 0:  # `kyoten mail` by root must not lock the relay out
                    owner = place.parent.stat()
                    os.chown(place, owner.st_uid, owner.st_gid)
                flush_directory(place.parent)

    def path(self, message_id: int) -> Path:
        """Where a message's body is."""
        return self._bodies / shown_id(message_id)

    def keep(self, message_id: int, body: bytes | Spilled) -> None:
        """Have the body on the disk under the message's id. Raises OSError; nothing is left then."""
        path = self.path(message_id)
        source = body.path if isinstance(body, Spilled) else self.incoming / shown_id(message_id)
        try:
            if isinstance(body, bytes):
                source.write_bytes(body)
            with source.open("rb") as written:
                size = body.size if isinstance(body, Spilled) else len(body)
                _require_size(os.fstat(written.fileno()).st_size, size)
                os.fsync(written.fileno())
            source.rename(path)
            flush_directory(self._bodies)
        except OSError:
            self.forget(path, source)
            raise

    def forget(self, *paths: Path) -> None:
        """Remove files that may be there. What cannot be removed is swept at the next start."""
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def found(self) -> list[int]:
        """Ids of messages that have a file."""
        numbers = (number_of(path.name) for path in self._bodies.iterdir())
        return [number for number in numbers if number is not None]

    def sweep(self, wanted: Collection[int]) -> int:
        """Remove files of messages that are not ``wanted``, and what was being received; their number."""
        orphans = [self.path(number) for number in self.found() if number not in wanted]
        orphans += list(self.incoming.iterdir())
        self.forget(*orphans)
        return len(orphans)


def whole(body: bytes | Spilled) -> bytes:
    """A body that is received, in memory. Raises OSError: its file is not what was written there."""
    if not isinstance(body, Spilled):
        return body
    content = body.path.read_bytes()
    _require_size(len(content), body.size)
    return content


def _require_size(found: int, wanted: int) -> None:
    # Nobody else writes there; but what is accepted must be what the client sent, whatever happened to the file.
    if found != wanted:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
