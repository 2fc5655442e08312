"""A whole disk as it leaves the factory: partitions of `firmware.layout`, slot A filled, boot loader, empty data.

Nothing is mounted and no loop device is needed: every part is written at its place in the file. The numbers that tell
file systems apart are made from the release's name, so that the same release gives the same disk.
"""

import shutil
import uuid
from pathlib import Path

from firmware import layout
from firmware.image import bootloader, programs
from firmware.image.recipe import Recipe
from firmware.layout import CONFIG, DATA, ESP, MIB, SLOT_A, Partition

_README = """\
Kyoten router: put the enrolment bundle (NAME.bundle) or the ticket of this site here, then start the router.
It takes the file at its next start and removes it from here.

Kyoten ルーター: この拠点の登録バンドル（NAME.bundle）またはチケットをここに置き、ルーターを起動してください。
次の起動時に取り込まれ、ここからは削除されます。
"""
_NAMESPACE = uuid.UUID("6b796f74-656e-4000-8000-000000000000")


def table(disk_mib: int, identity: str) -> str:
    """The partition table as sfdisk reads it. Pure."""
    lines = ["label: gpt", f"label-id: {_uuid(identity, 'disk')}", "unit: sectors", "first-lba: 34"]
    sectors = MIB // layout.SECTOR_BYTES
    for partition in layout.PARTITIONS:
        fields = {
            "start": layout.offset_mib(partition) * sectors,
            "size": layout.size_mib(partition, disk_mib) * sectors,
            "type": partition.type_guid,
            "uuid": _uuid(identity, partition.name),
            "name": f'"{partition.name}"',
        }
        lines.append(f"{partition.number} : " + ", ".join(f"{name}={value}" for name, value in fields.items()))
    return "".join(f"{line}\n" for line in lines)


def make(
    slot: Path, disk: Path, *, wanted: Recipe, identity: str, epoch: int, disk_mib: int = layout.DISK_MIN_MIB
) -> None:
    """Make the disk image; holes stay holes. ``wanted``: of the machine; ``identity``: of the release. Raises
    ImageError."""
    grub = bootloader.grub_parts(wanted.architecture, wanted.suite)
    disk.unlink(missing_ok=True)
    with disk.open("wb") as stream:
        stream.truncate(disk_mib * MIB)
    programs.run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=table(disk_mib, identity).encode()
    )
    _write(slot, disk, SLOT_A)
    fixed = {"SOURCE_DATE_EPOCH": str(epoch), "E2FSPROGS_FAKE_TIME": str(epoch), "MTOOLS_SKIP_CHECK": "1"}
    for partition in (ESP, CONFIG):
        sectors = partition.size_mib * MIB // layout.SECTOR_BYTES
        serial = _uuid(identity, partition.label)[:8]
        where = f"{disk}@@{layout.offset_mib(partition)}M"
        fat32 = ["-F"] if partition is ESP else []
        programs.run(
            [
                "mformat",
                "-i",
                where,
                "-T",
                str(sectors),
                "-h",
                "16",
                "-s",
                "32",
                "-v",
                partition.label,
                "-N",
                serial,
                *fat32,
                "::",
            ],
            environment=fixed,
        )
    programs.run(
        ["mcopy", "-i", f"{disk}@@{layout.offset_mib(CONFIG)}M", "-", "::README.TXT"],
        stdin=_README.replace("\n", "\r\n").encode(),
        environment=fixed,
    )
    programs.run(
        [
            "mke2fs", "-q", "-t", "ext4", "-L", DATA.label, "-U", _uuid(identity, DATA.name), "-m", "1",
            "-O", "^metadata_csum_seed", "-E",
            f"offset={layout.offset_mib(DATA) * MIB},hash_seed={_uuid(identity, 'hash')},lazy_itable_init=0,"
            "lazy_journal_init=1,nodiscard,root_owner=0:0",
            disk, f"{layout.size_mib(DATA, disk_mib)}M",
        ],
        environment=fixed,
    )  # fmt: skip
    bootloader.install(disk, architecture=wanted.architecture, grub=grub)


def _write(source: Path, disk: Path, partition: Partition) -> None:
    with source.open("rb") as read, disk.open("r+b") as written:
        written.seek(layout.offset_mib(partition) * MIB)
        shutil.copyfileobj(read, written, MIB)


def _uuid(identity: str, what: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{identity} {what}"))
