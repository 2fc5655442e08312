"""Whatever became of an image, its delta gives the very same bytes; whatever instructions say, nothing else happens."""

import json
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from firmware import delta, delta_make, trees
from firmware.delta import DeltaError

BASE = random.Random(7).randbytes(150_000) + bytes(30_000) + b"text that comes again and again\n" * 1000

_PLACE = st.integers(0, 300_000)
_LENGTH = st.integers(0, 40_000)
EDIT = st.one_of(
    st.tuples(st.just("insert"), _PLACE, _LENGTH, st.integers(0, 9)),
    st.tuples(st.just("delete"), _PLACE, _LENGTH, st.just(0)),
    st.tuples(st.just("move"), _PLACE, _LENGTH, _PLACE),
    st.tuples(st.just("copy"), _PLACE, _LENGTH, _PLACE),
    st.tuples(st.just("scatter"), _PLACE, _LENGTH, st.integers(1, 3000)),
)


def edited(content: bytes, edits: list[tuple[str, int, int, int]]) -> bytes:
    for what, place, length, other in edits:
        start = place % (len(content) + 1)
        part = content[start : start + length]
        match what:
            case "insert":
                content = content[:start] + random.Random(other).randbytes(length) + content[start:]
            case "delete":
                content = content[:start] + content[start + length :]
            case "move":
                rest = content[:start] + content[start + length :]
                to = other % (len(rest) + 1)
                content = rest[:to] + part + rest[to:]
            case "copy":
                to = other % (len(content) + 1)
                content = content[:to] + part + content[to:]
            case _:
                scattered = bytearray(content)
                for at in range(start, min(start + length, len(content)), other):
                    scattered[at] ^= 0x5A
                content = bytes(scattered)
    return content


@settings(max_examples=25, deadline=None)
@given(edits=st.lists(EDIT, max_size=6))
def test_a_delta_gives_the_very_same_bytes(edits: list[tuple[str, int, int, int]]) -> None:
    new = edited(BASE, edits) or b"x"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "old").write_bytes(BASE)
        (place / "new").write_bytes(new)
        delta_make.make_delta(place / "old", place / "new", place / "delta", level=1)
        # On the device more lies behind the image.
        (place / "device").write_bytes(BASE + b"\xff" * 5000)
        delta.apply(place / "device", place / "delta", place / "out")
        assert (place / "out").read_bytes() == new


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
_STEP = st.one_of(
    st.tuples(st.just(0), st.integers(-5000, 5000), st.integers(-1, 5000)),
    st.tuples(st.just(1), st.integers(-1, 5000)),
    st.tuples(st.just(2), st.integers(-1, 9000), st.integers(-1, 3), st.sampled_from(["", "00", "zz"])),
    _ANY,
)
_DOCUMENT = st.fixed_dictionaries(
    {
        "format": st.just(1) | _ANY,
        "from": st.tuples(st.integers(-1, 9000), st.just("0" * 64)) | _ANY,
        "to": st.tuples(st.integers(-1, 9000), st.just("0" * 64)) | _ANY,
        "steps": st.lists(_STEP, max_size=4) | _ANY,
        "segments": st.lists(
            st.tuples(st.integers(-1, 100), st.integers(-1, 5000), st.lists(st.tuples(st.integers(), st.integers()))),
            max_size=2,
        )
        | _ANY,
    }
)


@settings(max_examples=120, deadline=None)
@given(document=_DOCUMENT | _ANY)
def test_any_instructions_are_refused_or_stay_within_what_they_announce(document: object) -> None:
    try:
        found = delta.parse(json.dumps(document).encode())
    except DeltaError:
        return
    made = sum(step.tree.size if isinstance(step, delta.TreeStep) else step.length for step in found.steps)
    assert made == found.size
    assert all(
        step.start >= 0 and step.start + step.length <= found.from_size
        for step in found.steps
        if isinstance(step, delta.CopyStep)
    )


@settings(max_examples=120, deadline=None)
@given(text=st.binary(max_size=200))
def test_any_bytes_are_no_instructions_and_no_tree(text: bytes) -> None:
    for read in (delta.parse, lambda data: _refuse_none(trees.of_bundle(data))):
        try:
            read(text)
        except DeltaError:
            continue
        raise AssertionError("noise was read")


def _refuse_none(found: object) -> None:
    if found is None:
        raise DeltaError("firmware.delta-damaged", reason="none")
