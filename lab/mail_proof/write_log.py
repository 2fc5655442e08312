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
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

MAGIC = 0x6A736677736872
_HEADER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


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
    """One request to the disk; ``offset`` and ``size`` in bytes. A flush has no size; a discard has no data."""

    offset: int
    size: int
    flags: Flag
    data: bytes

    @property
    def flush(self) -> bool:
        """Everything before it is safe."""
        return Flag.FLUSH in self.flags


def read(path: Path) -> tuple[Request, ...]:
    """All requests in the order of their completion. Raises LogError."""
    return tuple(_requests(path))


def _requests(path: Path) -> Iterator[Request]:
    with path.open("rb") as file:
        first = file.read(_HEADER.size)
        if len(first) < _HEADER.size:
            raise LogError(f"{path} is no write log: it ends at once")
        magic, version, _entries, sector_bytes = _HEADER.unpack(first)
        if magic != MAGIC or version != 1 or sector_bytes < _ENTRY.size:
            raise LogError(f"{path} is no write log: magic {magic:#x}, version {version}, sectors of {sector_bytes}")
        file.seek(sector_bytes)
        while len(header := file.read(sector_bytes)) == sector_bytes:
            sector, sectors, bits, _mark = _ENTRY.unpack_from(header)
            if bits == 0 and sectors == 0:
                return
            size = sectors * sector_bytes
            data = b"" if bits & Flag.DISCARD else file.read(size)
            if len(data) < size and not bits & Flag.DISCARD:
                return  # the emulator was killed in the middle of this entry
            yield Request(sector * sector_bytes, size, Flag(bits & 0xF), data)


def written(requests: tuple[Request, ...]) -> bytes:
    """A log that says this, for tests of whoever reads one."""
    sector_bytes = 512
    found = [_HEADER.pack(MAGIC, 1, len(requests), sector_bytes).ljust(sector_bytes, b"\0")]
    for request in requests:
        entry = _ENTRY.pack(request.offset // sector_bytes, request.size // sector_bytes, request.flags, 0)
        found += [entry.ljust(sector_bytes, b"\0"), request.data]
    return b"".join(found)
