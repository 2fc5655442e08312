"""slot.img: the squashfs, the dm-verity tree behind it, and the slot block that says how to open both.

Format and places: `firmware.slotblock`. veritysetup makes the tree, so the one that the kernel reads is not ours.
"""

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

from firmware import slotblock
from firmware.image import places, programs
from firmware.image.errors import ImageError
from firmware.release import SlotFacts
from firmware.slotblock import SlotBlock
from firmware.trees import BLOCK_BYTES

_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


def salt(hardware: str, version: str, counter: int) -> str:
    """A release's salt: fixed by its name, so that it can be built again to the same bytes. Pure."""
    return hashlib.sha256(f"kyoten {hardware} {version} {counter}".encode()).hexdigest()


def make(squashfs: Path, image: Path, *, salt: str, version: str) -> SlotFacts:
    """Make ``squashfs`` into ``image``, which replaces it. Raises ImageError."""
    squashfs.rename(image)
    with image.open("r+b") as stream:
        blocks = slotblock.data_blocks(stream.read(slotblock.SUPERBLOCK_BYTES))
        stream.truncate(blocks * BLOCK_BYTES)
    shown = programs.run(["veritysetup", "format", image, image, f"--data-blocks={blocks}", *_options(blocks, salt)])
    found = _ROOT_HASH.search(shown)
    if found is None:
        raise ImageError(f"veritysetup named no root hash: {shown[:200]}")
    block = SlotBlock(root_hash=found[1], salt=salt, data_blocks=blocks, version=version)
    with image.open("r+b") as stream:
        stream.seek(slotblock.position(blocks))
        stream.write(slotblock.render(block))
        stream.truncate()
    return SlotFacts(block.root_hash, salt, blocks, image.stat().st_size, places.sha256(image))


def verify(image: Path, facts: SlotFacts) -> None:
    """Hold the image against its root hash, by veritysetup. Raises ImageError: a block differs."""
    options = [f"--data-blocks={facts.data_blocks}", *_options(facts.data_blocks, facts.salt)]
    programs.run(["veritysetup", "verify", image, image, facts.root_hash, *options])


def _options(blocks: int, salt: str) -> list[str]:
    return [
        "--no-superblock", f"--hash-offset={blocks * BLOCK_BYTES}", "--format=1", "--hash=sha256", f"--salt={salt}",
        f"--data-block-size={BLOCK_BYTES}", f"--hash-block-size={BLOCK_BYTES}",
    ]  # fmt: skip


def facts_text(facts: SlotFacts) -> str:
    """slot.json, for whoever has no slot.img at hand. Pure."""
    return json.dumps(asdict(facts), indent=1) + "\n"
