"""Is a line alive? Judged from probes sent through it and what came back. Pure.

A line with a carrier may carry nothing: the provider's box is up and its other side is not. So each line is asked, by
itself, whatever the default route is. Any answer of any target is life. A question without an answer makes a line
suspect, and it is asked faster; silence for `Pace.dead_after_s` makes it dead.

What that costs: a probe is an ICMP echo of 36 bytes and its answer, 72 bytes. The preferred line counts as in use: it
is to be used again when it is well.

    wired in use    every 1 s     187 MB a month
    wired idle      every 5 s      37 MB a month
    mobile in use   every 15 s   12.4 MB a month
    mobile idle     every 120 s   1.6 MB a month
"""

from dataclasses import dataclass, replace
from enum import Enum

from router_agent.link.uplinks import UplinkKind


class Verdict(Enum):
    """What is known of a line. UNPROVEN: it has been asked too little, or never answered since it came up."""

    UNPROVEN = "unproven"
    ALIVE = "alive"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Pace:
    """All in seconds. Between probes: ``probe_s`` of a live line, ``suspect_s`` a silent one, ``dead_s`` a dead one.

    ``miss_s``: silence that counts as a miss. ``dead_after_s``: silence after which the line is dead.
    """

    probe_s: float
    suspect_s: float
    miss_s: float
    dead_after_s: float
    dead_s: float


#: A dead wired line is to be noticed in three seconds. A radio that sleeps needs two to wake up, so a mobile one has
#: more time; and it is asked rarely while nobody uses it.
PACES = {
    (UplinkKind.WIRED, True): Pace(probe_s=1, suspect_s=0.5, miss_s=1, dead_after_s=2, dead_s=2),
    (UplinkKind.WIRED, False): Pace(probe_s=5, suspect_s=1, miss_s=2, dead_after_s=4, dead_s=5),
    (UplinkKind.MOBILE, True): Pace(probe_s=15, suspect_s=2, miss_s=4, dead_after_s=8, dead_s=15),
    (UplinkKind.MOBILE, False): Pace(probe_s=120, suspect_s=2, miss_s=4, dead_after_s=8, dead_s=120),
}

#: Weight of the newest measurement in the smoothed round-trip time.
_SMOOTHING = 0.25


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one line. Times are monotonic seconds.

    ``since``: when the verdict was given. ``silent_since``: when the first probe was sent that nothing has answered,
    None while all is answered. ``well_since``: since when nothing was missed. ``sent`` and ``answered`` are counts.
    """

    verdict: Verdict
    since: float
    asked_at: float | None = None
    silent_since: float | None = None
    answered_at: float | None = None
    well_since: float | None = None
    rtt_s: float | None = None
    sent: int = 0
    answered: int = 0

    def lost(self, now: float, pace: Pace) -> int:
        """Probes without an answer; one that was sent just now is not lost yet."""
        young = self.silent_since is not None and self.asked_at is not None and now - self.asked_at < pace.miss_s
        return max(0, self.sent - self.answered - young)


def unproven(now: float, before: Health | None = None) -> Health:
    """A line that has just come up, or has gone: what was known of it counts no more, but for the counts."""
    if before is None:
        return Health(Verdict.UNPROVEN, now)
    return Health(Verdict.UNPROVEN, now, sent=before.sent, answered=before.answered)


def due(health: Health, now: float, pace: Pace) -> bool:
    """Whether to send a probe."""
    if health.asked_at is None:
        return True
    if health.silent_since is None:
        every_s = pace.probe_s
    elif health.verdict is Verdict.DEAD:
        every_s = pace.dead_s
    else:
        every_s = pace.suspect_s
    return now - health.asked_at >= every_s


def asked(health: Health, now: float) -> Health:
    """A probe was sent."""
    silent_since = now if health.silent_since is None else health.silent_since
    return replace(health, asked_at=now, silent_since=silent_since, sent=health.sent + 1)


def answered(health: Health, now: float, rtt_s: float | None) -> Health:
    """Something came back: to a probe, after ``rtt_s`` seconds, or by another way of this line (None)."""
    rtt = health.rtt_s if rtt_s is None else rtt_s
    if rtt_s is not None and health.rtt_s is not None:
        rtt = health.rtt_s + _SMOOTHING * (rtt_s - health.rtt_s)
    counts = health.answered + (health.silent_since is not None and rtt_s is not None)
    well_since = now if health.well_since is None else health.well_since
    alive = health.verdict is Verdict.ALIVE
    return replace(
        health,
        verdict=Verdict.ALIVE,
        since=health.since if alive else now,
        silent_since=None,
        answered_at=now,
        well_since=well_since,
        rtt_s=rtt,
        answered=counts,
    )


def judged(health: Health, now: float, pace: Pace) -> Health:
    """The verdict after time has passed."""
    if health.silent_since is None:
        return health
    silence_s = now - health.silent_since
    if silence_s >= pace.miss_s:
        health = replace(health, well_since=None)
    if silence_s >= pace.dead_after_s and health.verdict is not Verdict.DEAD:
        health = replace(health, verdict=Verdict.DEAD, since=now)
    return health
