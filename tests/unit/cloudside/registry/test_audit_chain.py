"""Whatever is done to a chain of entries, the first that does not fit is named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from cloudside.registry.chain import EMPTY, ORIGIN, Entry, Head, digest, read_head, verify

NOW = datetime(2026, 11, 21, 9, 0, 0, 5, tzinfo=UTC)
Chain = list[tuple[Entry, str]]


def _chain(count: int, *, text: str = "") -> Chain:
    head, made = EMPTY, []
    for number in range(1, count + 1):
        after = {"phase": "operation", "text": text, "n": number, "ratio": 0.1}
        entry = Entry(number, NOW, "ann", "acme", "added", "sites", f"s{number}", None, after, head.hash)
        head = Head(number, digest(entry))
        made.append((entry, head.hash))
    return made


def _sealed(chain: Chain, start: int) -> Chain:
    """All hashes from ``start`` computed anew, as somebody would who knows how."""
    made = list(chain)
    for place in range(start, len(made)):
        previous = made[place - 1][1] if place else ORIGIN
        entry = replace(made[place][0], previous=previous)
        made[place] = (entry, digest(entry))
    return made


def _with(chain: Chain, place: int, **changed: object) -> Chain:
    entry, found = chain[place]
    return [*chain[:place], (replace(entry, **changed), found), *chain[place + 1 :]]  # type: ignore[arg-type]


def test_whole_chain_and_none_at_all() -> None:
    made = _chain(5)
    assert verify(made) == verify(made, [Head(3, made[2][1]), Head(5, made[4][1]), EMPTY])
    assert verify(made).key is None
    assert verify(made).head == Head(5, made[4][1])
    assert verify([]).head == EMPTY
    assert verify([]).key is None


_TAMPERING: dict[str, tuple[Callable[[Chain], Chain], str, int]] = {
    "value changed": (lambda c: _with(c, 2, after={"phase": "retired"}), "audit.changed", 3),
    "actor changed": (lambda c: _with(c, 2, actor="bob"), "audit.changed", 3),
    "time changed": (lambda c: _with(c, 2, at=NOW + timedelta(microseconds=1)), "audit.changed", 3),
    "tenant taken out": (lambda c: _with(c, 0, tenant=None), "audit.changed", 1),
    "changed and its hash too": (lambda c: [*c[:2], *_sealed(_with(c, 2, actor="bob"), 2)[2:3], *c[3:]],
                                 "audit.out-of-chain", 4),
    "removed": (lambda c: [*c[:2], *c[3:]], "audit.missing", 3),
    "first removed": (lambda c: c[1:], "audit.missing", 1),
    "removed and the rest renumbered": (
        lambda c: [*c[:2], *((replace(entry, number=entry.number - 1), found) for entry, found in c[3:])],
        "audit.changed", 3,
    ),
    "two exchanged": (
        lambda c: [*c[:1], (replace(c[2][0], number=2), c[2][1]), (replace(c[1][0], number=3), c[1][1]), *c[3:]],
        "audit.changed", 2,
    ),
    "put in before the first": (lambda c: [(replace(c[0][0], number=0), c[0][1]), *c], "audit.put-in", 0),
    "put in twice": (lambda c: [*c[:2], c[1], *c[2:]], "audit.put-in", 2),
    "chain of another log": (lambda c: [*c[:2], *_chain(5, text="other")[2:]], "audit.out-of-chain", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", _TAMPERING)
def test_first_entry_that_does_not_fit_is_named(name: str) -> None:
    tamper, key, number = _TAMPERING[name]
    verdict = verify(tamper(_chain(5)))
    assert (verdict.key, verdict.number) == (key, number)
    assert verdict.head.number <= max(0, number)


def test_only_a_kept_head_notices_what_was_sealed_anew_or_cut_off() -> None:
    made = _chain(5)
    forged = _sealed(_with(made, 2, actor="bob"), 2)
    assert verify(forged).key is None
    verdict = verify(forged, [Head(5, made[4][1])])
    assert (verdict.key, verdict.number) == ("audit.not-as-witnessed", 5)
    verdict = verify(forged, [Head(2, made[1][1]), Head(3, made[2][1]), Head(5, made[4][1])])
    assert verdict.number == 3  # the more heads were kept, the closer
    cut = made[:3]
    assert verify(cut).key is None
    verdict = verify(cut, [Head(2, made[1][1]), Head(5, made[4][1])])
    assert (verdict.key, verdict.number, verdict.head.number) == ("audit.tail-missing", 4, 3)
    assert verify([], [Head(1, made[0][1])]).key == "audit.tail-missing"


def test_two_kept_heads_that_contradict_each_other_cannot_both_fit() -> None:
    made = _chain(2)
    assert verify(made, [Head(2, made[1][1]), Head(2, "f" * 64)]).key == "audit.not-as-witnessed"
    assert verify(made, [Head(0, "f" * 64)]).key == "audit.not-as-witnessed"


def test_hash_is_of_the_moment_not_of_how_it_is_written() -> None:
    entry = _chain(1)[0][0]
    tokyo = replace(entry, at=NOW.astimezone(timezone(timedelta(hours=9))))
    assert digest(tokyo) == digest(entry)
    assert digest(replace(entry, after=dict(reversed((entry.after or {}).items())))) == digest(entry)


@pytest.mark.parametrize("text", ["", "1", "1:", "x:" + "0" * 64, "1:" + "0" * 63, "-1:" + "0" * 64, "1:" + "G" * 64])
def test_what_is_no_head(text: str) -> None:
    assert read_head(text) is None


def test_head_is_read_as_it_is_written() -> None:
    head = Head(12, "0a" * 32)
    assert read_head(f" {head}\n") == head
