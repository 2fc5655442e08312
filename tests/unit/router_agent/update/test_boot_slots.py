"""Slots: what the boot loader said of this start, and whether a slot's content is what its tree vouches for."""

import hashlib
from pathlib import Path

import pytest

from firmware import slotblock, trees
from firmware.bootstate import Why
from firmware.layout import Slot
from firmware.slotblock import SlotBlock
from firmware.trees import BLOCK_BYTES
from router_agent.errors import StateError
from router_agent.update import slots
from router_agent.update.slots import Booted, BootedTrial

SALT = "5a" * 32
#: More than one block of hashes, and an end within a block.
BLOCKS = 300
USED = BLOCKS * BLOCK_BYTES - 1000


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, SlotBlock]:
    superblock = b"hsqs" + bytes(36) + USED.to_bytes(8, "little")
    data = superblock + b"".join(number.to_bytes(8, "big") for number in range(USED // 8))
    data = data[:USED].ljust(BLOCKS * BLOCK_BYTES, b"\0")
    salt = bytes.fromhex(SALT)
    tree = trees.compute(iter([data]), BLOCKS, salt)
    block = SlotBlock(hashlib.sha256(salt + tree[:BLOCK_BYTES]).hexdigest(), SALT, BLOCKS, "1.0")
    path = tmp_path / "slot"
    # A partition is larger than what lies in it.
    path.write_bytes(data + tree + slotblock.render(block) + b"old" * BLOCK_BYTES)
    return path, block


def test_a_whole_slot_passes(image: tuple[Path, SlotBlock]) -> None:
    path, block = image
    assert slots.facts(path) == block
    assert slots.check(path) == block
    assert slots.check(path, block.root_hash) == block


def test_every_part_of_a_slot_is_looked_at(image: tuple[Path, SlotBlock]) -> None:
    path, block = image
    whole = path.read_bytes()
    tree = BLOCKS * BLOCK_BYTES
    for place in (100, 128 * BLOCK_BYTES + 5, USED + 1, tree, tree + BLOCK_BYTES, block.image_bytes - BLOCK_BYTES):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StateError, match="slot-damaged"):
            slots.check(path)


def test_another_release_than_promised_is_refused(image: tuple[Path, SlotBlock]) -> None:
    with pytest.raises(StateError, match="slot-damaged"):
        slots.check(image[0], "00" * 32)


def test_an_empty_or_missing_slot_is_told(tmp_path: Path, image: tuple[Path, SlotBlock]) -> None:
    path, block = image
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[: block.image_bytes - 2 * BLOCK_BYTES])
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(BLOCK_BYTES))
    for wrong in (cut, empty, tmp_path / "none"):
        for look in (slots.facts, slots.check):
            with pytest.raises(StateError, match="slot-damaged"):
                look(wrong)


def test_what_the_boot_loader_said() -> None:
    line = (
        "BOOT_IMAGE=/boot/vmlinuz quiet rauc.slot=B kyoten.slot=B kyoten.why=trial kyoten.trial=t-1 kyoten.trial_s=900"
    )
    assert slots.parse(line) == Booted(Slot.B, Why.TRIAL, BootedTrial("t-1", 900))
    assert slots.parse("kyoten.slot=A kyoten.why=primary") == Booted(Slot.A, Why.PRIMARY, None)
    for other in (
        "",
        "root=/dev/sda1 ro",
        "kyoten.slot=C kyoten.why=primary",
        "kyoten.slot=A",
        "kyoten.slot= kyoten.why=",
    ):
        assert slots.parse(other) is None
    assert slots.booted(Path("/nonexistent")) is None
