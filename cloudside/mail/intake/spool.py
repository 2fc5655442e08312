"""Where mail is while it comes in: in memory, of which there is a budget, or in a file of the queue's directory.

Invariants: however many clients send whatever, the memory of all together stays below the budget; no write of a large
body blocks the event loop; a file that was not handed to the queue does not stay behind. A file that went away under
a mail is never begun anew: what would follow is the mail's end without its beginning.
"""

import asyncio
import errno
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloudside.errors import UnavailableError
from cloudside.mail.model import Spilled

#: With more than this in memory mail goes to files earlier; with more than the second it is refused (452).
TIGHT_BYTES = 24 * 1024 * 1024
FULL_BYTES = 56 * 1024 * 1024
#: What goes to a file when memory is tight.
TIGHT_PIECE_BYTES = 32 * 1024


@dataclass(slots=True)
class Memory:
    """How much of the mail that is coming in, or waits for its commit, is in memory. One for all listeners."""

    tight_bytes: int = TIGHT_BYTES
    full_bytes: int = FULL_BYTES
    used: int = 0

    @property
    def tight(self) -> bool:
        """Whether mail should go to files early."""
        return self.used > self.tight_bytes

    @property
    def full(self) -> bool:
        """Whether no more can be taken."""
        return self.used > self.full_bytes


class Spool:
    """Makes files in one directory. Writes happen in threads of its own."""

    def __init__(self, directory: Path, *, spill_bytes: int, require_space: Callable[[int], None]) -> None:
        """``spill_bytes``: a body larger than this goes to a file. ``require_space`` raises when the disk is full."""
        self.spill_bytes = spill_bytes
        self._directory = directory
        self._require_space = require_space
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="mail-spool")

    def close(self) -> None:
        """Finish what is being written."""
        self._threads.shutdown(wait=True)

    def clear(self) -> int:
        """Remove what a relay that ended in the middle of a mail left behind; only before the first mail comes."""
        removed = 0
        with suppress(FileNotFoundError):
            for left in self._directory.iterdir():
                left.unlink(missing_ok=True)
                removed += 1
        return removed

    def open(self) -> "Spill":
        """A new file; made and named at the first write."""
        return Spill(self._directory, self)

    async def write(self, path: Path, content: bytes, *, size: int) -> None:
        """Append to a file of ``size`` octets; 0: make it. Raises StorageFullError, UnavailableError."""
        self._require_space(len(content))
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, _append, path, content, size)
        except OSError as error:
            raise UnavailableError("mail.queue-failed", path=str(path.parent), reason=error.strerror or "") from error


class Spill:
    """The body of one mail in a file."""

    __slots__ = ("_path", "_spool", "size")

    def __init__(self, directory: Path, spool: Spool) -> None:
        self._path = directory
        self._spool = spool
        self.size = 0

    async def write(self, content: bytes) -> None:
        """Append. Raises StorageFullError, UnavailableError."""
        if not self.size:
            self._path /= f"{secrets.token_hex(8)}.body"
        await self._spool.write(self._path, content, size=self.size)
        self.size += len(content)

    def finished(self) -> Spilled:
        """The whole body."""
        return Spilled(self._path, self.size)

    def discard(self) -> None:
        """Remove the file, if there is one."""
        with suppress(OSError):
            self._path.unlink()


def _append(path: Path, content: bytes, size: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = 0 if size else os.O_CREAT | os.O_EXCL
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | new, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        if os.fstat(descriptor).st_size != size:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        stream.write(content)
