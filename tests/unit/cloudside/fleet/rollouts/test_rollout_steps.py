"""Steps of a rollout: its life, and what stops it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from rollout_worlds import HOUR_S, NEW, OLD, START, World, plan

from cloudside.fleet.rollouts import machine
from cloudside.fleet.rollouts.machine import Move, State, TargetState
from cloudside.fleet.rollouts.model import DAY_S, Ring, Rollout, read_plan
from cloudside.fleet.rollouts.model import plan_document as document_of

TWO_RINGS = (Ring(0.1, soak_s=DAY_S), Ring(1.0, soak_s=0.0))


def test_a_good_release_goes_ring_by_ring_to_its_end() -> None:
    world = World(100, plan(*TWO_RINGS, at_once=5, harm=0.5))
    lives = []
    for _ in range(200):
        world.step(600)
        world.update_all_offered()
        lives.append((world.rollout.state, world.rollout.ring))
        if world.rollout.state is State.FINISHED:
            break
    seen = list(dict.fromkeys(lives))
    assert seen == [
        (State.RUNNING, 0), (State.SOAKING, 0), (State.RUNNING, 1), (State.FINISHED, 1),
    ]  # fmt: skip
    assert world.states() == {"updated": 100}


def test_the_next_ring_waits_for_the_soak_time() -> None:
    world = World(10, plan(*TWO_RINGS))
    world.step()
    assert world.those(TargetState.OFFERED) == {name for name, one in world.targets.items() if one.ring == 0}
    world.update_all_offered()
    world.step()
    assert world.rollout.state is State.SOAKING
    world.step(DAY_S - 120)
    assert world.rollout.ring == 0
    world.step(240)
    assert (world.rollout.state, world.rollout.ring) == (State.RUNNING, 1)


def test_one_failure_in_a_small_ring_halts_before_the_next() -> None:
    world = World(50, plan(Ring(0.02), Ring(1.0, soak_s=0.0)))
    world.step()
    first = world.those(TargetState.OFFERED)
    assert len(first) == 1
    world.fail(first)
    world.step()
    done = world.step(DAY_S + 60)
    assert world.rollout.state is State.HALTED
    assert done.cause is not None and done.cause["key"] == "rollout.halted-failures"
    assert done.cause["params"]["harmed"] == 1
    world.step(DAY_S)
    assert len(world.those(TargetState.WAITING)) == 49


def test_many_failures_halt_at_once_and_no_one_else_gets_it() -> None:
    world = World(1000, plan(at_once=20, harm=0.05))
    world.step()
    world.fail(sorted(world.those(TargetState.OFFERED))[:3])
    done = world.step()
    assert world.rollout.state is State.HALTED
    assert world.states() == {"waiting": 980, "offered": 17, "failed": 3}
    assert done.report.allowance == 0
    for _ in range(3):
        assert world.step().changed == {}  # and nothing changes by itself


def test_silence_counts_as_failure_after_its_time_and_is_taken_back() -> None:
    world = World(50, plan(at_once=10, silent_s=2 * HOUR_S))
    world.step()
    world.step()  # all have seen their offers
    gone = set(sorted(world.those(TargetState.OFFERED))[:2])
    world.away |= gone
    world.step(2 * HOUR_S - 120)
    assert not world.those(TargetState.SILENT)
    world.step(240)
    assert world.those(TargetState.SILENT) == gone
    assert {world.targets[name].cause["key"] for name in gone} == {"rollout.silent"}  # type: ignore[index]
    back, at_work = sorted(gone)
    world.away.clear()
    world.say(back, NEW, "committed")
    world.step()
    assert world.targets[back].state is TargetState.UPDATED
    assert world.targets[at_work].state is TargetState.OFFERED


def test_three_silent_sites_halt_it() -> None:
    world = World(100, plan(at_once=10))
    world.step()
    world.step()
    world.away |= set(sorted(world.those(TargetState.OFFERED))[:3])
    done = world.step(3 * HOUR_S)
    assert world.rollout.state is State.HALTED
    assert done.cause is not None and done.cause["params"]["silent"] == 3


def test_silence_of_sites_that_have_nothing_to_do_with_it_is_background() -> None:
    world = World(1000, plan(Ring(0.1, soak_s=DAY_S), Ring(1.0, soak_s=0.0), at_once=100, harm=0.1, tolerated=0.001))
    for _ in range(3):
        world.step()
        world.update_all_offered()
    assert len(world.those(TargetState.UPDATED)) == 100
    # A carrier loses 3 % of the fleet, here as there.
    for ring, count in ((0, 3), (1, 27)):
        world.away |= set(sorted(name for name, one in world.targets.items() if one.ring == ring)[:count])
    done = world.step(3 * HOUR_S)
    assert done.report.background == pytest.approx(0.03)
    assert len(world.those(TargetState.SILENT)) == 3
    assert world.rollout.state is State.SOAKING


def test_a_fleet_in_trouble_gets_no_offers() -> None:
    world = World(1000, plan(Ring(0.5, soak_s=DAY_S), Ring(1.0, soak_s=0.0), at_once=5, harm=0.1))
    world.step()
    later = [name for name, one in world.targets.items() if one.ring == 1]
    world.away = set(later[:100])
    world.step(3 * HOUR_S)
    world.update_all_offered()
    done = world.step()
    assert done.report.held == "rollout.held-background"
    assert not world.those(TargetState.OFFERED)
    world.away.clear()
    world.step()
    assert world.those(TargetState.OFFERED)


def test_offline_sites_do_not_count_and_join_in_the_last_ring() -> None:
    world = World(40, plan(Ring(0.5, soak_s=HOUR_S), Ring(1.0, soak_s=0.0), wait_s=10 * DAY_S, at_once=40))
    first = sorted(name for name, one in world.targets.items() if one.ring == 0)
    world.away = set(first[:5])
    world.step(HOUR_S)
    assert len(world.those(TargetState.OFFERED)) == 5  # the budget of harm, with nothing known
    for _ in range(40):
        world.update_all_offered()
        world.step(HOUR_S)
    assert {world.targets[name].ring for name in first[:5]} == {1}
    assert world.states() == {"updated": 35, "waiting": 5}
    assert world.rollout.state is State.SOAKING
    world.step(3 * DAY_S)
    world.away = set(first[:2])
    world.step()
    assert world.rollout.state is State.RUNNING
    world.update_all_offered()
    world.step()
    assert len(world.those(TargetState.UPDATED)) == 38
    world.step(10 * DAY_S)
    assert world.rollout.state is State.FINISHED
    assert world.those(TargetState.MISSED) == set(first[:2])


def test_a_site_that_went_before_it_can_have_seen_its_offer_waits_again() -> None:
    world = World(10, plan(at_once=1))
    world.step()
    (offered,) = world.those(TargetState.OFFERED)
    world.away.add(offered)
    world.step(3 * HOUR_S)
    assert world.targets[offered].state is TargetState.WAITING
    assert world.targets[offered].offered_at is None
    assert len(world.those(TargetState.OFFERED)) == 1


def test_a_late_failure_is_seen_after_the_update() -> None:
    world = World(100, plan(Ring(0.05, soak_s=DAY_S), Ring(1.0, soak_s=0.0), at_once=10))
    for _ in range(3):
        world.step()
        world.update_all_offered()
    world.step(10 * HOUR_S)
    updated = sorted(world.those(TargetState.UPDATED))
    world.say(updated[0], OLD, "returned")
    world.away |= {updated[1], updated[2]}
    world.step(3 * HOUR_S)
    assert world.targets[updated[0]].state is TargetState.FAILED
    assert world.states() == {"waiting": 95, "updated": 2, "failed": 1, "silent": 2}
    assert world.rollout.state is State.HALTED


def test_a_site_that_has_it_already_costs_no_offer() -> None:
    world = World(10, plan(at_once=1))
    world.say("s0003", NEW, "committed")
    world.say("s0004", NEW + 1, "idle")  # newer by another way
    world.step()
    assert world.those(TargetState.UPDATED) == {"s0003", "s0004"}
    assert world.targets["s0003"].offered_at is None
    assert world.step().report.judged == 0  # it says nothing about the release in this rollout


def test_a_release_that_fits_nobody_halts() -> None:
    world = World(100, plan(at_once=4))
    world.step()
    for name in world.those(TargetState.OFFERED):
        world.say(name, OLD, "refused")
    done = world.step()
    assert world.rollout.state is State.HALTED
    assert done.cause == {"key": "rollout.halted-declined", "params": {"declined": 4}}


def test_a_yanked_release_halts_even_while_paused() -> None:
    world = World(10, plan(at_once=1))
    world.step()
    world.rollout = moved_by_hand(world, Move.PAUSE)
    world.yanked = True
    done = world.step()
    assert world.rollout.state is State.HALTED
    assert done.cause is not None and done.cause["key"] == "rollout.halted-yanked"


def moved_by_hand(world: World, move: Move) -> Rollout:
    """What a person's word makes of it."""
    return replace(world.rollout, state=machine.moved(world.rollout.state, move))


