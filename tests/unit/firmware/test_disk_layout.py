"""The disk's plan: nothing overlaps, and the boot state's partition is the archive that GRUB needs."""

import io
import re
import tarfile
from pathlib import Path

import pytest

from firmware import bootstate, layout
from firmware.bootstate import Attempt, BootState
from firmware.image import bootloader
from firmware.layout import (
    ATTEMPT_NAME,
    ATTEMPT_SECTOR,
    BOOTSTATE,
    MIB,
    SECTOR_BYTES,
    STATE_BYTES,
    STATE_COPY_SECTORS,
    Slot,
)

ROOT = Path(__file__).parents[3]


def test_partitions_follow_each_other_to_the_end() -> None:
    disk_mib = layout.DISK_MIN_MIB + 100
    place = layout.ALIGNMENT_MIB
    for number, partition in enumerate(layout.PARTITIONS, 1):
        assert partition.number == number
        assert layout.offset_mib(partition) == place
        place += layout.size_mib(partition, disk_mib)
    assert place + layout.TAIL_MIB == disk_mib
    with pytest.raises(ValueError, match="too small"):
        layout.size_mib(layout.DATA, layout.DISK_MIN_MIB - 1)


def test_the_boot_state_is_an_archive_whose_member_grub_writes(tmp_path: Path) -> None:
    state = BootState(1, Slot.A, None, frozenset({Slot.A}))
    disk = tmp_path / "disk"
    disk.write_bytes(bytes((layout.offset_mib(BOOTSTATE) + BOOTSTATE.size_mib) * MIB))
    with disk.open("r+b") as file:
        bootloader.write_state(file, state)
    partition = disk.read_bytes()[layout.offset_mib(BOOTSTATE) * MIB :]
    with tarfile.open(fileobj=io.BytesIO(partition)) as archive:
        member = archive.getmember(ATTEMPT_NAME)
        assert (member.offset_data, member.size) == (ATTEMPT_SECTOR * SECTOR_BYTES, STATE_BYTES)
        note = archive.extractfile(member)
        assert note is not None
        assert bootstate.parse_attempt(note.read()) == Attempt()
    for sector in STATE_COPY_SECTORS:
        assert bootstate.parse(partition[sector * SECTOR_BYTES :][:STATE_BYTES]) == state


def test_no_block_that_is_written_has_a_header_in_it() -> None:
    """The agent writes blocks of 4 KiB; the archive's headers, in sectors 0 and before the note, never change."""
    written = {sector + more for sector in (*STATE_COPY_SECTORS, ATTEMPT_SECTOR) for more in range(8)}
    assert all(sector % 8 == 0 for sector in (*STATE_COPY_SECTORS, ATTEMPT_SECTOR))
    assert not written & {0, ATTEMPT_SECTOR - 1}


def test_grub_and_the_first_process_mean_the_same_places() -> None:
    """Both are in other languages: what they say by number and by name has to be ours."""
    grub = (ROOT / "images/router/boot/grub/grub.cfg").read_text()
    assert f'state="($disk,gpt{BOOTSTATE.number})"' in grub
    assert f'gpt{layout.SLOT_A.number}"; else root="$disk,gpt{layout.SLOT_B.number}' in grub
    assert set(re.findall(r"load_copy (\d+)", grub)) == {str(sector) for sector in STATE_COPY_SECTORS}
    assert f"$state/{ATTEMPT_NAME}" in grub
    words = (layout.SLOT_WORD, layout.WHY_WORD, layout.TRIAL_WORD, layout.TRIAL_S_WORD)
    assert all(f" {word}=$" in grub for word in words)
    first = (ROOT / "images/router/boot/initrd/init").read_text()
    for name in (layout.SLOT_A.name, layout.SLOT_B.name, layout.DATA.name, layout.ROOT_DEVICE_NAME, layout.TRIAL_WORD):
        assert name in first
