"""Making what travels: a release's full payload, and deltas from slot images that run somewhere.

Time and memory are spent here and not on routers: the whole old image is looked through for every part of the new one.
What comes out is applied once before it is handed out: a delta that does not give the very same bytes does not exist.
"""

import hashlib
import mmap
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from firmware import delta, similar, trees, zstd
from firmware.delta import CopyStep, Instructions, Segment, Step, TakeStep, TreeStep
from firmware.release import SlotFacts
from firmware.similar import Range
from firmware.trees import Bytes, Tree

#: As small as zstd gets; some 2 MB/s a core.
LEVEL = 19
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """A delta that was made and tried: which image it is for, and what applying needs (MiB); how it came about, bytes.

    ``memory_mib`` counts the agent's process and zstd's together, without the Python interpreter.
    """

    from_sha256: str
    from_size: int
    memory_mib: int
    copied: int
    taken: int
    computed: int


def make_full(bundle: Path, output: Path, *, level: int = LEVEL) -> None:
    """The whole bundle, packed. Raises zstd.ZstdError, OSError."""
    zstd.compress_file(bundle, output, level=level)


def make_delta(
    old_slot: Path, bundle: Path, output: Path, *, slot: SlotFacts | None = None, level: int = LEVEL
) -> Made:
    """What makes ``bundle`` out of the slot image ``old_slot``. ``slot``: of the image inside the bundle.

    The same bytes each time with the same versions. Raises zstd.ZstdError, OSError; DeltaError: it did not come out
    right, a bug. ``output`` is not there then.
    """
    with old_slot.open("rb") as old_file, bundle.open("rb") as new_file:
        old = mmap.mmap(old_file.fileno(), 0, access=mmap.ACCESS_READ)
        new = mmap.mmap(new_file.fileno(), 0, access=mmap.ACCESS_READ)
        with old, new:
            found = [trees.of_bundle(new)]
            if slot is not None:
                found.append(trees.of_slot(new, data_blocks=slot.data_blocks, salt=slot.salt))
            instructions, segments = _instructions(
                old, new, [tree for tree in found if tree and _is_right(new, tree)], level
            )
    packed = _pack(delta.render(instructions))
    with output.open("wb") as stream:
        stream.write(delta.MAGIC + len(packed).to_bytes(4, "big") + packed)
        stream.writelines(segments)
    trial = output.with_name(output.name + ".trial")
    try:
        delta.apply(old_slot, output, trial)
    except BaseException:
        output.unlink(missing_ok=True)
        raise
    finally:
        trial.unlink(missing_ok=True)
    facts = delta.facts(instructions)
    memory_mib = -(-delta.memory_bytes(instructions) // _MIB)
    return Made(instructions.from_sha256, instructions.from_size, memory_mib, **facts)


def _instructions(old: Bytes, new: Bytes, computed: Sequence[Tree], level: int) -> tuple[Instructions, list[bytes]]:
    known = similar.places(old)
    steps: list[Step] = []
    gaps: list[_Gap] = []
    for start, end, tree in _parts(len(new), computed):
        if tree is not None:
            steps.append(TreeStep(tree))
            continue
        at, before = start, 0
        for copy in similar.copies(old, new, known, start, end):
            if copy.new > at:
                steps.append(TakeStep(copy.new - at))
                gaps.append(_Gap(at, copy.new, before, copy.old))
            steps.append(CopyStep(copy.old, copy.length))
            at, before = copy.new + copy.length, copy.old + copy.length
        if end > at:
            steps.append(TakeStep(end - at))
            gaps.append(_Gap(at, end, before, before + end - at))
    plans = list(_segments(gaps))
    # The work is zstd's, in processes of its own.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        made = list(threads.map(lambda plan: _segment(old, new, known, plan, level), plans))
    instructions = Instructions(
        from_size=len(old),
        from_sha256=hashlib.sha256(old).hexdigest(),
        size=len(new),
        sha256=hashlib.sha256(new).hexdigest(),
        steps=tuple(steps),
        segments=tuple(segment for segment, _ in made),
    )
    return instructions, [packed for _, packed in made]


@dataclass(frozen=True, slots=True)
class _Gap:
    """``start`` to ``end`` of the new image is nowhere in the old one; what was between its neighbours there."""

    start: int
    end: int
    old_start: int
    old_end: int


def _parts(size: int, computed: Sequence[Tree]) -> Iterator[tuple[int, int, Tree | None]]:
    """The new image in order: what is computed, and what lies between."""
    at = 0
    for tree in sorted(computed, key=lambda one: one.position):
        if tree.position > at:
            yield at, tree.position, None
        at = tree.position + tree.size
        yield tree.position, at, tree
    if size > at:
        yield at, size, None


def _segments(gaps: Sequence[_Gap]) -> Iterator[list[_Gap]]:
    """The gaps in groups of at most SEGMENT_BYTES; a longer one is cut, its old neighbourhood in proportion."""
    group: list[_Gap] = []
    room = delta.SEGMENT_BYTES
    for gap in gaps:
        rest = gap
        while rest.end - rest.start > room:
            old_cut = min(rest.old_start + room, max(rest.old_end, rest.old_start))
            yield [*group, _Gap(rest.start, rest.start + room, rest.old_start, old_cut)]
            rest = _Gap(rest.start + room, rest.end, old_cut, rest.old_end)
            group, room = [], delta.SEGMENT_BYTES
        group.append(rest)
        room -= rest.end - rest.start
        if room == 0:
            yield group
            group, room = [], delta.SEGMENT_BYTES
    if group:
        yield group


def _segment(old: Bytes, new: Bytes, known: similar.Places, gaps: Sequence[_Gap], level: int) -> tuple[Segment, bytes]:
    references = _references(old, new, known, gaps)
    content = b"".join(bytes(new[gap.start : gap.end]) for gap in gaps)
    reference = b"".join(bytes(old[part.start : part.end]) for part in references)
    packed = zstd.compress_against(content, reference, level=level)
    return Segment(references, len(packed), len(content)), packed


def _references(old: Bytes, new: Bytes, known: similar.Places, gaps: Sequence[_Gap]) -> tuple[Range, ...]:
    """Where in the old image to look for what is like these gaps, the most like first, up to the bound."""
    units: Counter[int] = Counter()
    for gap in gaps:
        length = gap.end - gap.start
        if 0 < gap.old_end - gap.old_start <= 4 * length + similar.UNIT_BYTES:
            for unit in range(gap.old_start // similar.UNIT_BYTES, -(-gap.old_end // similar.UNIT_BYTES)):
                units[unit] += 16
    units.update(similar.alike(old, new, known, [(gap.start, gap.end) for gap in gaps], delta.REFERENCE_MAX_BYTES))
    best = (unit for unit, _ in units.most_common(delta.REFERENCE_MAX_BYTES // similar.UNIT_BYTES))
    return similar.ranges(best, len(old))


def _is_right(new: Bytes, tree: Tree) -> bool:
    """Whether the tree is what computing it gives: if not, it travels like everything else."""
    end = tree.start + tree.blocks * trees.BLOCK_BYTES
    pieces = (new[at : min(at + _MIB, end)] for at in range(tree.start, end, _MIB))
    return trees.compute(pieces, tree.blocks, tree.salt) == new[tree.position : tree.position + tree.size]


def _pack(text: bytes) -> bytes:
    return zstd.compress_against(text, b"")
