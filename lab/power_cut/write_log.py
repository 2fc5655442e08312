"""Every write and flush of a virtual machine's disk, as QEMU's ``blklogwrites`` driver logs them.

The format is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst and
drivers/md/dm-log-writes.c), little-endian, in sectors of the size that the first sector names:

    sector 0        u64 magic 0x6a736677736872, u64 version 1, u64 number of entries, u32 sector size
    each entry      one sector: u64 sector, u64 number of sectors, u64 flags, u64 length of a mark's text;
                    then the data written, except for a discard

Flags: 1 flush, 2 FUA, 4 discard, 8 mark. QEMU brings the number of entries up to date at a flush only, so whoever was
killed leaves a smaller number: entries are read until the file ends or a sector says nothing.

QEMU logs a write after the disk beneath has it, a flush after the disk beneath was flushed (here that does nothing and
takes no time), and answers the machine after that. So whatever the machine knew to be written before it began
something else stands before that in the log.

A log may be as large as all that an update writes: only where things stand in it is kept in memory.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from types import TracebackType

MAGIC = 0x6A736677736872
_HEADER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_SECTOR_BYTES = 512


class LogError(Exception):
    """The file is no such log."""


class Flag(IntFlag):
    """What a request was besides a write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the disk; ``offset`` and ``size`` in bytes. A flush has no size; a discard has no data.

    ``place``: where its data stand in the log's file.
    """

    offset: int
    size: int
    flags: Flag
    place: int = 0

    @property
    def flush(self) -> bool:
        """Everything before it is safe."""
        return Flag.FLUSH in self.flags


class WriteLog:
    """A log; ``requests`` in the order of their completion. The file stays open until `close`. Raises LogError."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if path.stat().st_size < _HEADER.size:
                raise LogError(f"{path} is no write log: it ends at once")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, _entries, sector_bytes = _HEADER.unpack_from(self._map)
        if magic != MAGIC or version != 1 or sector_bytes < _ENTRY.size:
            self._map.close()
            raise LogError(f"{path} is no write log: magic {magic:#x}, version {version}, sectors of {sector_bytes}")
        self.requests = tuple(_requests(self._map, sector_bytes))

    def __enter__(self) -> "WriteLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The requests stay, their data are gone."""
        self._map.close()

    @property
    def flushes(self) -> tuple[int, ...]:
        """Positions right after each flush: so many requests were made by then."""
        return tuple(place for place, request in enumerate(self.requests, 1) if request.flush)

    def data(self, request: Request) -> bytes:
        """What was written; a discard leaves zeros."""
        if Flag.DISCARD in request.flags:
            return bytes(request.size)
        return self._map[request.place : request.place + request.size]

    def head(self, request: Request, at: int, size: int) -> bytes:
        """A few of its bytes, from its byte ``at`` on, without touching the rest."""
        if Flag.DISCARD in request.flags:
            return bytes(size)
        return self._map[request.place + at : request.place + min(at + size, request.size)]


def _requests(log: mmap.mmap, sector_bytes: int) -> Iterator[Request]:
    end, place = len(log), sector_bytes
    while place + sector_bytes <= end:
        sector, sectors, bits, _mark = _ENTRY.unpack_from(log, place)
        if bits == 0 and sectors == 0:
            return
        place += sector_bytes
        size = sectors * sector_bytes
        data_bytes = 0 if bits & Flag.DISCARD else size
        if place + data_bytes > end:
            return  # the emulator was killed in the middle of this entry
        yield Request(sector * sector_bytes, size, Flag(bits & 0xF), place)
        place += data_bytes


def written(entries: Iterable[tuple[int, bytes | int, Flag]]) -> bytes:
    """A log that says this, for tests of whoever reads one: offset, data (of a discard: its size), flags."""
    made, count = [], 0
    for offset, content, flags in entries:
        size, data = (content, b"") if isinstance(content, int) else (len(content), content)
        entry = _ENTRY.pack(offset // _SECTOR_BYTES, size // _SECTOR_BYTES, flags, 0)
        made += [entry.ljust(_SECTOR_BYTES, b"\0"), data]
        count += 1
    return _HEADER.pack(MAGIC, 1, count, _SECTOR_BYTES).ljust(_SECTOR_BYTES, b"\0") + b"".join(made)
