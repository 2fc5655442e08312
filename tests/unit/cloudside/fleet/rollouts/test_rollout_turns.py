"""Whose turn it is: windows, pairs, rates."""

from datetime import UTC, datetime, timedelta

import pytest
from rollout_worlds import HOUR_S, NEW, OLD, START, World, plan

from cloudside.errors import InputError
from cloudside.fleet.rollouts import schedule
from cloudside.fleet.rollouts.machine import TargetState
from cloudside.fleet.rollouts.model import Seen

PAIR = {"acme/tower": ("s0000", "s0001")}


@pytest.mark.parametrize(
    ("window", "zone", "hour", "open_"),
    [
        ("", "UTC", 3, True),
        ("22:00-05:00", "UTC", 23, True),
        ("22:00-05:00", "UTC", 4, True),
        ("22:00-05:00", "UTC", 5, False),
        ("22:00-05:00", "UTC", 12, False),
        ("22:00-05:00", "Asia/Tokyo", 15, True),  # midnight there
        ("22:00-05:00", "Asia/Tokyo", 3, False),
        ("09:00-17:00", "America/New_York", 15, True),
        ("09:00-17:00", "America/New_York", 23, False),
    ],
)
def test_windows_are_in_the_sites_own_time(window: str, zone: str, hour: int, open_: bool) -> None:
    assert schedule.is_open(window, zone, datetime(2026, 11, 22, hour, tzinfo=UTC)) is open_


@pytest.mark.parametrize("text", ["22:00", "24:00-05:00", "22:00-22:00", "22-5", "22:00-05:00 ", "night"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="bad-window"):
        schedule.check_window(text)


def test_nobody_gets_an_offer_outside_of_the_window_and_the_ring_waits() -> None:
    world = World(4, plan(window="22:00-05:00", at_once=4))  # it is noon
    done = world.step()
    assert (done.report.ready, done.report.later) == (0, 4)
    world.step(12 * HOUR_S)
    assert len(world.those(TargetState.OFFERED)) == 4


def test_two_gateways_of_a_site_are_never_at_work_at_once() -> None:
    world = World(2, plan(at_once=2), PAIR)
    world.step()
    (first,) = world.those(TargetState.OFFERED)
    world.step()
    assert world.those(TargetState.OFFERED) == {first}
    world.update_all_offered()
    world.step()
    assert not world.those(TargetState.OFFERED)  # it has just been updated
    world.step(schedule.PAIR_REST_S)
    assert world.those(TargetState.OFFERED) == {"s0000", "s0001"} - {first}


def test_a_site_whose_partner_failed_is_left_as_it_is() -> None:
    world = World(2, plan(at_once=2), PAIR)
    world.step()
    world.fail(world.those(TargetState.OFFERED))
    for _ in range(5):
        world.step(HOUR_S)
    assert world.states() == {"failed": 1, "waiting": 1}


def test_a_site_whose_partner_is_away_is_not_touched() -> None:
    world = World(2, plan(at_once=2), PAIR)
    world.away = {"s0001"}
    world.step(HOUR_S)
    assert not world.those(TargetState.OFFERED)
    world.away.clear()
    world.step()
    assert len(world.those(TargetState.OFFERED)) == 1


def test_a_partner_that_is_gone_for_good_holds_nobody_up() -> None:
    world = World(2, plan(at_once=2), PAIR)
    world.away = {"s0001"}
    world.step(schedule.PAIR_GONE_S + HOUR_S)
    assert world.those(TargetState.OFFERED) == {"s0000"}


def test_a_partner_at_work_in_another_rollout_or_by_itself_counts() -> None:
    world = World(1, plan(), {"acme/tower": ("s0000", "other")})
    world.busy = frozenset({"other"})
    world.step()
    assert not world.those(TargetState.OFFERED)
    world.busy = frozenset()
    world.say("other", OLD, "trial")
    world.step()
    assert not world.those(TargetState.OFFERED)
    world.say("other", NEW, "committed")
    world.step()
    assert world.those(TargetState.OFFERED) == {"s0000"}


def test_no_more_an_hour_than_allowed() -> None:
    world = World(30, plan(at_once=30, per_hour=3, harm=0.9))
    given = []
    for _ in range(8):
        given.append(len(world.step(15 * 60).changed))
        world.update_all_offered()
    assert sum(given) >= 6
    offered = sorted(one.offered_at for one in world.targets.values() if one.offered_at is not None)
    for first in offered:
        assert sum(first <= one < first + timedelta(hours=1) for one in offered) <= 3


def test_a_site_without_a_tunnel_is_not_there() -> None:
    world = World(1, plan())
    world.now = START + timedelta(hours=1)
    world.seen["s0000"] = Seen(heard_at=world.now, well_at=START)
    world.away = {"s0000"}
    done = world.step()
    assert done.report.away == 1 and not done.changed
