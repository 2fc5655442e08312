"""Is a trial good? Pure: what was seen goes in, hold on, commit or go back comes out.

Committed only after health has held for ``hold_s`` without a break longer than GRACE_S. Health is: the tunnel is up,
a heartbeat that began after the boot was accepted through it and none was missed for long since, the configuration is
loaded, and every LAN device marked essential answers, save those that did not answer before the update either.

Gone back as soon as health cannot hold that long any more before the deadline: a site that is cut off is cut off no
longer than it must be.
"""

from dataclasses import dataclass, replace
from enum import Enum

#: A rekeying, a lost probe: health that comes back within this goes on, in seconds.
GRACE_S = 30.0

#: Heartbeats may be missed for so many intervals, and this long besides.
HEARTBEAT_INTERVALS = 3
HEARTBEAT_SLACK_S = 60.0

TUNNEL, HEARTBEAT, CONFIGURATION = "tunnel", "heartbeat", "configuration"


class Verdict(Enum):
    """What to do with the trial."""

    HOLD = "hold"
    COMMIT = "commit"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is seen now. ``heartbeat_at``: when the last heartbeat that was answered through the tunnel was written,
    seconds since the boot; ``heartbeat_s``: their interval. ``silent``: essential devices that do not answer."""

    tunnel_up: bool
    heartbeat_at: float | None
    heartbeat_s: float
    configured: bool
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """``hold_s``: for how long; ``deadline_s``: seconds after the boot; ``excused``: devices that do not count."""

    hold_s: float
    deadline_s: float
    excused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Health:
    """``since``: health holds from here on, seconds since the boot; None: it does not. ``seen_at``: it was whole at the
    last look but perhaps for a short break. ``missing``: what is not there now, in words that are parameters."""

    since: float | None = None
    seen_at: float = 0.0
    missing: tuple[str, ...] = ()


def missing(vitals: Vitals, terms: Terms, *, up_s: float) -> tuple[str, ...]:
    """What health wants and does not have."""
    found = []
    if not vitals.tunnel_up:
        found.append(TUNNEL)
    patience_s = HEARTBEAT_INTERVALS * vitals.heartbeat_s + HEARTBEAT_SLACK_S
    if vitals.heartbeat_at is None or up_s - vitals.heartbeat_at > patience_s:
        found.append(HEARTBEAT)
    if not vitals.configured:
        found.append(CONFIGURATION)
    return (*found, *sorted(vitals.silent - terms.excused))


def look(health: Health, vitals: Vitals, terms: Terms, *, up_s: float) -> Health:
    """Take in what is seen ``up_s`` seconds after the boot."""
    wants = missing(vitals, terms, up_s=up_s)
    # A loop that has been held up for longer than a break may last has seen nothing meanwhile.
    broken = health.since is not None and up_s - health.seen_at > GRACE_S
    if not wants:
        return Health(up_s if health.since is None or broken else health.since, up_s, ())
    if broken:
        return Health(None, up_s, wants)
    return replace(health, missing=wants)


def verdict(health: Health, terms: Terms, *, up_s: float) -> Verdict:
    """What follows from it now."""
    if health.since is not None and not health.missing and up_s - health.since >= terms.hold_s:
        return Verdict.COMMIT
    earliest = up_s if health.since is None else health.since
    return Verdict.RETURN if earliest + terms.hold_s > terms.deadline_s else Verdict.HOLD


def deadline_s(hold_s: float, reach_s: float) -> float:
    """Seconds after the boot at which a trial is over: the time to come up, and health twice, so that one break at an
    unlucky moment is forgiven."""
    return reach_s + 2 * hold_s
