"""One step of a rollout: from what stands and what was seen to what stands now. Pure, and may run as often as it likes.

In this order: judge each target by its site's last word; halt if the release is bad; end the ring, its soak time, the
rollout; offer to those whose turn it is. All that a step knows comes in as arguments, so a worker that was away for a
day goes on where it was.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from cloudside.fleet.rollouts import halting, rings
from cloudside.fleet.rollouts.halting import Tally
from cloudside.fleet.rollouts.judging import judge
from cloudside.fleet.rollouts.machine import ALIVE, MOVING, Move, State, TargetState, moved
from cloudside.fleet.rollouts.model import Rollout, Seen, Target, last_ring
from cloudside.fleet.rollouts.schedule import Surroundings, Turn, at_once, turn

_S = TargetState
#: Confidence of the bounds that people are shown.
_SHOWN = 0.95


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a step looks at. ``partners``: word -> sites that exclude each other, also those of no rollout;
    ``busy``: sites at work in another rollout; ``yanked``: the release was taken back."""

    rollout: Rollout
    targets: Mapping[str, Target]
    seen: Mapping[str, Seen]
    now: datetime
    partners: Mapping[str, Collection[str]] = field(default_factory=dict)
    busy: Collection[str] = frozenset()
    yanked: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Where the rollout stands, for people. ``rings``: states counted, ring by ring. Shares are of one.

    ``allowance``: sites that may still be exposed now. ``held``: message key of why nobody new gets an offer; "".
    """

    rings: tuple[Mapping[str, int], ...]
    judged: int
    harmed: int
    lower: float
    upper: float
    tolerated: float
    background: float
    budget: float
    allowance: int
    ready: int
    later: int
    away: int
    held: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to. ``changed``: targets that are not as they were. ``cause``: of a halt in this step."""

    rollout: Rollout
    changed: Mapping[str, Target]
    report: Report
    cause: Mapping[str, Any] | None = None