def test_paused_sites_that_have_begun_are_still_judged() -> None:
    world = World(10, plan(at_once=2))
    world.step()
    world.rollout = moved_by_hand(world, Move.PAUSE)
    world.update_all_offered()
    world.step()
    assert world.states() == {"waiting": 8, "updated": 2}
    world.rollout = moved_by_hand(world, Move.RESUME)
    world.step()
    assert world.states() == {"waiting": 6, "updated": 2, "offered": 2}


def test_resuming_after_a_halt_forgives_what_was_seen_but_not_what_comes() -> None:
    world = World(100, plan(at_once=10))
    world.step()
    world.fail(sorted(world.those(TargetState.OFFERED))[:3])
    world.step()
    assert world.rollout.state is State.HALTED
    world.rollout = replace(
        moved_by_hand(world, Move.RESUME), plan=replace(world.rollout.plan, forgiven_until=world.now)
    )
    world.step()
    assert world.rollout.state is State.RUNNING
    world.fail(sorted(world.those(TargetState.OFFERED))[:3])
    world.step()
    assert world.rollout.state is State.HALTED


def test_it_begins_at_its_time() -> None:
    world = World(10, replace(plan(), starts_at=START + timedelta(hours=1)))
    world.step()
    assert world.rollout.state is State.PLANNED and not world.those(TargetState.OFFERED)
    world.step(HOUR_S)
    assert world.rollout.state is State.RUNNING and world.those(TargetState.OFFERED)


