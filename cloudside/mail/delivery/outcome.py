"""What the smarthost's answers mean, when to try again, how fast to send. Pure.

SES: 454 "Maximum sending rate exceeded" and "Daily message quota exceeded" concern the account, not the recipient
(Amazon SES developer guide, "SMTP response codes"); neither uses up a recipient's tries. 53x is our credential.
"""

from dataclasses import dataclass
from enum import StrEnum

#: The first attempts after a failure come close together, later ones far apart (RFC 5321 4.5.4.1).
FIRST_RETRIES = 2


class Verdict(StrEnum):
    """What one attempt came to."""

    DELIVERED = "delivered"
    #: This recipient, for now.
    TEMPORARY = "temporary"
    #: This recipient, for good.
    PERMANENT = "permanent"
    #: The account sends too fast.
    THROTTLED = "throttled"
    #: The account's day is used up.
    QUOTA = "quota"
    #: The smarthost does not take our credential or our TLS.
    REFUSED = "refused"
    #: No usable connection.
    UNREACHABLE = "unreachable"


#: Verdicts that say nothing about the message: it waits and keeps its tries.
NOT_THE_MESSAGE = frozenset({Verdict.THROTTLED, Verdict.QUOTA, Verdict.REFUSED, Verdict.UNREACHABLE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and the words it came with (one line)."""

    verdict: Verdict
    reply: str


class Stage(StrEnum):
    """Where in the conversation an answer came."""

    SESSION = "session"
    MESSAGE = "message"


def judge(code: int, text: str, stage: Stage) -> Verdict:
    """The verdict on a reply that was not 2xx."""
    lowered = text.lower()
    if code == 454 and "throttling" in lowered:
        return Verdict.QUOTA if "quota" in lowered else Verdict.THROTTLED
    if code in (530, 534, 535, 538):
        return Verdict.REFUSED
    if code == 421:
        return Verdict.UNREACHABLE
    if stage is Stage.SESSION:
        return Verdict.REFUSED if code >= 500 else Verdict.UNREACHABLE
    return Verdict.PERMANENT if code >= 500 else Verdict.TEMPORARY


def retry_delay_s(failures: int, *, first_s: float, later_s: float) -> float:
    """Seconds to wait after the ``failures``-th temporary failure of a recipient (1 is the first)."""
    return first_s if failures <= FIRST_RETRIES else later_s


def hold_delay_s(faults: int, *, longest_s: float) -> float:
    """Seconds the whole queue rests after the ``faults``-th fault of ours in a row: 1, 2, 4, ..."""
    return float(min(longest_s, 2.0 ** min(faults - 1, 30)))


@dataclass(slots=True)
class Pacer:
    """Spaces transactions out once the smarthost complains, and closes up again slowly while it does not."""

    smallest_s: float = 0.05
    #: SES's slowest accounts may send one a second.
    largest_s: float = 2.0
    interval_s: float = 0.0
    _next: float = 0.0

    def delay_s(self, now: float) -> float:
        """Seconds until the caller may send; books the place. ``now`` on a monotonic clock."""
        at = max(now, self._next)
        self._next = at + self.interval_s
        return at - now

    def slower(self) -> None:
        """The rate was exceeded."""
        self.interval_s = min(self.largest_s, max(self.smallest_s, self.interval_s * 2))

    def faster(self) -> None:
        """A message went through."""
        self.interval_s *= 0.7
        if self.interval_s < self.smallest_s / 4:
            self.interval_s = 0.0
