"""Deltas give the very same bytes from the one image they were made for, and nothing from anything else."""

import hashlib
import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from firmware import delta, delta_make, trees, zstd
from firmware.delta import CopyStep, DeltaError, Instructions, Segment, StoppedError, TakeStep, TreeStep
from firmware.release import SlotFacts
from firmware.similar import Range
from firmware.trees import BLOCK_BYTES

SALT = "ab" * 32
SLOT = SlotFacts(root_hash="0" * 64, salt=SALT, data_blocks=256, image_size=0, image_sha256="0" * 64)


def image(seed: int, *, moved: int = 0, changed: bool = False) -> bytes:
    """A megabyte, a few parts of which moved or changed, with its tree: any change of a byte changes the tree."""
    rolls = random.Random(seed)
    parts = [rolls.randbytes(60_000) for _ in range(16)]
    if changed:
        part = bytearray(parts[7])
        for at in range(0, len(part), 500):
            part[at] ^= 0x55
        parts[7] = bytes(part)
    data = (b"hsqs" + bytes(moved) + b"".join(parts)).ljust(256 * BLOCK_BYTES, b"\0")
    return data + trees.compute(iter([data]), 256, bytes.fromhex(SALT))


def bundle(slot: bytes) -> bytes:
    return b"hsqs" + b"\1" * 92 + slot + b"manifest and signature"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "old").write_bytes(image(1) + b"whatever lies behind it in the partition" * 1000)
    (tmp_path / "old.img").write_bytes(image(1))
    (tmp_path / "new").write_bytes(bundle(image(1, moved=4321, changed=True)))
    return tmp_path


def made(place: Path) -> delta_make.Made:
    return delta_make.make_delta(place / "old.img", place / "new", place / "delta", slot=SLOT, level=3)


def test_a_delta_is_small_and_gives_the_same_bytes(place: Path) -> None:
    facts = made(place)
    assert (facts.from_size, facts.from_sha256) == (len(image(1)), hashlib.sha256(image(1)).hexdigest())
    assert facts.computed == trees.tree_bytes(256), "the tree travelled"
    assert facts.taken < 100_000
    assert (place / "delta").stat().st_size < 3000
    told: list[tuple[int, int]] = []
    delta.apply(place / "old", place / "delta", place / "out", progress=lambda *at: told.append(at))
    assert (place / "out").read_bytes() == (place / "new").read_bytes()
    assert told[-1][0] == told[-1][1] == len(image(1)) + (place / "new").stat().st_size


def test_the_same_delta_is_made_again(place: Path) -> None:
    made(place)
    first = (place / "delta").read_bytes()
    made(place)
    assert (place / "delta").read_bytes() == first


def test_a_tree_that_is_not_what_computing_gives_travels(place: Path) -> None:
    content = bytearray((place / "new").read_bytes())
    content[96 + 256 * BLOCK_BYTES + 5000] ^= 1
    (place / "new").write_bytes(content)
    assert made(place).computed == 0
    delta.apply(place / "old", place / "delta", place / "out")
    assert (place / "out").read_bytes() == bytes(content)


@pytest.mark.parametrize("position", [0, 500_000, -1])
def test_another_source_is_refused_before_anything_is_written(place: Path, position: int) -> None:
    made(place)
    content = bytearray(image(1))
    content[position] ^= 1
    (place / "other").write_bytes(content)
    with pytest.raises(DeltaError) as refused:
        delta.apply(place / "other", place / "delta", place / "out")
    assert refused.value.key == "firmware.delta-other-source"
    assert not (place / "out").exists()


def test_a_source_that_ends_early_is_refused(place: Path) -> None:
    made(place)
    (place / "short").write_bytes(image(1)[:-1])
    with pytest.raises(DeltaError) as refused:
        delta.apply(place / "short", place / "delta", place / "out")
    assert refused.value.key == "firmware.delta-source-short"


def test_a_damaged_delta_gives_our_error_or_the_same_bytes(place: Path) -> None:
    made(place)
    whole = (place / "delta").read_bytes()
    rolls = random.Random(3)
    outcomes = set()
    for _ in range(60):
        broken = bytearray(whole)
        at = rolls.randrange(len(broken))
        if rolls.random() < 0.5:
            broken[at] ^= 1 << rolls.randrange(8)
        else:
            del broken[at:]
        (place / "broken").write_bytes(broken)
        try:
            delta.apply(place / "old", place / "broken", place / "out")
        except DeltaError as error:
            outcomes.add(error.key)
            assert not (place / "out").exists(), "something was left behind"
        else:
            assert (place / "out").read_bytes() == (place / "new").read_bytes()
            (place / "out").unlink()
    assert "firmware.delta-damaged" in outcomes


