"""The router's partition table, and how the data partition gets what a larger disk has behind it. Pure: bytes in and
out. UEFI 2.10, section 5.3.

The table is two copies, each a header of one sector and an array of entries with a sum of it in the header. Header and
entries cannot be written at once, and a kernel that finds them apart may see no partition at all. So the new entries go
where no header points, there are two places for them, and the new header of one sector makes them count.
"""

import struct
import uuid
import zlib
from dataclasses import dataclass, replace
from typing import Final

from firmware import layout

SECTOR_BYTES: Final = layout.SECTOR_BYTES
_MIB_SECTORS: Final = layout.MIB // SECTOR_BYTES

_SIGNATURE: Final = b"EFI PART"
_REVISION: Final = 0x00010000
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_ENTRIES: Final = 128
ENTRIES_BYTES: Final = _ENTRIES * _ENTRY.size
ENTRIES_SECTORS: Final = ENTRIES_BYTES // SECTOR_BYTES

#: Where the entries of the first copy may lie: one place counts, the other is free.
PLACES: Final = (2, 2 + ENTRIES_SECTORS)
_FIRST_HEADER: Final = 1
#: In front of all partitions.
_FIRST_USABLE: Final = layout.ALIGNMENT_MIB * _MIB_SECTORS
#: What is needed of the beginning of the disk to read the first copy.
HEAD_SECTORS: Final = PLACES[1] + ENTRIES_SECTORS

#: Growing by less is not worth it: the end of a disk is rounded to whole MiB anyway.
WORTH_MIB: Final = 16


class OddError(ValueError):
    """This disk is not as ours are, or damaged: nothing is touched. The text says what."""


@dataclass(frozen=True, slots=True)
class Header:
    """One copy's header. Numbers are sectors."""

    own: int
    other: int
    first_usable: int
    last_usable: int
    disk: bytes
    entries_at: int
    entries_sum: int

    def packed(self) -> bytes:
        """One sector."""
        without = self._octets(0)
        return self._octets(zlib.crc32(without)).ljust(SECTOR_BYTES, b"\0")

    def _octets(self, own_sum: int) -> bytes:
        return _HEADER.pack(
            _SIGNATURE, _REVISION, _HEADER.size, own_sum, 0, self.own, self.other, self.first_usable,
            self.last_usable, self.disk, self.entries_at, _ENTRIES, _ENTRY.size, self.entries_sum,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Write:
    """So many octets from a sector on; on the disk before the next one is begun."""

    sector: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Table:
    """The copy that counts, and what its entries say of the data partition. Sectors; ``data_end`` is its last."""

    header: Header
    entries: bytes
    data_start: int
    data_end: int

    @property
    def data_sectors(self) -> int:
        """Of the data partition."""
        return self.data_end - self.data_start + 1


def read_header(sector: bytes, at: int) -> Header:
    """The header at this sector. Raises OddError."""
    fields = _HEADER.unpack(sector[: _HEADER.size])
    signature, revision, size, own_sum, _, own, other, first, last, disk, entries_at, count, entry_bytes, entries = (
        fields
    )
    if signature != _SIGNATURE or revision != _REVISION or size != _HEADER.size:
        raise OddError(f"no partition table at sector {at}")
    if (count, entry_bytes) != (_ENTRIES, _ENTRY.size) or own != at:
        raise OddError(f"the partition table at sector {at} has another form")
    found = Header(own, other, first, last, disk, entries_at, entries)
    if zlib.crc32(found._octets(0)) != own_sum:
        raise OddError(f"the partition table at sector {at} is damaged")
    return found


def read_first(head: bytes) -> Table:
    """The first copy out of the first HEAD_SECTORS of the disk. Raises OddError: damaged, or not a router's."""
    if len(head) < HEAD_SECTORS * SECTOR_BYTES or head[510:512] != b"\x55\xaa" or head[446 + 4] != 0xEE:
        raise OddError("no protective boot record")
    header = read_header(head[_FIRST_HEADER * SECTOR_BYTES :][:SECTOR_BYTES], _FIRST_HEADER)
    if header.entries_at not in PLACES:
        raise OddError(f"its entries are at sector {header.entries_at}")
    return _table(header, head[header.entries_at * SECTOR_BYTES :][:ENTRIES_BYTES])


def check_second(table: Table, header_sector: bytes, entries: bytes) -> None:
    """Hold the other copy against the first. Raises OddError: they differ."""
    second = read_header(header_sector, table.header.other)
    if zlib.crc32(entries) != second.entries_sum or second.disk != table.header.disk:
        raise OddError("the second partition table is damaged")
    if entries != table.entries or second.other != _FIRST_HEADER:
        raise OddError("the two partition tables differ")


def _table(header: Header, entries: bytes) -> Table:
    if zlib.crc32(entries) != header.entries_sum:
        raise OddError("the partitions' entries are damaged")
    data = None
    for number in range(1, _ENTRIES + 1):
        kind, _, start, end, _, name = _ENTRY.unpack_from(entries, (number - 1) * _ENTRY.size)
        partition = next((one for one in layout.PARTITIONS if one.number == number), None)
        if partition is None:
            if kind != bytes(16):
                raise OddError(f"there is a partition {number}")
            continue
        shown = name.decode("utf-16-le", "replace").rstrip("\0")
        wanted = layout.offset_mib(partition) * _MIB_SECTORS
        if kind != uuid.UUID(partition.type_guid).bytes_le or shown != partition.name or start != wanted:
            raise OddError(f"partition {number} is not {partition.name} at sector {wanted}")
        if partition.size_mib and end != start + partition.size_mib * _MIB_SECTORS - 1:
            raise OddError(f"partition {number} ends at sector {end}")
        if partition is layout.DATA:
            data = (start, end)
    if data is None or data[1] <= data[0]:
        raise OddError("there is no data partition")
    return Table(header, entries, *data)


def grown(table: Table, disk_sectors: int) -> tuple[Table, tuple[Write, ...]] | None:
    """The table on a disk of this size, and the writes that make it so, in this order and each flushed; None: there is
    nothing to gain. Whenever the power fails in between, the copy at the beginning is whole, and the other one that it
    names, too. Raises OddError: the data partition goes beyond the disk's end.
    """
    last = disk_sectors - 1
    if table.data_end >= last or table.header.other > last:
        raise OddError("the disk is smaller than its partitions")
    # Behind the data there is the second copy, in a MiB of its own.
    data_end = (last - ENTRIES_SECTORS) // _MIB_SECTORS * _MIB_SECTORS - 1
    if data_end - table.data_end < WORTH_MIB * _MIB_SECTORS:
        return None
    place = (layout.DATA.number - 1) * _ENTRY.size
    kind, own, start, _, flags, name = _ENTRY.unpack_from(table.entries, place)
    entry = _ENTRY.pack(kind, own, start, data_end, flags, name)
    entries = table.entries[:place] + entry + table.entries[place + _ENTRY.size :]
    first = replace(
        table.header,
        other=last,
        first_usable=_FIRST_USABLE,
        last_usable=last - ENTRIES_SECTORS - 1,
        entries_at=PLACES[1 - PLACES.index(table.header.entries_at)],
        entries_sum=zlib.crc32(entries),
    )
    second = replace(first, own=last, other=_FIRST_HEADER, entries_at=last - ENTRIES_SECTORS)
    writes = (
        Write(second.entries_at, entries),
        Write(second.own, second.packed()),
        Write(first.entries_at, entries),
        Write(first.own, first.packed()),
    )
    return Table(first, entries, start, data_end), writes
