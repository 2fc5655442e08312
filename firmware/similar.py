"""What of a new image is in an old one: long runs that are the very same, and old ranges that are like the rest. Pure.

Anchors are places where the bytes themselves match a pattern, so they are the same places in both images however far
something moved. Between two long runs lies what changed; what lay between the same two in the old image is what it was
before, and anchors in it tell where else its parts come from.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from firmware.trees import Bytes

#: A shorter run costs more in instructions than a compressor needs for it.
COPY_MIN_BYTES = 4096
#: An anchor is told by so many bytes; they have to be the same for it to be found.
FINGERPRINT_BYTES = 24
#: Old places kept of one fingerprint: code that occurs a hundred times tells nothing.
PLACES_MAX = 4
#: Old ranges are counted and taken in units of this size.
UNIT_BYTES = 32 * 1024
#: Steps in which runs are compared.
_COMPARE_BYTES = 1 << 16


def _class(name: str, share: int) -> bytes:
    """A set of byte values for a pattern, one in ``share``, drawn by a hash: neither text nor code is without anchors.

    Zero and 255 are not in it: a run of them would be one long row of anchors.
    """
    drawn = hashlib.shake_256(name.encode()).digest(256)
    values = sorted(range(1, 255), key=lambda value: (drawn[value], value))[: 256 // share]
    return b"[" + b"".join(re.escape(bytes((value,))) for value in values) + b"]"


#: One place in some 512.
_ANCHOR = re.compile(_class("first", 8) + _class("second", 8) + _class("third", 8), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Copy:
    """``length`` bytes at ``new`` are those at ``old``."""

    new: int
    old: int
    length: int


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of the old image."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.length


Places = dict[bytes, tuple[int, ...]]


def places(old: Bytes) -> Places:
    """Where each fingerprint is in the old image."""
    found: Places = {}
    for at in _anchors(old, 0, len(old)):
        print_ = bytes(old[at : at + FINGERPRINT_BYTES])
        known = found.get(print_, ())
        if len(known) < PLACES_MAX:
            found[print_] = (*known, at)
    return found


def copies(old: Bytes, new: Bytes, known: Places, start: int, end: int) -> Iterator[Copy]:
    """The long runs of ``new[start:end]`` that are in the old image, in order, none overlapping another."""
    done, drift = start, 0
    for at in _anchors(new, start, end):
        if at < done:
            continue
        candidates = known.get(bytes(new[at : at + FINGERPRINT_BYTES]), ())
        # What goes on where the run before ended is most likely, and of a hundred equal places the right one.
        for place in sorted({at + drift, *candidates}, key=lambda place: abs(place - at - drift)):
            if not 0 <= place < len(old):
                continue
            forward = _same(old, place, new, at, min(len(old) - place, end - at))
            if forward < FINGERPRINT_BYTES:
                continue
            back = _same_before(old, place, new, at, min(place, at - done))
            if forward + back >= COPY_MIN_BYTES:
                yield Copy(at - back, place - back, forward + back)
                done, drift = at + forward, place - at
                break


def alike(old: Bytes, new: Bytes, known: Places, gaps: Sequence[tuple[int, int]], most_bytes: int) -> Counter[int]:
    """Units of the old image that parts of these gaps of the new one come from, with how often; at most so many bytes.

    A unit beside one that is hit counts a little: changed bytes have no anchors in common.
    """
    votes: Counter[int] = Counter()
    last = -(-len(old) // UNIT_BYTES)
    for start, end in gaps:
        for at in _anchors(new, start, end):
            found = known.get(bytes(new[at : at + FINGERPRINT_BYTES]), ())
            for place in found:
                unit = place // UNIT_BYTES
                votes[unit] += 12 // len(found)
                for beside in (unit - 1, unit + 1):
                    if 0 <= beside < last:
                        votes[beside] += 1
    return Counter(dict(votes.most_common(most_bytes // UNIT_BYTES)))


def ranges(units: Iterator[int], size: int) -> tuple[Range, ...]:
    """Units as ranges, neighbours joined, in order; ``size``: of the old image."""
    found: list[Range] = []
    for unit in sorted(set(units)):
        start = unit * UNIT_BYTES
        length = min(UNIT_BYTES, size - start)
        if length <= 0:
            continue
        if found and found[-1].end == start:
            found[-1] = Range(found[-1].start, found[-1].length + length)
        else:
            found.append(Range(start, length))
    return tuple(found)


def _anchors(data: Bytes, start: int, end: int) -> Iterator[int]:
    for match in _ANCHOR.finditer(data, start, max(start, end - FINGERPRINT_BYTES)):
        yield match.start()


def _same(old: Bytes, place: int, new: Bytes, at: int, most: int) -> int:
    """How many bytes from there on are the same."""
    done, step = 0, 256
    while done < most:
        length = min(step, most - done)
        left, right = old[place + done : place + done + length], new[at + done : at + done + length]
        if left != right:
            return done + _first_difference(bytes(left), bytes(right))
        done += length
        step = min(step * 4, _COMPARE_BYTES)
    return done


def _same_before(old: Bytes, place: int, new: Bytes, at: int, most: int) -> int:
    """How many bytes before there are the same."""
    done, step = 0, 256
    while done < most:
        length = min(step, most - done)
        left = bytes(old[place - done - length : place - done])
        right = bytes(new[at - done - length : at - done])
        if left != right:
            return done + _first_difference(left[::-1], right[::-1])
        done += length
        step = min(step * 4, _COMPARE_BYTES)
    return done


def _first_difference(left: bytes, right: bytes) -> int:
    """Where two texts of one length, which differ, differ first."""
    low, high = 0, len(left)
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
