"""The slot block: found behind the squashfs, read back, and refused when it is anything else."""

from dataclasses import replace

import pytest

from firmware import slotblock
from firmware.slotblock import SlotBlock, SlotDamagedError
from firmware.trees import BLOCK_BYTES

BLOCK = SlotBlock("ab" * 32, "cd" * 32, 80_000, "1.4.0")


def superblock(used: int) -> bytes:
    return b"hsqs" + bytes(36) + used.to_bytes(8, "little")


def test_it_comes_back() -> None:
    made = slotblock.render(BLOCK)
    assert len(made) == BLOCK_BYTES
    assert slotblock.parse(made) == BLOCK
    # 80,000 blocks have 625 + 5 + 1 blocks of hashes.
    assert BLOCK.image_bytes == (80_000 + 631 + 1) * BLOCK_BYTES


@pytest.mark.parametrize(("used", "blocks"), [(1, 1), (BLOCK_BYTES, 1), (BLOCK_BYTES + 1, 2), (400_000_000, 97_657)])
def test_the_squashfs_says_how_many_blocks_it_fills(used: int, blocks: int) -> None:
    assert slotblock.data_blocks(superblock(used)) == blocks


@pytest.mark.parametrize("data", [b"", b"hsqs", b"sqsh" + bytes(44), superblock(0), superblock(1 << 41)])
def test_what_is_no_squashfs_is_refused(data: bytes) -> None:
    with pytest.raises(SlotDamagedError):
        slotblock.data_blocks(data)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(BLOCK, root_hash="ab" * 31),
        replace(BLOCK, salt="x"),
        replace(BLOCK, data_blocks=0),
        replace(BLOCK, version="1.0\nroot_hash=00"),
        replace(BLOCK, version="é"),
    ],
)
def test_a_value_that_could_be_read_otherwise_is_not_written(wrong: SlotBlock) -> None:
    with pytest.raises(ValueError, match="no slot block"):
        slotblock.render(wrong)


def test_a_damaged_block_is_refused() -> None:
    made = slotblock.render(BLOCK)
    for wrong in (
        b"",
        made[:-1],
        bytes(BLOCK_BYTES),
        made.replace(b"salt=", b"salz="),
        made.replace(b"cd", b"\xff\xff"),
    ):
        with pytest.raises(SlotDamagedError):
            slotblock.parse(wrong)
