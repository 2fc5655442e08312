"""The smallest disk that the boot loader can be tried on: partitions, boot loader, and slots without a system."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from firmware import layout
from firmware.image import bootloader
from firmware.layout import MIB, Partition, Slot


def make(directory: Path, *, whole: frozenset[Slot] = frozenset(Slot)) -> Path:
    """A disk whose slots pass the boot loader's check but hold no kernel; those not in ``whole`` fail it."""
    disk = directory / "disk.img"
    with disk.open("wb") as file:
        file.truncate(layout.DISK_MIN_MIB * MIB)
    lines = [
        f"{part.number}: start={layout.offset_mib(part)}MiB, "
        f"size={layout.size_mib(part, layout.DISK_MIN_MIB)}MiB, type={part.type_guid}, name={part.name}"
        for part in layout.PARTITIONS
    ]
    run(["sfdisk", "--quiet", str(disk)], stdin="label: gpt\n" + "\n".join(lines) + "\n")
    sectors = layout.ESP.size_mib * MIB // layout.SECTOR_BYTES
    run(["mformat", "-i", f"{disk}@@{layout.offset_mib(layout.ESP)}M", "-F", "-T", str(sectors), "-v", "KYOTEN", "::"])
    for slot in Slot:
        put(disk, layout.SLOTS[slot], squashfs(directory / f"slot-{slot}", whole=slot in whole))
    bootloader.install(disk)
    return disk


def squashfs(directory: Path, *, whole: bool) -> bytes:
    """A slot with something that is not a kernel."""
    boot = directory / "boot"
    boot.mkdir(parents=True)
    sums = ""
    for name in ("vmlinuz", "initrd.img"):
        content = f"not really a {name}\n".encode()
        (boot / name).write_bytes(content)
        sums += f"{hashlib.sha256(content if whole else b'').hexdigest()}  {name}\n"
    (boot / "SHA256SUMS").write_text(sums)
    image = directory.with_suffix(".squashfs")
    run(["mksquashfs", str(directory), str(image), "-noI", "-noD", "-noF", "-noX", "-quiet", "-no-progress"])
    shutil.rmtree(directory)
    return image.read_bytes()


def put(disk: Path, partition: Partition, data: bytes, *, sector: int = 0) -> None:
    """Write into a partition."""
    with disk.open("r+b") as file:
        file.seek(layout.offset_mib(partition) * MIB + sector * layout.SECTOR_BYTES)
        file.write(data)


def get(disk: Path, partition: Partition, size: int, *, sector: int = 0) -> bytes:
    """Read from a partition."""
    with disk.open("rb") as file:
        file.seek(layout.offset_mib(partition) * MIB + sector * layout.SECTOR_BYTES)
        return file.read(size)


def run(argv: list[str], *, stdin: str = "") -> None:
    """Raises CalledProcessError."""
    subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True)
