"""Disks for machines: a copy of the image with what a person would put on it, and parts of one read while it is off."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from firmware import bootstate, layout
from firmware.bootstate import Attempt, BootState
from firmware.layout import ATTEMPT_SECTOR, BOOTSTATE, CONFIG, MIB, SECTOR_BYTES, STATE_BYTES, STATE_COPY_SECTORS, Slot
from firmware.layout import Partition as Part
from lab.network import LabError

_STICK_MIB = 64


def copy(image: Path, disk: Path) -> Path:
    """A disk of its own for one machine; holes stay holes."""
    _run(["cp", "--sparse=always", "--reflink=auto", str(image), str(disk)])
    return disk


def put_on_config(disk: Path, source: Path, name: str) -> None:
    """Put a ticket or a bundle on the config partition, as a person would."""
    _run(["mcopy", "-o", "-i", _fat(disk), str(source), f"::{name}"])


def files_on_config(disk: Path) -> set[str]:
    """Names on the config partition."""
    return _files(_fat(disk))


def make_stick(stick: Path, files: Mapping[str, bytes]) -> Path:
    """A USB stick as it is sold, one partition with FAT32, that somebody gave our label and these files."""
    with stick.open("wb") as stream:
        stream.truncate(_STICK_MIB * MIB)
    _run(["sfdisk", "--quiet", str(stick)], typed=f"start={MIB // SECTOR_BYTES}, type=c\n")
    sectors = (_STICK_MIB - 1) * MIB // SECTOR_BYTES
    _run(["mformat", "-i", _fat_of(stick), "-F", "-T", str(sectors), "-h", "16", "-s", "32", "-v", CONFIG.label, "::"])
    for name, content in files.items():
        source = stick.with_name(name)
        source.write_bytes(content)
        _run(["mcopy", "-i", _fat_of(stick), str(source), f"::{name}"])
        source.unlink()
    return stick


def files_on_stick(stick: Path) -> set[str]:
    """Names on a stick that is not plugged in."""
    return _files(_fat_of(stick))


def boot_blocks(disk: Path) -> tuple[list[bytes], bytes]:
    """Both copies of the boot state, and the boot loader's note."""
    copies = [read(disk, BOOTSTATE, sector, STATE_BYTES) for sector in STATE_COPY_SECTORS]
    return copies, read(disk, BOOTSTATE, ATTEMPT_SECTOR, STATE_BYTES)


def boot_state(disk: Path) -> BootState:
    """The copy that counts. Raises DamagedError."""
    return bootstate.newest(boot_blocks(disk)[0])[1]


def set_boot_state(disk: Path, state: BootState, attempt: Attempt | None = None) -> None:
    """Write both copies, and the note if it is given."""
    for sector in STATE_COPY_SECTORS:
        write(disk, BOOTSTATE, sector, bootstate.render(state))
    if attempt is not None:
        write(disk, BOOTSTATE, ATTEMPT_SECTOR, bootstate.render_attempt(attempt))


def fill_slot(disk: Path, slot: Slot, image: Path) -> None:
    """Put a slot image into a slot, as RAUC would."""
    with image.open("rb") as source, disk.open("r+b") as target:
        target.seek(layout.offset_mib(layout.SLOTS[slot]) * MIB)
        shutil.copyfileobj(source, target, MIB)


def read(disk: Path, part: Part, sector: int, size: int) -> bytes:
    """Bytes of a partition."""
    with disk.open("rb") as file:
        file.seek(layout.offset_mib(part) * MIB + sector * SECTOR_BYTES)
        return file.read(size)


def write(disk: Path, part: Part, sector: int, data: bytes) -> None:
    """Write into a partition; the machine is off."""
    with disk.open("r+b") as file:
        file.seek(layout.offset_mib(part) * MIB + sector * SECTOR_BYTES)
        file.write(data)


def _fat(disk: Path) -> str:
    return f"{disk}@@{layout.offset_mib(CONFIG)}M"


def _fat_of(stick: Path) -> str:
    return f"{stick}@@1M"


def _files(fat: str) -> set[str]:
    return set(_run(["mdir", "-b", "-i", fat, "::"]).replace("::/", "").split())


def _run(argv: list[str], *, typed: str = "") -> str:
    ended = subprocess.run(argv, input=typed, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise LabError(f"{argv[0]} failed: {ended.stderr.strip()[-300:]}")
    return ended.stdout
