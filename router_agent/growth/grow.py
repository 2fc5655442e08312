"""``python -m router_agent.growth.grow``: have the data partition reach to the end of the disk."""

import logging
import sys
from dataclasses import dataclass
from typing import Protocol

from firmware import gpt, layout
from firmware.gpt import OddError, Table, Write
from linux.errors import LinuxError

_log = logging.getLogger(__name__)


class Disk(Protocol):
    """The disk that the router started from. Sectors of 512 octets."""

    def sectors(self) -> int:
        """How large it is."""
        ...

    def read(self, sector: int, count: int) -> bytes:
        """So many sectors. Raises OSError."""
        ...

    def write(self, write: Write) -> None:
        """Written and flushed when this returns. Raises OSError."""
        ...

    def seen_sectors(self) -> int:
        """How large the kernel takes the data partition to be."""
        ...

    def show(self, table: Table) -> None:
        """Have the kernel see the data partition so large. Raises OSError."""
        ...

    def grow_file_system(self) -> None:
        """Have the mounted file system fill the partition; one that does already stays. Raises LinuxError."""
        ...

    def mark(self, begun: bool) -> None:
        """Note durably that a growth has begun, or is over: the next start finishes it. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Grown:
    """Sectors of the data partition before and after."""

    before: int
    after: int


def grow(disk: Disk) -> Grown:
    """Do what is left to do. Raises OddError: nothing was touched. OSError, LinuxError: the next start goes on."""
    table = gpt.read_first(disk.read(0, gpt.HEAD_SECTORS))
    if not table.data_end < table.header.other < disk.sectors():
        raise OddError("the second partition table is nowhere")
    second = disk.read(table.header.other, 1)
    entries_at = gpt.read_header(second, table.header.other).entries_at
    if not table.data_end < entries_at < table.header.other:
        raise OddError("the second partition table's entries are nowhere")
    gpt.check_second(table, second, disk.read(entries_at, gpt.ENTRIES_SECTORS))
    before = disk.seen_sectors()
    if before > table.data_sectors:
        raise OddError("the kernel sees a larger data partition than the table has")
    wanted = gpt.grown(table, disk.sectors())
    disk.mark(begun=True)
    if wanted is not None:
        table, writes = wanted
        for write in writes:
            disk.write(write)
    if disk.seen_sectors() < table.data_sectors:
        disk.show(table)
    disk.grow_file_system()
    disk.mark(begun=False)
    return Grown(before, table.data_sectors)


def main() -> int:
    """See the module. The status is 1 if something is odd or failed; the router goes on as it is."""
    from router_agent.growth.disk import BootDisk

    logging.basicConfig(format="kyoten: %(message)s", level=logging.INFO, stream=sys.stdout)
    try:
        made = grow(BootDisk.of(layout.device(layout.DATA)))
    except OddError as error:
        _log.error("the data partition stays as it is: %s", error)
        return 1
    except (OSError, LinuxError) as error:
        _log.error("the data partition could not be grown, the next start tries again: %s", error)
        return 1
    mib = layout.MIB // gpt.SECTOR_BYTES
    _log.info("the data partition has %d MiB now, it had %d", made.after // mib, made.before // mib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
