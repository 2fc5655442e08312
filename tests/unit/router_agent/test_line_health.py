"""Is a line alive? What silence means, how fast it is noticed, and what asking costs."""

import pytest

from router_agent.link import health
from router_agent.link.health import PACES, Health, Pace, Verdict, answered, asked, due, judged, unproven
from router_agent.link.uplinks import UplinkKind

WIRED = PACES[UplinkKind.WIRED, True]
#: An ICMP echo with eight octets and its answer (RFC 791, RFC 792): twice 20 + 8 + 8.
PROBE_BYTES = 72
MONTH_S = 30 * 86400
TICK_S = 0.1


def alive(now: float) -> Health:
    return answered(asked(unproven(now), now), now, 0.01)


def noticed_after_s(pace: Pace, *, last_answer_before_s: float) -> float:
    """Seconds from the line's death to the verdict, when the last answered probe was that long before."""
    state, now = alive(-last_answer_before_s), 0.0
    while state.verdict is Verdict.ALIVE:
        now += TICK_S
        if due(state, now, pace):
            state = asked(state, now)
        state = judged(state, now, pace)
        assert now < 1000
    return now


def test_a_dead_wired_line_in_use_is_noticed_in_three_and_a_bit_seconds_at_worst() -> None:
    assert noticed_after_s(WIRED, last_answer_before_s=0.0) < 3.3
    assert noticed_after_s(WIRED, last_answer_before_s=0.9) < 2.4


@pytest.mark.parametrize("pace", PACES.values(), ids=str)
def test_one_lost_probe_kills_no_line_and_is_no_miss(pace: Pace) -> None:
    state = asked(alive(0), pace.probe_s)
    later = pace.probe_s + pace.suspect_s
    assert due(state, later, pace), "after a silence it is asked sooner"
    state = judged(asked(state, later), later + 0.1, pace)
    state = answered(state, later + 0.2, 0.1)
    assert (state.verdict, state.well_since) == (Verdict.ALIVE, 0)
    assert state.lost(later + 0.3, pace) == 1


def test_silence_is_a_miss_before_it_is_death() -> None:
    state = asked(alive(0), 1)
    assert judged(state, 1.9, WIRED).well_since == 0
    missed = judged(state, 2.1, WIRED)
    assert (missed.verdict, missed.well_since) == (Verdict.ALIVE, None)
    assert answered(missed, 2.5, 0.1).well_since == 2.5, "the three minutes begin anew"
    dead = judged(state, 3.1, WIRED)
    assert (dead.verdict, dead.since) == (Verdict.DEAD, 3.1)


def test_any_answer_brings_a_dead_line_back() -> None:
    dead = judged(asked(alive(0), 1), 9, WIRED)
    back = answered(dead, 12, None)
    assert (back.verdict, back.since, back.well_since) == (Verdict.ALIVE, 12, 12)


def test_a_line_that_comes_up_anew_is_unproven_and_keeps_its_counts() -> None:
    before = asked(alive(0), 1)
    fresh = unproven(5, before)
    assert (fresh.verdict, fresh.sent, fresh.answered, fresh.answered_at) == (Verdict.UNPROVEN, 2, 1, None)
    assert due(fresh, 5, WIRED), "it is asked at once"


def test_an_answer_by_another_way_is_no_probes_answer() -> None:
    state = answered(asked(unproven(0), 0), 0.5, None)
    assert (state.verdict, state.answered, state.rtt_s) == (Verdict.ALIVE, 0, None)


def test_round_trip_times_are_smoothed() -> None:
    state = answered(asked(alive(0), 1), 1, 1.01)
    assert state.rtt_s is not None
    assert 0.01 < state.rtt_s < 0.5


@pytest.mark.parametrize(
    ("kind", "in_use", "mb"),
    [
        (UplinkKind.WIRED, True, 187), (UplinkKind.WIRED, False, 37),
        (UplinkKind.MOBILE, True, 12.5), (UplinkKind.MOBILE, False, 1.6),
    ],
)  # fmt: skip
def test_what_asking_costs_a_month_is_what_the_module_says(kind: UplinkKind, in_use: bool, mb: float) -> None:
    pace = PACES[kind, in_use]
    state, now, probes = unproven(0), 0.0, 0
    while now < 3600:
        if due(state, now, pace):
            state = answered(asked(state, now), now, 0.01)
            probes += 1
        now += 0.5
    assert probes * PROBE_BYTES * MONTH_S / 3600 / 1e6 == pytest.approx(mb, rel=0.05)
    assert f"{mb:g}"[:3] in (health.__doc__ or "")