class _Work:
    """A step under way: the targets as they are by now."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rollout = scene.rollout
        self.plan = scene.rollout.plan
        self.limits = scene.rollout.plan.limits
        self.targets: dict[str, Target] = dict(scene.targets)
        self.changed: dict[str, Target] = {}
        self.last = last_ring(self.plan.rings)
        #: A site is proven when it has had the version for so long, in whatever ring.
        self.proof_s = max(ring.soak_s for ring in self.plan.rings)
        self.by_ring: list[Tally] = []
        self.whole = Tally()

    def put(self, target: Target) -> None:
        """A target as it is from now on."""
        self.targets[target.site] = self.changed[target.site] = target

    def move(self, what: Move, **fields: Any) -> None:
        """Move the rollout."""
        self.rollout = replace(self.rollout, state=moved(self.rollout.state, what), **fields)


def step(scene: Scene) -> Step:
    """One step."""
    work = _Work(scene)
    cause: Mapping[str, Any] | None = None
    turns: dict[Turn, list[Target]] = {one: [] for one in Turn}
    held, room = "", 0
    if work.rollout.state in ALIVE:
        _begin(work)
        _judge(work)
        _count(work)
        cause = _halt(work)
    if work.rollout.state in MOVING:
        turns, before = _turns(work), work.rollout
        cause = _go_on(work, turns)
        if work.rollout is not before:
            turns = _turns(work)
    if work.rollout.state is State.RUNNING:
        held, room = _offer(work, turns[Turn.READY])
    return Step(work.rollout, work.changed, _report(work, turns, held, room), cause)


def _begin(work: _Work) -> None:
    due = work.plan.starts_at is None or work.plan.starts_at <= work.scene.now
    if work.rollout.state is State.PLANNED and due:
        work.move(Move.BEGIN, began_at=work.scene.now)


def _judge(work: _Work) -> None:
    scene, exact = work.scene, work.plan.terms.permit is not None
    for site, target in scene.targets.items():
        seen = scene.seen.get(site)
        if target.state is _S.WAITING and (seen is None or seen.counter < target.counter):
            continue  # as judge would say; nearly all are so
        after = judge(target, seen, rollout=scene.rollout.id, limits=work.limits, exact=exact, now=scene.now)
        if after is not target:
            work.put(after)


def _count(work: _Work) -> None:
    """The tallies, and the background as the control group shows it."""
    now, forgiven = work.scene.now, work.plan.forgiven_until
    proven_before = now - timedelta(seconds=work.proof_s)
    silent_before = now - timedelta(seconds=work.limits.silent_s)
    counts: list[Counter[str]] = [Counter() for _ in work.plan.rings]
    control = silent = 0
    for target in work.targets.values():
        state = target.state
        if state is _S.WAITING:
            # Who waits in the current ring does so because it is not there: that would be no fair comparison.
            if target.ring > work.rollout.ring:
                seen = work.scene.seen.get(target.site)
                if seen is not None and seen.heard_at >= work.rollout.began_at:
                    control += 1
                    silent += seen.well_at < silent_before
            continue
        if target.offered_at is None or (
            forgiven is not None and target.settled_at is not None and target.settled_at <= forgiven
        ):
            continue
        count = counts[target.ring]
        count[state] += 1
        if state is _S.UPDATED and target.settled_at is not None and target.settled_at <= proven_before:
            count["proven"] += 1
    work.by_ring = [_tally(count) for count in counts]
    work.whole = _tally(sum(counts, Counter()))
    background = halting.background(silent, control, work.rollout.background)
    work.rollout = replace(work.rollout, background=background)


def _tally(count: Counter[str]) -> Tally:
    return Tally(count[_S.UPDATED], count[_S.FAILED], count[_S.SILENT], count["proven"], count[_S.OFFERED])


def _tolerated(work: _Work) -> float:
    return work.limits.tolerated + work.rollout.background


def _halt(work: _Work) -> Mapping[str, Any] | None:
    if work.rollout.state not in MOVING and work.rollout.state is not State.PAUSED:
        return None
    cause: Mapping[str, Any] | None = None
    whole, tolerated = work.whole, _tolerated(work)
    budget = halting.budget(work.limits.harm, len(work.targets))
    if work.scene.yanked:
        cause = {"key": "rollout.halted-yanked", "params": {}}
    elif bad := next((one for one in (whole, *work.by_ring) if halting.is_bad(one, tolerated)), None):
        cause = _failed(bad, tolerated)
    elif halting.attributable(whole, work.rollout.background) >= budget:
        cause = {"key": "rollout.halted-budget", "params": {"harmed": whole.harmed, "budget": f"{budget:.0f}"}}
    elif declined := _declined(work):
        cause = {"key": "rollout.halted-declined", "params": {"declined": declined}}
    if cause is not None:
        work.move(Move.HALT, soak_since=None)
    return cause


def _failed(tally: Tally, tolerated: float) -> Mapping[str, Any]:
    lower = halting.lower_bound(tally.harmed, tally.judged, _SHOWN)
    params = {
        "harmed": tally.harmed, "judged": tally.judged, "silent": tally.silent, "lower": f"{100 * lower:.1f}",
        "tolerated": f"{100 * tolerated:.1f}",
    }  # fmt: skip
    return {"key": "rollout.halted-failures", "params": params}


def _declined(work: _Work) -> int:
    """How many declined, if it is so many that the release fits nobody."""
    forgiven = work.plan.forgiven_until
    declined = sum(
        target.state is _S.DECLINED and not (forgiven and target.settled_at and target.settled_at <= forgiven)
        for target in work.targets.values()
    )
    known = declined + work.whole.judged
    many = declined >= halting.DECLINED_MIN and declined > halting.DECLINED_SHARE * known
    return declined if many else 0


def _turns(work: _Work) -> dict[Turn, list[Target]]:
    """The waiting targets of the current ring."""
    scene = work.scene
    around = Surroundings(work.targets, scene.seen, scene.partners, scene.busy, scene.now)
    found: dict[Turn, list[Target]] = {one: [] for one in Turn}
    for target in work.targets.values():
        if target.state is _S.WAITING and target.ring == work.rollout.ring:
            found[turn(target, work.limits, around)].append(target)
    return found


def _go_on(work: _Work, turns: Mapping[Turn, Collection[Target]]) -> Mapping[str, Any] | None:
    """End the ring or its soak time when it is time. Returns the cause of a halt."""
    now, rollout = work.scene.now, work.rollout
    is_last = rollout.ring == work.last
    # A share of few sites may be none: then there is nothing to watch.
    is_empty = not any(one.ring == rollout.ring for one in work.targets.values())
    soak_s = 0.0 if is_empty else work.plan.rings[rollout.ring].soak_s
    more = bool(turns[Turn.READY] or turns[Turn.LATER]) or _at_work(work)
    if rollout.state is State.RUNNING:
        if more:
            return None
        # In the last ring it stands from the first time on: how long offline sites are waited for.
        work.move(Move.SOAK, soak_since=rollout.soak_since or now)
        return None if soak_s > 0 else _go_on(work, turns)
    if is_last and more:
        work.move(Move.MORE)
        return None
    since = rollout.soak_since or now
    soaked_s = (now - since).total_seconds()
    if soaked_s < soak_s:
        return None
    own = work.by_ring[rollout.ring]
    bad = next((one for one in (own, work.whole) if halting.fails_gate(one, _tolerated(work))), None)
    if bad is not None:
        work.move(Move.HALT, soak_since=None)
        return _failed(bad, _tolerated(work))
    if is_last:
        if not turns[Turn.AWAY] or soaked_s >= work.limits.wait_s:
            _finish(work)
        return None
    nobody = bool(turns[Turn.AWAY]) and own.judged == 0
    if nobody and soaked_s < work.limits.patience_s:
        return None  # nothing was learnt: a site of the ring may come online yet
    for target in [one for one in work.targets.values() if one.state is _S.WAITING and one.ring == rollout.ring]:
        work.put(replace(target, ring=work.last))
    work.move(Move.NEXT_RING, ring=rollout.ring + 1, soak_since=None)
    return None


def _at_work(work: _Work) -> bool:
    patience = work.scene.now - timedelta(seconds=work.limits.patience_s)
    return any(
        one.state is _S.OFFERED and one.ring == work.rollout.ring and one.offered_at and one.offered_at > patience
        for one in work.targets.values()
    )


def _finish(work: _Work) -> None:
    for target in list(work.targets.values()):
        if target.state in (_S.WAITING, _S.OFFERED):
            ended = _S.MISSED if target.state is _S.WAITING else _S.WITHDRAWN
            work.put(replace(target, state=ended, settled_at=work.scene.now))
    work.move(Move.FINISH)


def _offer(work: _Work, ready: Collection[Target]) -> tuple[str, int]:
    """Offer to as many as may have it now; returns why nobody may, and how many more may be exposed."""
    now, ring = work.scene.now, work.rollout.ring
    if work.plan.starts_at is not None and work.plan.starts_at > now:
        return "rollout.held-start", 0  # paused before its time, and resumed
    budget = halting.budget(work.limits.harm, len(work.targets))
    room = halting.allowance(work.whole, work.rollout.background, budget)
    if work.rollout.background > halting.BACKGROUND_MAX:
        return "rollout.held-background", room
    members = [one for one in work.targets.values() if one.ring == ring]
    working = sum(one.state is _S.OFFERED for one in members)
    slots = at_once(work.limits, len(members)) - working
    free = min(room, slots)
    held = "" if free > 0 or not ready else ("rollout.held-proof" if room <= 0 else "rollout.held-slots")
    if work.limits.per_hour is not None:
        hour = now - timedelta(hours=1)
        lately = sum(one.offered_at is not None and one.offered_at > hour for one in work.targets.values())
        if lately >= work.limits.per_hour and ready and not held:
            held = "rollout.held-rate"
        free = min(free, work.limits.per_hour - lately)
    if free <= 0:
        return held, room
    taken: set[str] = set()
    given = 0
    for target in sorted(ready, key=lambda one: (_position(work.rollout.id, one.site), one.site)):
        if given == free:
            break
        if target.exclusive:
            if target.exclusive in taken:
                continue
            taken.add(target.exclusive)
        work.put(replace(target, state=_S.OFFERED, offered_at=now, settled_at=None, cause=None))
        given += 1
    return held, room - given


#: A step asks for thousands of positions again and again.
_position = lru_cache(maxsize=1 << 17)(rings.position)


def _report(work: _Work, turns: Mapping[Turn, Collection[Target]], held: str, room: int) -> Report:
    counts = _states(work.targets.values(), len(work.plan.rings))
    whole = work.whole
    return Report(
        rings=tuple(counts),
        judged=whole.judged,
        harmed=whole.harmed,
        lower=halting.lower_bound(whole.harmed, whole.judged, _SHOWN),
        upper=halting.upper_bound(whole.harmed, whole.judged, _SHOWN),
        tolerated=_tolerated(work),
        background=work.rollout.background,
        budget=halting.budget(work.limits.harm, len(work.targets)),
        allowance=room,
        ready=len(turns[Turn.READY]),
        later=len(turns[Turn.LATER]),
        away=len(turns[Turn.AWAY]),
        held=held,
    )


def _states(targets: Iterable[Target], rings_count: int) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{} for _ in range(rings_count)]
    for (ring, state), count in Counter((target.ring, target.state) for target in targets).items():
        found[ring][state.value] = count
    return found
