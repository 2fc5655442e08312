"""The dry run: who, what, over which line, at what cost; and that a start does as it said."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from rollout_worlds import START, plan

from cloudside.fleet.rollouts import rings
from cloudside.fleet.rollouts.model import Ring, Terms
from cloudside.fleet.rollouts.plan import Cost, DryRun, Kind, Offerable, Out, Place, draft
from firmware.permit import Permit, SignedPermit, render
from firmware.release import UNASKED_MAX_BYTES

RELEASES = {"box": Offerable("releases/box/1.1.0.json", 11, 8, 100_000, {10: 5_000})}
HERE = START - timedelta(minutes=1)


def place(site: str, counter: int = 10, uplink: str = "wired", **more: object) -> Place:
    """A site that is there."""
    return replace(Place(site, "acme", "box", f"1.0.{counter}", counter, HERE, uplink), **more)  # type: ignore[arg-type]


def drafted(*places: Place, terms: Terms | None = None, taken: tuple[str, ...] = ()) -> DryRun:
    """A dry run with one ring."""
    wanted = plan() if terms is None else replace(plan(), terms=terms)
    return draft("1.1.0-1", places, RELEASES, wanted, taken=taken, now=START)


def test_delta_where_there_is_one_and_full_elsewhere() -> None:
    dry = drafted(place("a"), place("b", 9), place("c", 9, "mobile"), place("d", 10, "mobile"))
    assert {one.place.site: (one.kind, one.size_bytes, one.waits) for one in dry.planned} == {
        "a": (Kind.DELTA, 5_000, False),
        "b": (Kind.FULL, 100_000, False),
        "c": (Kind.FULL, 100_000, True),
        "d": (Kind.DELTA, 5_000, False),
    }
    assert dry.total == Cost(
        sites=4, delta_sites=2, full_sites=2, mobile_sites=2, waiting_sites=1, wired_bytes=105_000, mobile_bytes=105_000
    )
    assert drafted(place("c", 9, "mobile"), terms=Terms(consent=True)).total.waiting_sites == 0


def test_who_is_left_out_and_why() -> None:
    dry = drafted(
        place("runs", 11),
        place("newer", 12),
        place("old", 7),
        place("other", hardware="crate"),
        place("never", hardware=""),
        place("busy"),
        place("fine"),
        taken=("busy", "runs"),
    )
    assert dry.left_out == {
        "runs": Out.RUNS_IT, "newer": Out.NEWER, "old": Out.TOO_OLD, "other": Out.NO_RELEASE, "never": Out.UNKNOWN,
        "busy": Out.TAKEN,
    }  # fmt: skip
    assert [one.place.site for one in dry.planned] == ["fine"]
    assert dry.out_counts() == {reason.value: 1 for reason in Out}


def test_a_permit_lets_newer_sites_go_back() -> None:
    dry = drafted(place("newer", 12), place("newest", 13), place("a"), terms=Terms(permit=permit()))
    assert [(one.place.site, one.kind) for one in sorted(dry.planned, key=lambda one: one.place.site)] == [
        ("a", Kind.DELTA), ("newer", Kind.FULL),
    ]  # fmt: skip
    assert dry.left_out == {"newest": Out.NEWER}, "a permit names the counter that it is from"


@pytest.mark.parametrize(
    "changes", [{"site": "other"}, {"hardware": "crate"}, {"from_counter": 13}, {"to_counter": 10}]
)
def test_a_permit_for_something_else_lets_nobody_go_back(changes: dict[str, Any]) -> None:
    dry = drafted(place("newer", 12), terms=Terms(permit=permit(**changes)))
    assert dry.left_out == {"newer": Out.NEWER}


def permit(**changes: Any) -> str:
    """Its text; who signed it is not the dry run's question."""
    made = replace(Permit("newer", "box", 12, 11, "2026-12-24T00:00:00Z"), **changes)
    return render(SignedPermit(made, {})).decode()


def test_what_waits_on_a_mobile_line_is_what_the_router_would_not_fetch() -> None:
    def waiting(*, uplink: str = "mobile", size: int = 100_000, budget: int | None = None, counter: int = 9) -> bool:
        release = Offerable("releases/box/1.1.0.json", 11, 8, size, {10: size})
        wanted = replace(plan(), terms=Terms(budget_bytes=budget))
        dry = draft("1.1.0-1", [place("a", counter, uplink)], {"box": release}, wanted, taken=(), now=START)
        return dry.planned[0].waits

    assert waiting() and not waiting(uplink="wired")
    assert not waiting(budget=100_000) and waiting(budget=99_999)
    assert not waiting(counter=10) and waiting(counter=10, budget=99_999)
    assert waiting(counter=10, size=UNASKED_MAX_BYTES + 1) and not waiting(counter=10, size=UNASKED_MAX_BYTES)


def test_offline_sites_are_counted_and_planned() -> None:
    dry = drafted(place("a"), place("b", heard_at=START - timedelta(hours=5)), place("c", heard_at=None))
    assert dry.total.sites == 3 and dry.total.offline_sites == 2


def test_its_rings_are_the_rollouts() -> None:
    places = [place(f"site-{number}") for number in range(100)]
    wanted = plan(Ring(0.1), Ring(1.0, soak_s=0.0))
    dry = draft("1.1.0-7", places, RELEASES, wanted, taken=(), now=START)
    ring_of = rings.assign("1.1.0-7", [rings.Candidate(one.site) for one in places], wanted.rings)
    assert {one.place.site: one.ring for one in dry.planned} == ring_of
    assert [cost.sites for cost in dry.by_ring] == [10, 90]
