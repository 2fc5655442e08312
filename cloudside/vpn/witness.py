"""Reads charon's log as it grows, for `causes`. Belongs to one thread; holds up nobody and nothing grows by it.

The log is set aside when it is full (linux.charon_process); what the old file still has is read first. When charon
writes faster than it is read, the middle is left out: what a flood says is all the same.
"""

from datetime import datetime
from pathlib import Path
from typing import IO

from cloudside.vpn.causes import Cause, Reader

#: Bytes read at once at most, the newest: 40,000 lines.
MOST_BYTES = 4_000_000
#: Causes taken from one reading at most, the newest: with them the registry gets at most this many rows.
MOST_CAUSES = 500


class Witness:
    """``look`` gives what the log says since the last time. A log that is not there says nothing."""

    def __init__(self, log: Path, *, since: datetime) -> None:
        self._path = log
        self._since = since
        self._file: IO[bytes] | None = None
        self._inode = self._position = 0
        self._rest = b""
        self._reader = Reader()

    def look(self) -> tuple[Cause, ...]:
        """New causes in their order. What happened before ``since`` is followed, and told of no more."""
        lines = self._grown().decode("utf-8", "replace").splitlines()
        found = [cause for cause in self._reader.read(lines) if cause.at >= self._since]
        return tuple(found[-MOST_CAUSES:])

    @property
    def started_at(self) -> datetime | None:
        """When charon started last, as far as its log says."""
        return self._reader.started_at

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _grown(self) -> bytes:
        data = self._rest + self._read()
        try:
            inode = self._path.stat().st_ino
        except OSError:
            inode = 0
        if inode and inode != self._inode:
            self.close()
            try:
                self._file = self._path.open("rb")
            except OSError:
                return data
            self._inode, self._position = inode, 0
            data = data[-MOST_BYTES:] + self._read()
        data = data[-MOST_BYTES:]
        whole, newline, self._rest = data.rpartition(b"\n")
        return whole + newline

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        end = self._file.seek(0, 2)
        start = max(0 if self._position > end else self._position, end - MOST_BYTES)
        self._file.seek(start)
        data = self._file.read(end - start)
        self._position = start + len(data)
        return data
