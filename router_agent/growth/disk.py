"""The disk that the router started from: its sectors, the kernel's view of its partitions, the file system on one."""

import ctypes
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

from firmware import gpt, layout
from firmware.gpt import OddError, Table, Write
from linux.files import write_durably
from linux.runner import Runner, SubprocessRunner

#: Made before the first write, gone after the last; images/router/root/usr/lib/kyoten/data-can-grow looks for it.
MARK = Path("/var/lib/kyoten/growing")
_MOUNTED = "/var"
_SYSFS = Path("/sys/class/block")
_RESIZE_S = 600.0

#: BLKPG and BLKPG_RESIZE_PARTITION, linux/blkpg.h; struct blkpg_ioctl_arg, struct blkpg_partition (octets).
_BLKPG, _RESIZE = 0x1269, 3
_ARGUMENT = struct.Struct("@iiiP")
_PARTITION = struct.Struct("@qqi64s64s")


class BootDisk:
    """``disk``, ``partition``: devices, such as /dev/vda and /dev/vda7."""

    def __init__(self, disk: Path, partition: Path, *, runner: Runner | None = None, mark: Path = MARK) -> None:
        self._disk = disk
        self._partition = partition
        self._runner = runner or SubprocessRunner()
        self._mark = mark

    @classmethod
    def of(cls, data: str) -> "BootDisk":
        """The disk of this data partition. Raises OddError: it is not what /var lies on, or has other sectors."""
        partition = Path(os.path.realpath(data))
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        if not any(line.split()[:3] == [str(partition), _MOUNTED, "ext4"] for line in mounts):
            raise OddError(f"{partition} is not mounted on {_MOUNTED}")
        place = (_SYSFS / partition.name).resolve()
        if (place / "partition").read_text().strip() != str(layout.DATA.number):
            raise OddError(f"{partition} has another number")
        if (place.parent / "queue/logical_block_size").read_text().strip() != str(gpt.SECTOR_BYTES):
            raise OddError(f"sectors of {place.parent.name} have another size")
        return cls(Path("/dev") / place.parent.name, partition)

    def sectors(self) -> int:
        descriptor = os.open(self._disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.lseek(descriptor, 0, os.SEEK_END) // gpt.SECTOR_BYTES
        finally:
            os.close(descriptor)

    def read(self, sector: int, count: int) -> bytes:
        with self._disk.open("rb", buffering=0) as stream:
            stream.seek(sector * gpt.SECTOR_BYTES)
            return stream.read(count * gpt.SECTOR_BYTES)

    def write(self, write: Write) -> None:
        with self._disk.open("r+b", buffering=0) as stream:
            stream.seek(write.sector * gpt.SECTOR_BYTES)
            if stream.write(write.content) != len(write.content):
                raise OSError(f"{self._disk}: not everything was written at sector {write.sector}")
            os.fsync(stream.fileno())

    def seen_sectors(self) -> int:
        return int((_SYSFS / self._partition.name / "size").read_text())

    def show(self, table: Table) -> None:
        start, length = table.data_start * gpt.SECTOR_BYTES, table.data_sectors * gpt.SECTOR_BYTES
        partition = ctypes.create_string_buffer(_PARTITION.pack(start, length, layout.DATA.number, b"", b""))
        argument = _ARGUMENT.pack(_RESIZE, 0, _PARTITION.size, ctypes.addressof(partition))
        descriptor = os.open(self._disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _BLKPG, argument)
        finally:
            os.close(descriptor)

    def grow_file_system(self) -> None:
        self._runner.run(["resize2fs", str(self._partition)], timeout_s=_RESIZE_S)

    def mark(self, begun: bool) -> None:
        if begun:
            self._mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._mark, b"")
        else:
            with suppress(FileNotFoundError):
                self._mark.unlink()
