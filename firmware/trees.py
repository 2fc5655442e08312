"""dm-verity's hash trees, computed: they need not travel, because they follow from the bytes that they are about.

A tree is random to any compressor, 1/127 of what it protects, and a byte that moves everything behind it changes all
of it: two of them (slot and bundle) would be half of a small delta. The layout is dm-verity's version 1 without
superblock, as veritysetup and RAUC write it: SHA-256 of salt and block; levels from the top down to the leaves, each
padded with zeros to whole blocks (kernel: Documentation/admin-guide/device-mapper/verity.rst). Pure.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

#: What holds bytes.
Bytes = bytes | bytearray | memoryview | mmap

BLOCK_BYTES = 4096
DIGEST_BYTES = 32
PER_BLOCK = BLOCK_BYTES // DIGEST_BYTES

#: RAUC's verity bundle ends with a CMS structure and its length, 8 octets, most significant first; the manifest in it
#: says what the tree in front of it is (RAUC: "Bundle Formats").
_LENGTH_BYTES = 8
_SIGNATURE_MAX_BYTES = 64 * 1024
_SALT = re.compile(rb"^verity-salt=([0-9a-f]{2,128})\s*$", re.MULTILINE)
_SIZE = re.compile(rb"^verity-size=([0-9]{1,12})\s*$", re.MULTILINE)
_SQUASHFS = b"hsqs"


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree at ``position`` protects ``blocks`` blocks that begin at ``start``; positions in bytes."""

    start: int
    blocks: int
    salt: bytes
    position: int

    @property
    def size(self) -> int:
        """Bytes of the tree."""
        return tree_bytes(self.blocks)


def tree_bytes(blocks: int) -> int:
    """How large the tree over so many blocks is. One block alone is its own root: no tree."""
    total = 0
    while blocks > 1:
        blocks = -(-blocks // PER_BLOCK)
        total += blocks
    return total * BLOCK_BYTES


def compute(pieces: Iterator[Bytes], blocks: int, salt: bytes) -> bytes:
    """The tree over ``blocks`` blocks; they come in pieces of whole blocks. Raises ValueError: they are not as many."""
    begun = hashlib.sha256(salt)
    leaves = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if len(view) % BLOCK_BYTES:
            raise ValueError("not whole blocks")
        for offset in range(0, len(view), BLOCK_BYTES):
            hashed = begun.copy()
            hashed.update(view[offset : offset + BLOCK_BYTES])
            leaves += hashed.digest()
    if len(leaves) != blocks * DIGEST_BYTES:
        raise ValueError("not as many blocks as announced")
    levels: list[bytearray] = []
    level = leaves
    while len(level) > DIGEST_BYTES:
        level += bytes(-len(level) % BLOCK_BYTES)
        levels.append(level)
        above = bytearray()
        for at in range(0, len(level), BLOCK_BYTES):
            above += _digest(begun, level, at)
        level = above
    return b"".join(reversed(levels))


def of_slot(bundle: Bytes, *, data_blocks: int, salt: str) -> Tree | None:
    """The tree of the slot image that lies in a bundle uncompressed; None: there is none with these facts."""
    view = memoryview(bundle).cast("B")
    salted = bytes.fromhex(salt)
    position = _find(view, _SQUASHFS, 1)
    while position >= 0:
        tree = Tree(position, data_blocks, salted, position + data_blocks * BLOCK_BYTES)
        if _first_leaf_fits(view, tree):
            return tree
        position = _find(view, _SQUASHFS, position + 1)
    return None


def of_bundle(bundle: Bytes) -> Tree | None:
    """The tree of a RAUC bundle in verity format; None: it is none."""
    view = memoryview(bundle).cast("B")
    length = int.from_bytes(view[-_LENGTH_BYTES:], "big")
    end = len(view) - _LENGTH_BYTES - length
    if not 0 < length <= _SIGNATURE_MAX_BYTES or end <= 0:
        return None
    manifest = bytes(view[end:-_LENGTH_BYTES])
    salt, size = _SALT.search(manifest), _SIZE.search(manifest)
    if salt is None or size is None or len(salt[1]) % 2:
        return None
    position = end - int(size[1])
    if position <= 0 or position % BLOCK_BYTES:
        return None
    tree = Tree(0, position // BLOCK_BYTES, bytes.fromhex(salt[1].decode()), position)
    return tree if tree.size == int(size[1]) and _first_leaf_fits(view, tree) else None


def _digest(begun: "hashlib._Hash", level: bytearray, at: int) -> bytes:
    hashed = begun.copy()
    hashed.update(level[at : at + BLOCK_BYTES])
    return hashed.digest()


def _first_leaf_fits(view: memoryview, tree: Tree) -> bool:
    """Cheap look: whether the first block's hash stands where the tree would have it."""
    if tree.blocks < 2 or tree.position + tree.size > len(view):
        return False
    leaves = tree.position + tree.size - -(-tree.blocks // PER_BLOCK) * BLOCK_BYTES
    wanted = hashlib.sha256(tree.salt + bytes(view[tree.start : tree.start + BLOCK_BYTES])).digest()
    return bytes(view[leaves : leaves + DIGEST_BYTES]) == wanted


def _find(view: memoryview, what: bytes, start: int, *, step: int = 1 << 20) -> int:
    """`bytes.find` on anything, with little memory."""
    while start < len(view):
        found = bytes(view[start : start + step + len(what) - 1]).find(what)
        if found >= 0:
            return start + found
        start += step
    return -1
