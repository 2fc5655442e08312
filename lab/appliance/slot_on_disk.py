"""A slot of a disk that changes from cut to cut, read as boot loader and initial RAM disk read it.

Whether its verity tree vouches for every block is known of each block once and asked again only of those that have
changed. What the boot loader checks (its own sums of kernel and RAM disk) is looked at apart: GRUB knows no verity.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace

from firmware import layout, slotblock, trees
from firmware.layout import MIB, Slot
from firmware.slotblock import SlotBlock, SlotDamagedError
from firmware.trees import BLOCK_BYTES, DIGEST_BYTES, PER_BLOCK
from lab.power_cut.disk import Disk

_RELEASE = "usr/lib/kyoten/release.json"
_READ_BLOCKS = 256


@dataclass(frozen=True, slots=True)
class SlotFound:
    """``whole``: each block is what the root hash says. ``loadable``: the boot loader would jump into its kernel.

    ``damage``: why it is not whole. ``version`` and ``counter``: of the release in it, as its own file has them.
    """

    whole: bool = False
    loadable: bool = False
    damage: str = ""
    root_hash: str = ""
    version: str = ""
    counter: int = 0


class SlotOnDisk:
    """One slot. `forget` what has changed before each `look`."""

    def __init__(self, disk: Disk, slot: Slot) -> None:
        self._disk = disk
        self._start = layout.offset_mib(layout.SLOTS[slot]) * MIB
        self._blocks = range(self._start // BLOCK_BYTES, self._start // BLOCK_BYTES + _blocks(slot))
        self._facts: SlotBlock | None = None
        self._leaves = bytearray()
        self._unknown: set[int] = set()
        self._found: SlotFound | None = None
        self._by_hash: dict[str, SlotFound] = {}

    def forget(self, blocks: Iterable[int]) -> None:
        """These blocks of the disk are not what they were."""
        mine = [block - self._blocks.start for block in blocks if block in self._blocks]
        if mine:
            self._unknown.update(mine)
            self._found = None

    def look(self) -> SlotFound:
        """What is there now."""
        if self._found is None:
            self._found = self._look()
        return self._found

    def _look(self) -> SlotFound:
        try:
            count = slotblock.data_blocks(self._read(0, slotblock.SUPERBLOCK_BYTES))
            if slotblock.position(count) + BLOCK_BYTES > len(self._blocks) * BLOCK_BYTES:
                raise SlotDamagedError("firmware.slot-damaged", place="size")
            facts = slotblock.parse(self._read(slotblock.position(count), BLOCK_BYTES))
        except SlotDamagedError as error:
            return self._described(SlotFound(damage=f"no slot: {error.params['place']}"))
        if facts.data_blocks != count:
            return self._described(SlotFound(damage="its block speaks of another size"))
        self._hash(facts)
        tree, root_hash = _tree(self._leaves, bytes.fromhex(facts.salt))
        if tree != self._read(count * BLOCK_BYTES, len(tree)):
            return self._described(SlotFound(damage="a block is not what its tree says"))
        if root_hash != facts.root_hash:
            return self._described(SlotFound(damage="its tree is not what its root hash says"))
        if root_hash not in self._by_hash:
            self._by_hash[root_hash] = self._described(SlotFound(whole=True, root_hash=root_hash))
        return self._by_hash[root_hash]

    def _hash(self, facts: SlotBlock) -> None:
        """The digest of each data block, of those that are not known."""
        known = self._facts
        if known is None or (known.salt, known.data_blocks) != (facts.salt, facts.data_blocks):
            self._leaves = bytearray(facts.data_blocks * DIGEST_BYTES)
            self._unknown = set(range(facts.data_blocks))
        self._facts = facts
        begun = hashlib.sha256(bytes.fromhex(facts.salt))
        for first, count in _runs(block for block in self._unknown if block < facts.data_blocks):
            data = self._read(first * BLOCK_BYTES, count * BLOCK_BYTES)
            for number in range(count):
                hashed = begun.copy()
                hashed.update(data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
                place = (first + number) * DIGEST_BYTES
                self._leaves[place : place + DIGEST_BYTES] = hashed.digest()
        self._unknown = set()

    def _described(self, found: SlotFound) -> SlotFound:
        """With what its files say, whatever they are worth."""
        release = self._file(_RELEASE)
        try:
            told = json.loads(release)
            found = replace(found, version=str(told["version"]), counter=int(told["counter"]))
        except (ValueError, KeyError, TypeError):
            pass
        return replace(found, loadable=self._sums_fit())

    def _sums_fit(self) -> bool:
        wanted = {}
        for line in self._file(layout.BOOT_SUMS).decode("ascii", "replace").splitlines():
            digest, _, name = line.partition("  ")
            wanted[f"boot/{name}"] = digest
        return {layout.KERNEL, layout.INITRD} <= wanted.keys() and all(
            hashlib.sha256(self._file(name)).hexdigest() == digest for name, digest in wanted.items()
        )

    def _file(self, path: str) -> bytes:
        """A file of the squashfs; nothing where it cannot be read."""
        argv = ["unsquashfs", "-o", str(self._start), "-cat", str(self._disk.path), path]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout

    def _read(self, offset: int, size: int) -> bytes:
        return self._disk.read(self._start + offset, size)


def _blocks(slot: Slot) -> int:
    return layout.SLOTS[slot].size_mib * MIB // BLOCK_BYTES


def _runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Blocks as first one and count, none longer than what is read at once."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and sum(found[-1]) == block and found[-1][1] < _READ_BLOCKS:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return found


def _tree(leaves: bytes | bytearray, salt: bytes) -> tuple[bytes, str]:
    """The tree above these digests, as it stands on the disk, and the root hash."""
    begun = hashlib.sha256(salt)
    levels: list[bytes] = []
    level = bytes(leaves)
    while len(level) > DIGEST_BYTES:
        level += bytes(-len(level) % BLOCK_BYTES)
        levels.append(level)
        above = bytearray()
        for at in range(0, len(level), PER_BLOCK * DIGEST_BYTES):
            hashed = begun.copy()
            hashed.update(level[at : at + BLOCK_BYTES])
            above += hashed.digest()
        level = bytes(above)
    tree = b"".join(reversed(levels))
    assert len(tree) == trees.tree_bytes(len(leaves) // DIGEST_BYTES)
    return tree, level.hex()
