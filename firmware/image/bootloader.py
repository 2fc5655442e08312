"""GRUB into a disk image, for BIOS and for UEFI, and the first boot state. Needs no mount and no loop device.

Each variant carries everything in itself: modules and `images/router/boot/grub/grub.cfg` in a memory disk. So
nothing of the boot loader is a file that an update, or a file system's fault, could take away. The master boot record
and GRUB's core are put in place as grub-bios-setup does it (grub 2.06, util/setup.c), which insists on real devices.
"""

import io
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from firmware import bootstate
from firmware.bootstate import Attempt, BootState
from firmware.image import places, programs, tree
from firmware.image.errors import ImageError
from firmware.layout import (
    ATTEMPT_NAME,
    ATTEMPT_SECTOR,
    BIOS_BOOT,
    BOOTSTATE,
    ESP,
    MIB,
    SECTOR_BYTES,
    STATE_BYTES,
    STATE_COPY_SECTORS,
    Slot,
    offset_mib,
)

CONFIGURATION = places.ROUTER / "boot" / "grub" / "grub.cfg"
#: Where Debian's grub-pc-bin and grub-efi-*-bin put GRUB's parts.
GRUB_DIRECTORY = Path("/usr/lib/grub")

_COMMON_MODULES = (
    "part_gpt", "squash4", "memdisk", "tar", "normal", "test", "true", "loadenv", "linux", "boot", "echo", "serial",
    "terminal", "regexp", "hashsum", "gcry_sha256", "sleep", "reboot",
)  # fmt: skip
_BIOS = "i386-pc"
_MODULES = {_BIOS: ("biosdisk", "vga_text"), "x86_64-efi": ("efi_gop",), "arm64-efi": ("efi_gop",)}


@dataclass(frozen=True, slots=True)
class Variant:
    """How machines of one architecture start. ``packages``: have GRUB's parts; ``efi_name``: what firmware starts from
    a disk that it was told nothing about (UEFI 2.10 section 3.5.1.1)."""

    bios: bool
    efi: str
    efi_name: str
    packages: tuple[str, ...]


VARIANTS = {
    "amd64": Variant(True, "x86_64-efi", "BOOTX64.EFI", ("grub-pc-bin", "grub-efi-amd64-bin")),
    "arm64": Variant(False, "arm64-efi", "BOOTAA64.EFI", ("grub-efi-arm64-bin",)),
}

#: In the master boot record: code up to here; behind it the disk's signature and the partition table, which stay.
_MBR_CODE_BYTES = 440
_KERNEL_SECTOR = slice(0x5C, 0x64)
_DRIVE_CHECK = slice(0x66, 0x68)
#: In the first sector of GRUB's core: where the rest of it lies.
_CORE_START = slice(SECTOR_BYTES - 12, SECTOR_BYTES - 4)
_NOPS = b"\x90\x90"


def install(
    disk: Path,
    *,
    architecture: str = "amd64",
    grub: Path = GRUB_DIRECTORY,
    good: frozenset[Slot] = frozenset({Slot.A}),
) -> None:
    """Make the image start: slot A is the primary. The partitions are there and the ESP has its file system.

    ``grub``: its parts for this architecture, see `grub_parts`; ``good``: slots that hold a release. Raises ImageError.
    """
    variant = VARIANTS[architecture]
    memory_disk = _memory_disk(CONFIGURATION.read_bytes())
    with tempfile.TemporaryDirectory(prefix="kyoten-grub-") as name:
        directory = Path(name)
        efi = _image(directory, grub / variant.efi, memory_disk)
        with disk.open("r+b") as file:
            if variant.bios:
                _install_bios(file, _image(directory, grub / _BIOS, memory_disk), grub)
            write_state(file, BootState(1, Slot.A, None, good))
        _install_efi(disk, directory, efi, variant.efi_name)


def grub_parts(architecture: str, suite: str) -> Path:
    """Where GRUB's parts for this architecture are: on this machine, or fetched into the cache. Raises ImageError."""
    variant = VARIANTS[architecture]
    platforms = (_BIOS, variant.efi) if variant.bios else (variant.efi,)
    if all((GRUB_DIRECTORY / platform).exists() for platform in platforms):
        return GRUB_DIRECTORY
    with places.locked() as cache:
        place = cache / f"grub-{architecture}"
        if not place.exists():
            fresh = places.empty(cache / f"{place.name}.new")
            tree.extract(fresh, suite, architecture, variant.packages)
            fresh.rename(place)
    return place / GRUB_DIRECTORY.relative_to("/")


def write_state(file: io.BufferedRandom, state: BootState) -> None:
    """Both copies and an empty note, as at manufacture; ``file`` is the whole disk."""
    start = offset_mib(BOOTSTATE) * MIB
    blocks = {sector: bootstate.render(state) for sector in STATE_COPY_SECTORS}
    blocks[ATTEMPT_SECTOR] = bootstate.render_attempt(Attempt())
    # The headers of the archive: each stands in the sector before its member.
    blocks[0] = _header("state", (ATTEMPT_SECTOR - 2) * SECTOR_BYTES)
    blocks[ATTEMPT_SECTOR - 1] = _header(ATTEMPT_NAME, STATE_BYTES)
    for sector, data in blocks.items():
        file.seek(start + sector * SECTOR_BYTES)
        file.write(data)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def _memory_disk(configuration: bytes) -> bytes:
    """A tar with the configuration; the same bytes each time."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("boot/grub/grub.cfg")
        member.size = len(configuration)
        archive.addfile(member, io.BytesIO(configuration))
    return made.getvalue()


def _image(directory: Path, grub: Path, memory_disk: bytes) -> bytes:
    """``grub``: the directory of one platform, which has its name."""
    platform = grub.name
    source, target = directory / "memdisk.tar", directory / platform
    source.write_bytes(memory_disk)
    programs.run([
        "grub-mkimage", "--format", platform, "--directory", str(grub),
        "--memdisk", str(source), "--prefix", "(memdisk)/boot/grub", "--output", str(target),
        *_COMMON_MODULES, *_MODULES[platform],
    ])  # fmt: skip
    return target.read_bytes()


def _install_bios(file: io.BufferedRandom, core: bytes, grub: Path) -> None:
    if len(core) > BIOS_BOOT.size_mib * MIB:
        raise ImageError(f"GRUB's core has {len(core)} bytes, more than its partition: take modules out")
    sector = offset_mib(BIOS_BOOT) * MIB // SECTOR_BYTES
    record = bytearray((grub / _BIOS / "boot.img").read_bytes()[:_MBR_CODE_BYTES])
    record[_KERNEL_SECTOR] = sector.to_bytes(8, "little")
    # A BIOS that passes a wrong drive is not believed: grub-bios-setup does the same for hard disks.
    record[_DRIVE_CHECK] = _NOPS
    placed = bytearray(core)
    placed[_CORE_START] = (sector + 1).to_bytes(8, "little")
    file.seek(0)
    file.write(record)
    file.seek(sector * SECTOR_BYTES)
    file.write(placed)


def _install_efi(disk: Path, directory: Path, efi: bytes, name: str) -> None:
    source = directory / name
    source.write_bytes(efi)
    # The file's date in the FAT comes from the file.
    os.utime(source, (315_532_800, 315_532_800))
    place = f"{disk}@@{offset_mib(ESP)}M"
    for folder in ("::EFI", "::EFI/BOOT"):
        programs.run(["mmd", "-D", "s", "-i", place, folder])
    programs.run(["mcopy", "-m", "-o", "-i", place, str(source), f"::EFI/BOOT/{name}"])
