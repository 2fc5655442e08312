"""What a router believes of the time: never before the floor, not beyond its certificate, back only before it knows."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_agent.clock import judge
from router_agent.clock.judge import Bounds, Leaf, Said

BUILT = datetime(2026, 6, 1, tzinfo=UTC)
SIGNED = datetime(2026, 9, 1, tzinfo=UTC)
ENDS = datetime(2027, 9, 1, tzinfo=UTC)
KNOWN = judge.bounds([BUILT, SIGNED], ENDS)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEAF = Leaf(NOW - timedelta(days=10), NOW + timedelta(days=355))
instants = st.integers(0, 4_070_908_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def test_the_floor_is_the_latest_that_has_passed() -> None:
    assert Bounds(SIGNED, ENDS) == KNOWN
    assert judge.bounds([], None).floor.year == 1970


@pytest.mark.parametrize(
    ("here", "wanted"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), SIGNED),
        (BUILT, SIGNED),
        (SIGNED, None),
        (NOW, None),
        (ENDS + timedelta(seconds=1), SIGNED),
        (datetime(2038, 1, 19, tzinfo=UTC), SIGNED),
    ],
)
def test_what_a_start_believes(here: datetime, wanted: datetime | None) -> None:
    assert judge.at_start(here, KNOWN) == wanted


def test_a_router_that_is_not_enrolled_believes_ten_years() -> None:
    known = judge.bounds([BUILT], None)
    assert judge.at_start(BUILT + timedelta(days=3000), known) is None
    assert judge.at_start(datetime(2038, 1, 19, tzinfo=UTC), known) == BUILT


@pytest.mark.parametrize(("off_s", "took_s", "moved"), [(0, 0.1, False), (3.0, 0.1, False), (3.5, 0.1, True),
    (-1.9, 0.1, False), (-2.1, 0.1, True), (12, 10, False), (13.5, 10, True)])  # fmt: skip
def test_what_the_line_took_moves_no_clock(off_s: float, took_s: float, moved: bool) -> None:
    here = NOW + timedelta(seconds=off_s)
    assert (judge.on_answer(here, Said(NOW, took_s), KNOWN) is not None) is moved


def test_an_answer_sets_to_the_middle_of_what_is_possible() -> None:
    assert judge.on_answer(BUILT, Said(NOW, 3.0), KNOWN) == NOW + timedelta(seconds=2)


def test_nobody_sets_a_clock_to_before_the_floor() -> None:
    early = Said(SIGNED - timedelta(seconds=1), 0.1)
    whenever = Leaf(datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
    assert judge.on_answer(NOW, early, KNOWN) is None
    assert judge.on_voucher(NOW, early, whenever, KNOWN, proven=False) is None


@given(instants, instants, st.booleans())
def test_a_voucher_is_believed_as_far_as_its_certificate_and_back_only_before_the_time_is_proven(
    here: datetime, at: datetime, proven: bool
) -> None:
    wanted = judge.on_voucher(here, Said(at, 0.0), LEAF, KNOWN, proven=proven)
    if wanted is not None:
        assert LEAF.begins <= at <= LEAF.ends
        assert at >= KNOWN.floor
        assert not (proven and at < here)
    else:
        may = LEAF.begins <= at <= LEAF.ends and at >= KNOWN.floor
        assert not may or not Said(at, 0.0).differs(here) or (proven and at < here)


@given(instants, instants)
def test_what_is_set_is_right_enough_the_next_time(here: datetime, at: datetime) -> None:
    said = Said(at, 0.5)
    wanted = judge.on_answer(here, said, KNOWN)
    assert wanted is None or judge.on_answer(wanted, said, KNOWN) is None
