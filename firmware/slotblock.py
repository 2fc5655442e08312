"""The last block of a slot image: it says how to open the slot. Pure.

    slot.img    squashfs | zeros to 4 KiB | dm-verity hash tree (no superblock) | slot block, 4 KiB

The block's place follows from the squashfs's own first bytes, so whoever has the partition has everything, and a slot
is one thing that is written at once. Lines of ``name=value`` that a shell can read: the initial RAM disk does.
"""

import re
from dataclasses import dataclass

from firmware import trees
from firmware.errors import FirmwareError
from firmware.trees import BLOCK_BYTES

#: Of the squashfs superblock that is needed here (squashfs 4.0: magic at 0, bytes_used at 40).
SUPERBLOCK_BYTES = 48
_MAGIC = b"hsqs"
_BYTES_USED = slice(40, 48)

_HEADING = b"# Kyoten slot\n"
_ROOT_HASH = re.compile(r"[0-9a-f]{64}\Z")
_SALT = re.compile(r"([0-9a-f]{2}){1,64}\Z")
_VERSION = re.compile(r"[0-9A-Za-z.+~-]{1,64}\Z")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}\Z", re.ASCII)


class SlotDamagedError(FirmwareError):
    """There is no slot image here, or its block cannot be read; ``params["place"]`` says which part."""


@dataclass(frozen=True, slots=True)
class SlotBlock:
    """``root_hash`` and ``salt`` in hexadecimal; ``data_blocks``: how many blocks the tree speaks of."""

    root_hash: str
    salt: str
    data_blocks: int
    version: str

    @property
    def image_bytes(self) -> int:
        """Size of the slot image, this block included."""
        return position(self.data_blocks) + BLOCK_BYTES


def position(blocks: int) -> int:
    """Where the slot block of an image with so many data blocks lies, in bytes: behind them and their tree."""
    return blocks * BLOCK_BYTES + trees.tree_bytes(blocks)


def data_blocks(superblock: bytes) -> int:
    """How many blocks a squashfs fills, from its first bytes. Raises SlotDamagedError."""
    if len(superblock) < SUPERBLOCK_BYTES or not superblock.startswith(_MAGIC):
        raise SlotDamagedError("firmware.slot-damaged", place="squashfs")
    used = int.from_bytes(superblock[_BYTES_USED], "little")
    if not 0 < used < 1 << 40:
        raise SlotDamagedError("firmware.slot-damaged", place="squashfs")
    return -(-used // BLOCK_BYTES)


def render(block: SlotBlock) -> bytes:
    """The block's bytes. Raises ValueError: a value has a wrong form."""
    lines = "".join(f"{name}={getattr(block, name)}\n" for name in _FORMS)
    made = (_HEADING + lines.encode("ascii", errors="replace")).ljust(BLOCK_BYTES, b"#")
    try:
        same = parse(made) == block
    except SlotDamagedError:
        same = False
    if not same:
        raise ValueError(f"no slot block can say this: {block}")
    return made


def parse(data: bytes) -> SlotBlock:
    """What the block says. Raises SlotDamagedError and nothing else."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if len(data) != BLOCK_BYTES or not data.startswith(_HEADING):
        raise SlotDamagedError("firmware.slot-damaged", place="slot block")
    lines = text.removeprefix(_HEADING.decode()).split("\n")
    found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    if set(found) != _FORMS.keys() or not all(form.match(found[name]) for name, form in _FORMS.items()):
        raise SlotDamagedError("firmware.slot-damaged", place="slot block")
    return SlotBlock(found["root_hash"], found["salt"], int(found["data_blocks"]), found["version"])


_FORMS = {"root_hash": _ROOT_HASH, "salt": _SALT, "data_blocks": _NUMBER, "version": _VERSION}
