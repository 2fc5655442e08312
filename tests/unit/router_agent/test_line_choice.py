"""Which line is used: at once away from a dead one, late back, and never away together with the whole fleet."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from router_agent.link.choice import DEAD_AFTER_S, HOLD_S, UNPROVEN_AFTER_S, Candidate, Choice, choose
from router_agent.link.health import Health, Verdict
from router_agent.link.uplinks import Line, UplinkKind

WIRED = Line(UplinkKind.WIRED, "wan0", True, ip_address("192.0.2.9"), (ip_interface("192.0.2.9/24"),), routed=True)
MOBILE = Line(UplinkKind.MOBILE, "wwan0", True, ip_address("10.64.0.5"), (ip_interface("10.64.0.5/30"),), routed=True)


def well(since: float = 0, answered_at: float = 0) -> Health:
    return Health(Verdict.ALIVE, since, answered_at=answered_at, well_since=since)


def dead(silent_since: float) -> Health:
    return Health(Verdict.DEAD, silent_since + 2, silent_since=silent_since)


UNKNOWN = Health(Verdict.UNPROVEN, 0)


def chosen(
    choice: Choice, wired: Health | None, mobile: Health | None, now: float, *, prefer: UplinkKind = UplinkKind.WIRED
) -> str | None:
    """The line that is used; None for a line means that it is not usable."""
    candidates = [
        Candidate(line if health else replace(line, carrier=False), health or UNKNOWN)
        for line, health in ((WIRED, wired), (MOBILE, mobile))
    ]
    return choose(choice, candidates, prefer=prefer, hold_s=HOLD_S, now=now, roll=0.5).interface


ON_WIRED, ON_MOBILE, ON_NONE = Choice("wan0", 0), Choice("wwan0", 0), Choice()


def test_at_the_start_the_preferred_line_is_used_before_anything_is_known() -> None:
    assert chosen(ON_NONE, UNKNOWN, UNKNOWN, 0) == "wan0"
    assert chosen(ON_NONE, UNKNOWN, UNKNOWN, 0, prefer=UplinkKind.MOBILE) == "wwan0"
    assert chosen(ON_NONE, dead(0), UNKNOWN, 3) == "wwan0"
    assert chosen(ON_NONE, None, None, 0) is None


def test_a_line_with_a_default_route_comes_before_one_without() -> None:
    bare = Candidate(replace(WIRED, routed=False), UNKNOWN)
    found = choose(ON_NONE, [bare, Candidate(MOBILE, UNKNOWN)], prefer=UplinkKind.WIRED, hold_s=1, now=0, roll=0)
    assert found.interface == "wwan0"


@pytest.mark.parametrize("mobile", [well(), UNKNOWN, dead(50)])
def test_a_line_that_is_gone_is_left_at_once_for_whatever_there_is(mobile: Health) -> None:
    assert chosen(ON_WIRED, None, mobile, 100) == "wwan0"


def test_a_dead_line_is_left_for_one_that_answered_since() -> None:
    assert chosen(ON_WIRED, dead(100), well(0, answered_at=101), 102) == "wwan0"


def test_when_the_cloud_is_down_nobody_moves() -> None:
    """An answer from before the silence proves nothing: both lines may be as dead as the cloud."""
    assert chosen(ON_WIRED, dead(100), well(0, answered_at=99), 102) == "wan0"
    assert chosen(ON_WIRED, dead(100), dead(100), 130) == "wan0"


def test_a_line_that_passes_nothing_but_the_tunnel_is_tried_a_little_later() -> None:
    assert chosen(ON_WIRED, dead(100), UNKNOWN, 100 + UNPROVEN_AFTER_S - 0.1) == "wan0"
    assert chosen(ON_WIRED, dead(100), UNKNOWN, 100 + UNPROVEN_AFTER_S + 0.1) == "wwan0"


def test_when_all_are_dead_they_take_turns_slowly_and_each_router_at_its_own_time() -> None:
    both = [Candidate(WIRED, dead(0)), Candidate(MOBILE, dead(0))]
    times = []
    for roll in (0.0, 0.5, 0.99):
        choice, now, changes = Choice("wan0", 0, DEAD_AFTER_S * (1 + roll)), 0.0, []
        while now < 600:
            after = choose(choice, both, prefer=UplinkKind.WIRED, hold_s=HOLD_S, now=now, roll=roll)
            if after is not choice:
                changes.append(now)
            choice, now = after, now + 0.5
        assert 5 <= len(changes) <= 10
        times.append(changes[0])
    assert times == sorted(set(times))


def test_the_preferred_line_is_used_again_after_three_minutes_without_a_miss() -> None:
    assert chosen(ON_MOBILE, well(since=100), well(), 100 + HOLD_S - 1) == "wwan0"
    assert chosen(ON_MOBILE, well(since=100), well(), 100 + HOLD_S + 1) == "wan0"
    assert chosen(ON_MOBILE, replace(well(0), well_since=None), well(), 1000) == "wwan0"
    assert chosen(ON_MOBILE, replace(well(0), silent_since=999.5), well(), 1000) == "wwan0", "not answered just now"


def test_a_dead_line_that_is_not_preferred_is_left_for_the_other_without_waiting() -> None:
    assert chosen(ON_MOBILE, well(since=199, answered_at=201), dead(200), 203) == "wan0"


def test_the_line_in_use_stays_while_it_is_well() -> None:
    assert chosen(ON_WIRED, well(), well(), 10_000) == "wan0"
    assert chosen(ON_MOBILE, well(), well(), 10_000, prefer=UplinkKind.MOBILE) == "wwan0"


def test_a_wired_line_that_flaps_every_ten_seconds_for_an_hour_causes_one_change() -> None:
    choice, changes = ON_WIRED, 0
    for tick in range(7200):
        now = tick * 0.5
        cycle = now % 20
        wired = well(since=now - cycle, answered_at=now) if cycle < 10 else dead(now - cycle + 10)
        health = replace(wired, verdict=Verdict.ALIVE) if 10 <= cycle < 12 else wired  # not noticed yet
        candidates = [Candidate(WIRED, health), Candidate(MOBILE, well(0, answered_at=now))]
        after = choose(choice, candidates, prefer=UplinkKind.WIRED, hold_s=HOLD_S, now=now, roll=0.5)
        changes += after.interface != choice.interface
        choice = after
    assert (changes, choice.interface) == (1, "wwan0")
