"""Which line is used. Pure.

A line that is gone is left at once. One that is silent is left as soon as another has answered since the silence began:
when the cloud itself is down, both are silent and nobody moves. The preferred line is taken again when it has answered
for three minutes without a miss, so one that comes and goes every ten seconds causes one change, not six a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from router_agent.link.health import Health, Verdict
from router_agent.link.uplinks import Line, UplinkKind

#: For how long the preferred line must be well before it is used again, in seconds.
HOLD_S = 180.0

#: How long a dead line is kept for want of a live one, before one that has never answered is tried, in seconds. There
#: are private lines that pass nothing but the tunnel: only trying shows them alive.
UNPROVEN_AFTER_S = 5.0

#: How long a dead line is kept before a dead one is tried, in seconds; up to twice as long, lest a fleet move in step.
DEAD_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line and what is known of it."""

    line: Line
    health: Health


@dataclass(frozen=True, slots=True)
class Choice:
    """The line in use since a moment (monotonic seconds). ``patience_s``: how long it is kept when all are dead."""

    interface: str | None = None
    since: float = 0.0
    patience_s: float = DEAD_AFTER_S


def choose(
    choice: Choice, candidates: Sequence[Candidate], *, prefer: UplinkKind, hold_s: float, now: float, roll: float
) -> Choice:
    """The line to use from now on. ``roll`` in [0, 1) spreads routers in time."""
    usable = [candidate for candidate in candidates if candidate.line.usable]
    current = next((one for one in usable if one.line.interface == choice.interface), None)
    if current is None:
        better = usable
    else:
        others = [one for one in usable if one is not current]
        better = (
            _instead_of_dead(current, others, choice, now)
            if current.health.verdict is Verdict.DEAD
            else _preferred(current, others, prefer, hold_s, now)
        )
        if not better:
            return choice
    best = min(better, key=lambda one: _rank(one, prefer), default=None)
    interface = None if best is None else best.line.interface
    if interface == choice.interface:
        return choice
    return Choice(interface, now, DEAD_AFTER_S * (1 + roll))


def _rank(candidate: Candidate, prefer: UplinkKind) -> tuple[int, bool, bool]:
    order = (Verdict.ALIVE, Verdict.UNPROVEN, Verdict.DEAD).index(candidate.health.verdict)
    # A live line of the other kind does not beat an unproven one of the preferred kind when neither has been used yet:
    # the answer is a second away. A dead one is beaten by all.
    return (order // 2, not candidate.line.routed, candidate.line.kind is not prefer)


def _instead_of_dead(current: Candidate, others: list[Candidate], choice: Choice, now: float) -> list[Candidate]:
    silent_since = now if current.health.silent_since is None else current.health.silent_since
    proven = [
        one for one in others if one.health.verdict is Verdict.ALIVE and (one.health.answered_at or 0.0) >= silent_since
    ]
    if proven:
        return proven
    waited_s = now - max(silent_since, choice.since)
    if waited_s >= UNPROVEN_AFTER_S:
        unproven = [one for one in others if one.health.verdict is Verdict.UNPROVEN]
        if unproven:
            return unproven
    return others if waited_s >= choice.patience_s else []


def _preferred(
    current: Candidate, others: list[Candidate], prefer: UplinkKind, hold_s: float, now: float
) -> list[Candidate]:
    if current.line.kind is prefer:
        return []
    return [
        one
        for one in others
        if one.line.kind is prefer
        and one.health.verdict is Verdict.ALIVE
        # It may have died since its last answer. A question of this very moment cannot have one yet.
        and (one.health.silent_since is None or one.health.silent_since >= now)
        and one.health.well_since is not None
        and now - one.health.well_since >= hold_s
    ]
