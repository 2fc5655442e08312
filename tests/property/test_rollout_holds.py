"""Whatever sites do, a rollout keeps its promises: hypothesis plays the fleet, the worker's steps decide."""

import sys
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudside.fleet.rollouts import halting, schedule
from cloudside.fleet.rollouts.machine import TARGET_TRANSITIONS, Move, State, TargetState, moved
from cloudside.fleet.rollouts.model import Ring

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "cloudside" / "fleet" / "rollouts"))
from rollout_worlds import NEW, OLD, World, plan

SITES = 14
PAIRS = {"t/a": ("s0000", "s0001"), "t/b": ("s0002", "s0003", "s0004")}
#: What a site may do between two looks.
ACTS = ("nothing", "fetches", "trial", "commits", "returns", "refuses", "goes", "comes")
#: What a person may do.
WORDS = ("", "", "", "", "pause", "resume", "abort")

_turns = st.tuples(
    st.sampled_from((60.0, 900.0, 4_000.0, 30_000.0, 100_000.0)),
    st.lists(st.tuples(st.integers(0, SITES - 1), st.sampled_from(ACTS)), max_size=8),
    st.sampled_from(WORDS),
)
_plans = st.builds(
    lambda share, soak_s, at_once, per_hour, harm: plan(
        *((Ring(share, soak_s=soak_s),) if share < 1 else ()),
        Ring(1.0, soak_s=0.0),
        at_once=at_once,
        per_hour=per_hour,
        harm=harm,
    ),
    # Bold plans more often: there is more to go wrong.
    st.sampled_from((0.1, 0.5, 1.0, 1.0)),
    st.sampled_from((0.0, 3_600.0, 86_400.0)),
    st.sampled_from((14, 14, 3, None, 1)),
    st.sampled_from((None, None, None, 2)),
    st.sampled_from((0.004, 0.9)),
)


def act(world: World, site: str, what: str) -> None:
    """A site does something; only one whose turn it is can do anything about the release."""
    offered = world.targets[site].state is TargetState.OFFERED
    if what == "goes":
        world.away.add(site)
    elif what == "comes":
        world.away.discard(site)
    elif what == "commits" and offered:
        world.say(site, NEW, "committed")
    elif what in ("fetches", "trial") and offered:
        world.say(site, OLD, "fetching" if what == "fetches" else "trial")
    elif what in ("returns", "refuses") and (offered or what == "returns"):
        world.say(site, OLD, "returned" if what == "returns" else "refused")


def speak(world: World, word: str) -> None:
    """A person says something that the table allows now."""
    if not word:
        return
    try:
        state = moved(world.rollout.state, Move(word))
    except ValueError:
        return
    forgiven = world.now if word == "resume" and world.rollout.state is State.HALTED else None
    wanted = world.rollout.plan if forgiven is None else replace(world.rollout.plan, forgiven_until=forgiven)
    world.rollout = replace(world.rollout, state=state, plan=wanted)


@settings(max_examples=150, deadline=None)
@given(_plans, st.lists(_turns, min_size=1, max_size=25))
def test_promises_hold(wanted, turns) -> None:  # type: ignore[no-untyped-def]
    world = World(SITES, wanted, PAIRS)
    for after_s, acts, word in turns:
        for number, what in acts:
            act(world, f"s{number:04}", what)
        speak(world, word)
        before, state_before = dict(world.targets), world.rollout.state
        done = world.step(after_s)
        _moves_are_legal(world, before)
        new = {
            name for name in world.those(TargetState.OFFERED)
            if world.targets[name].offered_at != before[name].offered_at
        }  # fmt: skip
        if new:
            _offers_are_allowed(world, new)
        if state_before in (State.HALTED, State.PAUSED, State.ABORTED, State.FINISHED):
            assert not new
        if state_before in (State.ABORTED, State.FINISHED):
            assert not done.changed
        # The same look once more has nothing to add but what room is left.
        assert world.rollout.state is State.HALTED or done.cause is None


def _moves_are_legal(world: World, before: dict) -> None:  # type: ignore[type-arg]
    for name, target in world.targets.items():
        was = before[name].state
        # A site may be waiting again and be offered in one step.
        allowed = TARGET_TRANSITIONS[was] | {was}
        if was is TargetState.OFFERED:
            allowed |= TARGET_TRANSITIONS[TargetState.WAITING]
        assert target.state in allowed, (name, was, target.state)


def _offers_are_allowed(world: World, new: set[str]) -> None:
    assert world.rollout.state in (State.RUNNING, State.SOAKING)
    limits, ring = world.rollout.plan.limits, world.rollout.ring
    members = [one for one in world.targets.values() if one.ring == ring]
    working = [one for one in members if one.state is TargetState.OFFERED]
    assert len(working) <= schedule.at_once(limits, len(members))
    if limits.per_hour is not None:
        lately = [
            one for one in world.targets.values()
            if one.offered_at is not None and (world.now - one.offered_at).total_seconds() < 3600
        ]  # fmt: skip
        assert len(lately) <= limits.per_hour
    for name in new:
        assert world.targets[name].ring == ring
        assert (world.now - world.seen[name].heard_at).total_seconds() <= limits.offline_s
    for sites in PAIRS.values():
        at_work = {name for name in sites if world.targets[name].state is TargetState.OFFERED}
        if at_work & new:
            assert len(at_work) == 1
            others = {world.targets[name].state for name in sites if name not in at_work}
            assert not others & {TargetState.FAILED, TargetState.SILENT}
    exposed = [
        one for one in world.targets.values()
        if one.state in (TargetState.OFFERED, TargetState.UPDATED) and one.offered_at is not None
    ]  # fmt: skip
    if world.rollout.plan.forgiven_until is None and not any(
        one.state is TargetState.UPDATED for one in exposed
    ):  # with nothing proven, no more than may be lost
        assert len(exposed) <= halting.budget(limits.harm, SITES)
