"""A delta: how a release's bundle is made out of the slot image that runs, with little memory.

    KYDELTA1, 4 octets: length of the instructions, the instructions (JSON, zstd), the segments (zstd, one frame each)

The new bytes come, in order, from three places: *copied* from the old image (any offset, read as it is needed), *taken*
from the segments, or *computed*: a dm-verity tree over bytes that are there already. A segment is at most
SEGMENT_BYTES of what the old image does not have, compressed against the ranges of the old image that are most like it
(`zstd --patch-from`), so no more than those ranges and one segment are ever in memory.

The whole is vouched for chunk by chunk before it gets here. All the same nothing in it is believed: every number is
checked before use, output never grows beyond what the instructions announce, and the result is compared by hash.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from firmware import trees, zstd
from firmware.errors import FirmwareError
from firmware.similar import Range
from firmware.trees import Tree

MAGIC = b"KYDELTA1"
FORMAT = 1
#: Of the instructions: compressed, unpacked; and how many there are.
INSTRUCTIONS_MAX_BYTES = 4 << 20
UNPACKED_MAX_BYTES = 32 << 20
STEPS_MAX = 1_000_000
#: What a segment unpacks to at most, and how much of the old image it is held against.
SEGMENT_BYTES = 8 << 20
REFERENCE_MAX_BYTES = 16 << 20
#: Of an image or a bundle.
IMAGE_MAX_BYTES = 1 << 30
#: Pieces in which bytes are moved.
PIECE_BYTES = 1 << 20


class DeltaError(FirmwareError):
    """A delta cannot be applied: it is damaged, it is for another source, or what came out is not what was promised.

    Nothing is left of the output.
    """


class StoppedError(Exception):
    """Whoever asked for it has said stop."""


@dataclass(frozen=True, slots=True)
class CopyStep:
    """``length`` bytes of the old image from ``start`` on."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class TakeStep:
    """The next ``length`` bytes of the segments."""

    length: int


@dataclass(frozen=True, slots=True)
class TreeStep:
    """A hash tree over what was written; ``tree.position`` is here."""

    tree: Tree


Step = CopyStep | TakeStep | TreeStep


@dataclass(frozen=True, slots=True)
class Segment:
    """``compressed`` bytes of the delta that unpack to ``length``, against these ranges of the old image."""

    references: tuple[Range, ...]
    compressed: int
    length: int


@dataclass(frozen=True, slots=True)
class Instructions:
    """How to make ``size`` bytes with this hash out of an old image with that one."""

    from_size: int
    from_sha256: str
    size: int
    sha256: str
    steps: tuple[Step, ...]
    segments: tuple[Segment, ...]


