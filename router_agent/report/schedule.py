"""When the next heartbeat is due. Pure."""

from dataclasses import dataclass, replace

#: Up to this part of the interval is taken off at random, so that routers do not beat together.
JITTER = 0.1

#: After a failure and at news a heartbeat comes sooner, but never sooner than this, in seconds.
SOONEST_S = 1.0

#: After a failure: half the interval, at most this.
RETRY_MOST_S = 30.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """``due_at`` and ``sent_at`` in monotonic seconds."""

    due_at: float
    sent_at: float = float("-inf")

    def sent(self, now: float, interval_s: float, roll: float) -> "Schedule":
        """One was sent now."""
        return Schedule(now + interval_s * (1 - JITTER * roll), now)

    def failed(self, now: float, interval_s: float, roll: float) -> "Schedule":
        """The last one did not arrive."""
        wait = min(interval_s, max(SOONEST_S, min(interval_s / 2, RETRY_MOST_S)))
        return replace(self, due_at=min(self.due_at, now + wait * (1 - JITTER * roll)))

    def hurry(self, now: float) -> "Schedule":
        """There is news."""
        return replace(self, due_at=min(self.due_at, max(now, self.sent_at + SOONEST_S)))