def test_a_pause_before_its_time_does_not_begin_it_earlier() -> None:
    world = World(10, replace(plan(), starts_at=START + timedelta(hours=1)))
    world.rollout = replace(world.rollout, state=machine.moved(State.PLANNED, Move.PAUSE))
    world.step()
    world.rollout = moved_by_hand(world, Move.RESUME)
    assert world.step().report.held == "rollout.held-start"
    assert not world.those(TargetState.OFFERED)
    world.step(HOUR_S)
    assert world.those(TargetState.OFFERED)


def test_an_ended_rollout_does_not_move() -> None:
    world = World(10, plan())
    world.step()
    world.rollout = moved_by_hand(world, Move.ABORT)
    world.update_all_offered()
    assert world.step().changed == {}


def test_a_ring_of_nobody_is_passed_at_once() -> None:
    world = World(3, plan(Ring(None, "canary=yes", soak_s=7 * DAY_S), Ring(1.0, soak_s=0.0)))
    for _ in range(3):
        world.step()
    assert world.rollout.ring == 1


def test_a_ring_whose_sites_are_all_away_is_waited_for_and_passed_in_the_end() -> None:
    world = World(100, plan(Ring(0.02, soak_s=HOUR_S), Ring(1.0, soak_s=0.0), patience_s=8 * HOUR_S))
    world.away = {name for name, one in world.targets.items() if one.ring == 0}
    world.step(HOUR_S)
    world.step(2 * HOUR_S)
    assert world.rollout.ring == 0
    world.step(8 * HOUR_S)
    assert world.rollout.ring == 1


def test_slow_sites_hold_their_ring_up_for_a_while_only() -> None:
    world = World(20, plan(Ring(0.2, soak_s=HOUR_S), Ring(1.0, soak_s=0.0), patience_s=8 * HOUR_S, at_once=4))
    world.step()
    slow = min(world.those(TargetState.OFFERED))
    world.update_all_offered()
    world.say(slow, OLD, "fetching")
    world.step(HOUR_S)
    assert world.rollout.state is State.RUNNING
    world.step(8 * HOUR_S)
    assert world.rollout.state is State.SOAKING
    world.step(2 * HOUR_S)
    assert world.rollout.ring == 1
    assert world.targets[slow].state is TargetState.OFFERED  # it goes on


def test_transitions_are_tables_and_the_rest_is_a_bug() -> None:
    ends = {state for state, moves in machine.TRANSITIONS.items() if not moves}
    assert ends == {State.ABORTED, State.FINISHED}
    for state in State:
        for move in Move:
            if move not in machine.TRANSITIONS[state]:
                with pytest.raises(ValueError, match="cannot"):
                    machine.moved(state, move)
    assert set(machine.TARGET_TRANSITIONS) == set(TargetState)
    with pytest.raises(ValueError, match="cannot become"):
        machine.check_target(TargetState.MISSED, TargetState.UPDATED)


def test_a_plan_is_written_and_read_alike() -> None:
    wanted = replace(plan(*TWO_RINGS, window="22:00-05:00"), starts_at=START, forgiven_until=START)
    assert read_plan(document_of(wanted)) == wanted