def render(instructions: Instructions) -> bytes:
    """The text of the instructions. Offsets are written as differences: mostly zero or small, so they pack well."""
    written: list[list[int | str]] = []
    expected = 0
    for step in instructions.steps:
        match step:
            case CopyStep(start, length):
                written.append([0, start - expected, length])
                expected = start + length
            case TakeStep(length):
                written.append([1, length])
            case TreeStep(tree):
                written.append([2, tree.start, tree.blocks, tree.salt.hex()])
    segments = [
        [one.compressed, one.length, [[part.start, part.length] for part in one.references]]
        for one in instructions.segments
    ]
    document = {
        "format": FORMAT,
        "from": [instructions.from_size, instructions.from_sha256],
        "to": [instructions.size, instructions.sha256],
        "steps": written,
        "segments": segments,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def parse(text: bytes) -> Instructions:
    """Read instructions and check every number. Raises DeltaError."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise DeltaError("firmware.delta-format", known=FORMAT)
        from_size, from_sha256 = document["from"]
        size, sha256 = document["to"]
        segments = tuple(
            Segment(tuple(Range(_number(a), _number(b)) for a, b in ranges), _number(compressed), _number(length))
            for compressed, length, ranges in document["segments"]
        )
        steps = tuple(_steps(document["steps"]))
        found = Instructions(_number(from_size), str(from_sha256), _number(size), str(sha256), steps, segments)
    except DeltaError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeltaError("firmware.delta-damaged", reason=type(error).__name__) from None
    _check(found)
    return found


def memory_bytes(instructions: Instructions) -> int:
    """What applying needs besides the interpreter: the references three times (handed over, zstd's two copies), the
    segment three times (zstd's two, ours), what is packed twice, a tree twice; and what zstd and we need at least.
    Measured: docs/adr/0021.
    """
    segments = max(
        (
            3 * sum(part.length for part in one.references) + 3 * one.length + 2 * one.compressed
            for one in instructions.segments
        ),
        default=0,
    )
    grown = max((2 * step.tree.size for step in instructions.steps if isinstance(step, TreeStep)), default=0)
    return segments + grown + 12 * PIECE_BYTES


def apply(
    source: Path,
    delta: Path,
    output: Path,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write ``output`` whole and durably, or not at all. ``source``: the old image, or a device that begins with it.

    ``progress``: bytes done and in all, the look through the source counted as well. Raises DeltaError; OSError: the
    disk; zstd.ZstdError: the program is missing; StoppedError: ``stop`` said so.
    """
    try:
        with delta.open("rb") as packed, source.open("rb", buffering=0) as old:
            instructions, begin = read_instructions(packed)
            total = instructions.from_size + instructions.size
            tell = _Teller(progress, stop, total)
            _check_source(old, instructions, tell)
            packed.seek(begin)
            with output.open("w+b") as new:
                _write(instructions, old, packed, new, tell)
                new.flush()
                os.fsync(new.fileno())
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def read_instructions(packed: BinaryIO) -> tuple[Instructions, int]:
    """The instructions of a delta, and where its segments begin. Raises DeltaError."""
    packed.seek(0)
    head = packed.read(len(MAGIC) + 4)
    length = int.from_bytes(head[len(MAGIC) :], "big")
    if head[: len(MAGIC)] != MAGIC or not 0 < length <= INSTRUCTIONS_MAX_BYTES:
        raise DeltaError("firmware.delta-damaged", reason="magic")
    compressed = packed.read(length)
    try:
        text = zstd.decompress(compressed, most_bytes=UNPACKED_MAX_BYTES)
    except zstd.DamagedError:
        raise DeltaError("firmware.delta-damaged", reason="instructions") from None
    return parse(bytes(text)), len(head) + length


class _Teller:
    """Counts what is done, tells it, and ends the work when it is told to."""

    def __init__(self, progress: Callable[[int, int], None], stop: Callable[[], bool], total: int) -> None:
        self._progress, self._stop, self._total = progress, stop, total
        self._done = 0

    def __call__(self, length: int) -> None:
        if self._stop():
            raise StoppedError
        self._done += length
        self._progress(self._done, self._total)


def _check_source(old: BinaryIO, instructions: Instructions, tell: _Teller) -> None:
    hashed = hashlib.sha256()
    for piece in _pieces(old, 0, instructions.from_size):
        hashed.update(piece)
        tell(len(piece))
    if hashed.hexdigest() != instructions.from_sha256:
        raise DeltaError("firmware.delta-other-source", wanted=instructions.from_sha256, found=hashed.hexdigest())


def _write(instructions: Instructions, old: BinaryIO, packed: BinaryIO, new: BinaryIO, tell: _Teller) -> None:
    hashed = hashlib.sha256()
    fresh = _Fresh(instructions.segments, old, packed)

    def put(piece: bytes | memoryview) -> None:
        hashed.update(piece)
        new.write(piece)
        tell(len(piece))

    for step in instructions.steps:
        match step:
            case CopyStep(start, length):
                for piece in _pieces(old, start, length):
                    put(piece)
            case TakeStep(length):
                for part in fresh.take(length):
                    put(part)
            case TreeStep(tree):
                new.flush()
                written = _pieces(new, tree.start, tree.blocks * trees.BLOCK_BYTES)
                put(trees.compute(written, tree.blocks, tree.salt))
    if hashed.hexdigest() != instructions.sha256:
        raise DeltaError("firmware.delta-result", wanted=instructions.sha256, found=hashed.hexdigest())


class _Fresh:
    """The segments, unpacked one at a time as they are used up."""

    def __init__(self, segments: tuple[Segment, ...], old: BinaryIO, packed: BinaryIO) -> None:
        self._segments = iter(segments)
        self._old, self._packed = old, packed
        self._rest = memoryview(b"")

    def take(self, length: int) -> Iterator[memoryview]:
        while length:
            if not self._rest:
                self._rest = memoryview(self._next())
            part = self._rest[:length]
            self._rest = self._rest[len(part) :]
            length -= len(part)
            yield part

    def _next(self) -> bytearray:
        self._rest = memoryview(b"")  # the one before goes before the next one comes
        segment = next(self._segments)  # there are as many bytes as are taken: checked
        compressed = self._packed.read(segment.compressed)
        reference = (piece for part in segment.references for piece in _pieces(self._old, part.start, part.length))
        try:
            found = zstd.decompress(compressed, most_bytes=segment.length, reference=reference)
        except zstd.DamagedError as error:
            raise DeltaError("firmware.delta-damaged", reason=f"segment: {error}") from None
        if len(found) != segment.length:
            raise DeltaError("firmware.delta-damaged", reason="segment length")
        return found


def _pieces(stream: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    """Bytes of a file or device, piece by piece. Raises DeltaError: it ends before."""
    while length:
        piece = os.pread(stream.fileno(), min(PIECE_BYTES, length), start)
        if not piece:
            raise DeltaError("firmware.delta-source-short", position=start)
        yield piece
        start += len(piece)
        length -= len(piece)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= IMAGE_MAX_BYTES:
        raise ValueError("number")
    return value


def _steps(written: object) -> Iterator[Step]:
    if not isinstance(written, list) or len(written) > STEPS_MAX:
        raise ValueError("steps")
    expected = 0
    for one in written:
        match one:
            case [0, int(skip), length]:
                start = _number(expected + skip)
                expected = start + _number(length)
                yield CopyStep(start, length)
            case [1, length]:
                yield TakeStep(_number(length))
            case [2, start, blocks, str(salt)]:
                yield TreeStep(Tree(_number(start), _number(blocks), bytes.fromhex(salt), 0))
            case _:
                raise ValueError("step")


def _check(found: Instructions) -> None:
    """That all that is announced fits together. Raises DeltaError."""
    here = taken = 0
    for step in found.steps:
        match step:
            case CopyStep(start, length):
                good = length > 0 and start + length <= found.from_size
                here += length
            case TakeStep(length):
                good = length > 0
                here += length
                taken += length
            case TreeStep(tree):
                good = tree.blocks > 1 and tree.start + tree.blocks * trees.BLOCK_BYTES <= here
                here += tree.size
        if not good or here > found.size:
            raise DeltaError("firmware.delta-damaged", reason="step")
    good = here == found.size and taken == sum(one.length for one in found.segments)
    for segment in found.segments:
        references = sum(part.length for part in segment.references)
        good = good and 0 < segment.length <= SEGMENT_BYTES and references <= REFERENCE_MAX_BYTES
        good = good and 0 < segment.compressed <= 2 * SEGMENT_BYTES
        good = good and all(part.length and part.end <= found.from_size for part in segment.references)
    if not good:
        raise DeltaError("firmware.delta-damaged", reason="segments")


def facts(instructions: Instructions) -> Mapping[str, int]:
    """How the new bytes are made, in bytes, for people who judge a delta."""
    found = {"copied": 0, "taken": 0, "computed": 0}
    for step in instructions.steps:
        match step:
            case CopyStep(_, length):
                found["copied"] += length
            case TakeStep(length):
                found["taken"] += length
            case TreeStep(tree):
                found["computed"] += tree.size
    return found