def test_stopping_leaves_nothing(place: Path) -> None:
    made(place)
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        delta.apply(place / "old", place / "delta", place / "out", stop=lambda: next(calls) > 1)
    assert not (place / "out").exists()


#: 100 bytes from 5000: 60 copied, 40 taken.
SMALL = Instructions(
    from_size=5000,
    from_sha256="0" * 64,
    size=100,
    sha256="1" * 64,
    steps=(CopyStep(4000, 30), TakeStep(40), CopyStep(0, 30)),
    segments=(Segment((Range(0, 4000),), 20, 40),),
)


def test_instructions_are_read_as_they_were_written() -> None:
    tall = replace(
        SMALL,
        size=100 + 2 * BLOCK_BYTES + BLOCK_BYTES,
        steps=(*SMALL.steps, TakeStep(2 * BLOCK_BYTES), TreeStep(trees.Tree(100, 2, b"s", 0))),
        segments=(Segment((Range(0, 4000),), 20, 40 + 2 * BLOCK_BYTES),),
    )
    for instructions in (SMALL, tall):
        assert delta.parse(delta.render(instructions)) == instructions


WRONG: dict[str, Callable[[Instructions], Instructions]] = {
    "copies from behind the source": lambda good: replace(good, steps=(CopyStep(4990, 30), *good.steps[1:])),
    "copies from before it": lambda good: replace(good, steps=(CopyStep(-10, 30), *good.steps[1:])),
    "copies nothing": lambda good: replace(good, steps=(*good.steps, CopyStep(0, 0))),
    "is longer than announced": lambda good: replace(good, size=99),
    "is shorter than announced": lambda good: replace(good, size=101),
    "takes more than there is": lambda good: replace(good, size=101, steps=(*good.steps, TakeStep(1))),
    "has more than is taken": lambda good: replace(good, segments=good.segments * 2),
    "computes over what is not there yet": lambda good: replace(
        good, size=100 + BLOCK_BYTES, steps=(TreeStep(trees.Tree(0, 2, b"", 0)), *good.steps)
    ),
    "has a segment that is too large": lambda good: replace(
        good, size=10**9, steps=(TakeStep(10**9),), segments=(Segment((), 20, 10**9),)
    ),
    "wants too much of the old image": lambda good: replace(
        good, from_size=10**9, segments=(replace(good.segments[0], references=(Range(0, 10**9),)),)
    ),
    "refers to what is behind the source": lambda good: replace(
        good, segments=(replace(good.segments[0], references=(Range(4999, 2),)),)
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_instructions_that_do_not_fit_together_are_refused(wrong: str) -> None:
    with pytest.raises(DeltaError):
        delta.parse(delta.render(WRONG[wrong](SMALL)))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format":2}', "[" * 5000, json.dumps({"format": 1, "from": 3})]
)
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(DeltaError):
        delta.parse(text.encode())


def test_a_small_packet_that_unpacks_to_much_is_refused() -> None:
    packed = zstd.compress_against(bytes(50_000_000), b"", level=1)
    assert len(packed) < 50_000
    with pytest.raises(zstd.DamagedError):
        zstd.decompress(packed, most_bytes=1_000_000)


def test_what_was_never_packed_is_not_passed_on() -> None:
    with pytest.raises(zstd.DamagedError):
        zstd.decompress(b"plain text that is no zstd frame", most_bytes=1000)


def test_a_window_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    for log, good in ((25, True), (27, False)):
        argv = ["zstd", "-q", "-c", "-1", f"--long={log}"]  # from a pipe: the window is the announced one, all of it
        packed = subprocess.run(argv, input=bytes(1 << 20), capture_output=True, check=True).stdout
        (tmp_path / "packed").write_bytes(packed)
        if good:
            assert sum(map(len, zstd.decompress_file(tmp_path / "packed", most_bytes=1 << 20))) == 1 << 20
        else:
            with pytest.raises(zstd.DamagedError, match="memory"):
                list(zstd.decompress_file(tmp_path / "packed", most_bytes=1 << 20))
