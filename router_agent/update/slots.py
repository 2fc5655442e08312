"""The slots: which one runs and why, and whether what lies in one is what its verity tree vouches for.

The kernel checks each block when it is read, so a slot that was written wrongly would be noticed in the middle of some
later night. `check` reads all of it from the disk before it is booted for the first time.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from firmware import layout, slotblock, trees
from firmware.bootstate import Why
from firmware.layout import Slot
from firmware.slotblock import SlotBlock, SlotDamagedError
from router_agent.errors import StateError
from router_agent.update import direct

COMMAND_LINE = Path("/proc/cmdline")


@dataclass(frozen=True, slots=True)
class BootedTrial:
    """The trial that this start is; over when the kernel has run for ``seconds``."""

    id: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Booted:
    """How this machine was started."""

    slot: Slot
    why: Why
    trial: BootedTrial | None


def device(slot: Slot) -> Path:
    """The slot's partition."""
    return Path(layout.device(layout.SLOTS[slot]))


def booted(command_line: Path = COMMAND_LINE) -> Booted | None:
    """What the boot loader told the kernel; None: this machine does not run the appliance image."""
    try:
        return parse(command_line.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def parse(command_line: str) -> Booted | None:
    """See `booted`. Words that make no sense count as absent."""
    words = dict(word.split("=", 1) for word in command_line.split() if "=" in word)
    slot, why = words.get(layout.SLOT_WORD), words.get(layout.WHY_WORD)
    if slot not in set(Slot) or why not in set(Why):
        return None
    trial_id, seconds = words.get(layout.TRIAL_WORD, ""), words.get(layout.TRIAL_S_WORD, "")
    trial = BootedTrial(trial_id, int(seconds)) if trial_id and seconds.isascii() and seconds.isdecimal() else None
    return Booted(Slot(slot), Why(why), trial)


def facts(path: Path) -> SlotBlock:
    """What the slot in this partition says of itself. Raises StateError: there is none, or it cannot be read."""
    try:
        with direct.opened(path, os.O_RDONLY) as descriptor:
            return _facts(descriptor)
    except (OSError, SlotDamagedError) as error:
        raise _damaged(path, error) from error


def check(path: Path, root_hash: str | None = None) -> SlotBlock:
    """Read the whole slot from the disk and hold it against its tree, and the tree against its root hash.

    ``root_hash``: what the release promises; without it the slot's own word is taken. Takes some ten seconds on a
    router and 8 MiB. Raises StateError: it cannot be read, or a block is not what it was.
    """
    try:
        with direct.opened(path, os.O_RDONLY) as descriptor:
            found = _facts(descriptor)
            salt = bytes.fromhex(found.salt)
            size = found.data_blocks * trees.BLOCK_BYTES
            tree = trees.compute(direct.pieces(descriptor, 0, size), found.data_blocks, salt)
            at = 0
            for piece in direct.pieces(descriptor, size, len(tree)):
                if tree[at : at + len(piece)] != piece:
                    raise SlotDamagedError("firmware.slot-damaged", place="tree")
                at += len(piece)
    except (OSError, SlotDamagedError, ValueError) as error:
        raise _damaged(path, error) from error
    actual = hashlib.sha256(salt + tree[: trees.BLOCK_BYTES]).hexdigest()
    if not hmac.compare_digest(actual, root_hash or found.root_hash) or actual != found.root_hash:
        raise StateError("agent.slot-damaged", path=str(path), reason=f"root hash {actual}")
    return found


def _facts(descriptor: int) -> SlotBlock:
    blocks = slotblock.data_blocks(direct.read(descriptor, 0))
    found = slotblock.parse(direct.read(descriptor, slotblock.position(blocks)))
    if found.data_blocks != blocks:
        raise SlotDamagedError("firmware.slot-damaged", place="slot block")
    return found


def _damaged(path: Path, error: Exception) -> StateError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return StateError("agent.slot-damaged", path=str(path), reason=reason[:200])
