"""The router's disk: partitions, their numbers, names and sizes, and where the boot state lies. Pure data.

    1  bios boot     GRUB's core for BIOS machines
    2  esp           FAT: GRUB for UEFI machines; nothing writes here after manufacture
    3  bootstate     which slot boots (firmware.bootstate); a tar archive that is never unpacked
    4  slot A        slot.img: squashfs, verity tree, slot block (firmware.slotblock)
    5  slot B        the same of another release
    6  config        FAT: a person puts a ticket or an enrolment bundle here
    7  data          ext4: everything that the router writes, mounted at /var

GRUB knows partitions by number, Linux by the name in the GPT. The numbers of boot state and slots stand in the boot
loader of every router that was ever made: they never change.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MIB: Final = 1 << 20
SECTOR_BYTES: Final = 512
#: Partitions begin at multiples of this: an erase block or a stripe of anything sold.
ALIGNMENT_MIB: Final = 1
#: The GPT's copy at the end, rounded up.
TAIL_MIB: Final = 1


class Slot(StrEnum):
    """One of the two places for a release."""

    A = "A"
    B = "B"

    @property
    def other(self) -> "Slot":
        """The one that does not run while this one does."""
        return Slot.B if self is Slot.A else Slot.A


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. ``size_mib`` 0: the rest of the disk. ``type_guid``: UEFI 2.10 table 5.7, or Linux's."""

    number: int
    #: In the GPT; Linux shows it as /dev/disk/by-partlabel/<name>.
    name: str
    size_mib: int
    type_guid: str
    #: Of the file system in it; "" where there is none, or none with a label.
    label: str = ""


_LINUX_DATA = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_MICROSOFT_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"

BIOS_BOOT: Final = Partition(1, "kyoten-bios", 1, "21686148-6449-6E6F-744E-656564454649")
#: FAT32 has at least 65,525 clusters, 33 MiB of them.
ESP: Final = Partition(2, "kyoten-esp", 40, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "KYOTEN-ESP")
BOOTSTATE: Final = Partition(3, "kyoten-bootstate", 1, _LINUX_DATA)
SLOT_A: Final = Partition(4, "kyoten-slot-a", 768, _LINUX_DATA)
SLOT_B: Final = Partition(5, "kyoten-slot-b", 768, _LINUX_DATA)
CONFIG: Final = Partition(6, "kyoten-config", 16, _MICROSOFT_DATA, "KYOTEN-CFG")
DATA: Final = Partition(7, "kyoten-data", 0, _LINUX_DATA, "kyoten-data")

PARTITIONS: Final = (BIOS_BOOT, ESP, BOOTSTATE, SLOT_A, SLOT_B, CONFIG, DATA)
SLOTS: Final = {Slot.A: SLOT_A, Slot.B: SLOT_B}

#: Smallest disk: the partitions, and a data partition that holds a payload and the bundle made of it.
DISK_MIN_MIB: Final = 3072

#: What the kernel calls the verity device that is the root.
ROOT_DEVICE_NAME: Final = "kyoten-root"
#: Where a slot has its kernel and its initial RAM disk, and the sums that the boot loader holds them against.
KERNEL: Final = "boot/vmlinuz"
INITRD: Final = "boot/initrd.img"
BOOT_SUMS: Final = "boot/SHA256SUMS"

#: Sectors in the bootstate partition: two copies of the state, and what the boot loader notes. Each lies in a block of
#: 4 KiB of its own, so that a disk with such sectors rewrites nothing else.
STATE_COPY_SECTORS: Final = (8, 16)
ATTEMPT_SECTOR: Final = 32
#: GRUB reads any sectors, but writes into files only: so the partition is a tar archive whose headers never change.
#: Its member of this name is the note; the copies lie within the member before it.
ATTEMPT_NAME: Final = "attempt"
#: Octets of each.
STATE_BYTES: Final = 1024

#: Words of the kernel's command line, as the boot loader writes them.
SLOT_WORD: Final = "kyoten.slot"
TRIAL_WORD: Final = "kyoten.trial"
TRIAL_S_WORD: Final = "kyoten.trial_s"
#: Why this slot: ``primary``, ``trial``, ``fallback`` (the primary did not start), ``blind`` (no state could be read).
WHY_WORD: Final = "kyoten.why"


def device(partition: Partition) -> str:
    """The path of a partition's device on a running router."""
    return f"/dev/disk/by-partlabel/{partition.name}"


def offset_mib(partition: Partition) -> int:
    """Where a partition begins on the disk, in MiB."""
    return ALIGNMENT_MIB + sum(before.size_mib for before in PARTITIONS if before.number < partition.number)


def size_mib(partition: Partition, disk_mib: int) -> int:
    """How large a partition is on a disk of ``disk_mib``. Raises ValueError: the disk is too small."""
    if disk_mib < DISK_MIN_MIB:
        raise ValueError(f"a disk of {disk_mib} MiB is too small: {DISK_MIN_MIB} are needed")
    return partition.size_mib or disk_mib - TAIL_MIB - offset_mib(partition)
