"""Is a release bad, and how many more sites may be exposed to it? Exact binomial bounds. Pure.

k of n judged sites failed. The share p behind that is unknown; what is known are its bounds (Clopper and Pearson 1934):
p is above the lower one with confidence c when P(X >= k | n, p) <= 1 - c there. Exact rather than Wilson's, because the
counts that matter are two, three, five: there Wilson's lower bound is too high, and halts that much more often than it
says. No scipy: a few hundred terms of one sum.

Three rules:

*Halt at once* when p is above the tolerated share with confidence HALT_CONFIDENCE and at least FAILURES_MIN failed. It
is looked at after every report, so the confidence is far above what one look needs. It is tried on all judged sites and
on each ring by itself: a failure that takes a day to show is diluted by those who have had the version for an hour.

*Halt at a ring's end* when p is above the tolerated share with confidence GATE_CONFIDENCE: for small rings, where
three failures would be all sites there are. A person looks at one failure out of five before anybody else gets it. Of a
ring of SMALL_RING sites or more three have to have failed here, too: two routers that lost their power in the trial do
not stop a good release.

*Expose no more* than the evidence bears: with U the upper bound (confidence BOUND) from the sites that have had it for
their soak time, harmed + LATER x U x (exposed and not yet proven) stays within the budget of harmed sites. That is what
keeps harm small while nobody can know yet, such as a failure that shows after hours only. LATER is for those that show
after the soak time: as many again as were seen until then.

What is tolerated is beyond the background: sites lose power and lines whoever updates them. Sites whose turn is yet to
come are the control group; the share of them that fell silent is added to the tolerated share, and what of the silence
is background does not count as harm.
"""

from dataclasses import dataclass
from math import ceil, exp, lgamma, log, log1p

HALT_CONFIDENCE = 0.999
GATE_CONFIDENCE = 0.95
BOUND = 0.95
FAILURES_MIN = 3
SMALL_RING = 20
#: Failures in all, for each that shows within the soak time.
LATER = 2.0
#: Sites that may be harmed however small the fleet is: fewer, and a rollout to 100 sites would take months.
HARM_FLOOR = 5.0
#: With a smaller control group the background stays as it was.
CONTROL_MIN = 100
#: More background than this: the fleet itself is in trouble, nobody new gets an offer meanwhile.
BACKGROUND_MAX = 0.05
#: Declined by so large a share of a ring, of at least DECLINED_MIN sites: the release fits nobody.
DECLINED_SHARE, DECLINED_MIN = 0.5, 3

_BISECTIONS = 50


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of the sites whose turn came: ``updated`` and well, ``failed``, ``silent``; ``proven``: of the updated,
    those that have had it for their soak time; ``at_work``: not judged."""

    updated: int = 0
    failed: int = 0
    silent: int = 0
    proven: int = 0
    at_work: int = 0

    @property
    def judged(self) -> int:
        """Sites with a verdict."""
        return self.updated + self.failed + self.silent

    @property
    def harmed(self) -> int:
        """Sites whose verdict is bad."""
        return self.failed + self.silent

    @property
    def unproven(self) -> int:
        """Sites that may still turn out to be harmed."""
        return self.at_work + self.updated - self.proven


def tail(failures: int, judged: int, share: float) -> float:
    """The probability that so many or more of ``judged`` fail when each does with probability ``share``."""
    if failures <= 0:
        return 1.0
    if failures > judged or share <= 0.0:
        return 0.0
    if share >= 1.0:
        return 1.0
    if failures > judged * share:
        return min(1.0, _summed(failures, judged, judged, share))
    return max(0.0, 1.0 - _summed(0, failures - 1, judged, share))


def lower_bound(failures: int, judged: int, confidence: float) -> float:
    """The failure share is above this with so much confidence; 0 when none failed."""
    if failures <= 0:
        return 0.0
    low, high = 0.0, failures / judged
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(failures, judged, middle) <= 1 - confidence else (low, middle)
    return low


def upper_bound(failures: int, judged: int, confidence: float) -> float:
    """The failure share is below this with so much confidence; 1 when nothing is known."""
    if failures >= judged:
        return 1.0
    low, high = failures / judged, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if tail(failures + 1, judged, middle) >= confidence else (middle, high)
    return high


def is_bad(tally: Tally, tolerated: float) -> bool:
    """Halt at once."""
    if tally.harmed < FAILURES_MIN:
        return False
    return tail(tally.harmed, tally.judged, tolerated) <= 1 - HALT_CONFIDENCE


def fails_gate(tally: Tally, tolerated: float) -> bool:
    """Halt at a ring's end."""
    if tally.judged >= SMALL_RING and tally.harmed < FAILURES_MIN:
        return False
    return tally.harmed > 0 and tail(tally.harmed, tally.judged, tolerated) <= 1 - GATE_CONFIDENCE


def attributable(tally: Tally, background: float) -> float:
    """Harmed sites without those that would be silent anyway."""
    return tally.failed + max(0.0, tally.silent - background * (tally.updated + tally.silent))


def budget(harm: float, sites: int) -> float:
    """How many of all sites may be harmed."""
    return max(HARM_FLOOR, harm * sites)


def allowance(tally: Tally, background: float, harm_budget: float) -> int:
    """How many sites more may be exposed now."""
    harmed = attributable(tally, background)
    known = ceil(harmed - 1e-9)
    share = min(1.0, LATER * upper_bound(known, tally.proven + known, BOUND))
    return max(0, int((harm_budget - harmed) / share - tally.unproven + 1e-9))


def background(silent: int, control: int, before: float) -> float:
    """The share of the control group that fell silent; what was known before when the group is too small to say."""
    return silent / control if control >= CONTROL_MIN else before


def _summed(first: int, last: int, judged: int, share: float) -> float:
    """P(first <= X <= last), by terms from the one nearest to the mean outwards."""
    mode = min(max(int((judged + 1) * share), first), last)
    logarithm = lgamma(judged + 1) - lgamma(mode + 1) - lgamma(judged - mode + 1)
    peak = exp(logarithm + mode * log(share) + (judged - mode) * log1p(-share))
    odds = share / (1 - share)
    total = term = peak
    for number in range(mode, last):
        term *= (judged - number) / (number + 1) * odds
        total += term
        if term < total * 1e-17:
            break
    term = peak
    for number in range(mode, first, -1):
        term *= number / (judged - number + 1) / odds
        total += term
        if term < total * 1e-17:
            break
    return total
