"""How fast to send. Pure; ``now`` is seconds on a monotonic clock.

Never faster than the account may. When the smarthost says "too fast" all the same (SES: 454 Maximum sending rate
exceeded), half as fast, and from there a little faster each second until all is as before: additive increase,
multiplicative decrease, as TCP does, so that several relays of one account share its rate.
"""

from dataclasses import dataclass

#: SES's slowest accounts may send one mail a second; slower than this we never get.
SLOWEST = 1.0
#: Complaints of transactions that began before the last slowing-down are about the rate before it.
ONE_COMPLAINT_S = 1.0
#: A rate that was never known is forgotten again when it has grown to so many times the one that was too fast.
FORGOTTEN_AT = 4.0
#: Growth each second, in parts of the rate that was too fast.
GROWTH = 0.05
#: How far a sender that was late may catch up: a timer's grain, not a burst.
SLACK_S = 0.02


@dataclass(slots=True)
class Pacer:
    """Spaces transactions out. ``limit``: mails a second that the account may send, 0: not known."""

    limit: float = 0.0
    _slowed_to: float = 0.0
    _slowed_at: float = 0.0
    _too_fast: float = 0.0
    _next: float = 0.0
    _second: int = 0
    _sent: int = 0
    _sent_before: int = 0

    def rate(self, now: float) -> float:
        """Mails a second that may be sent now; 0: any."""
        if self._slowed_to:
            grown = self._slowed_to + (now - self._slowed_at) * max(self._too_fast * GROWTH, SLOWEST / 10)
            if grown >= (self.limit or self._too_fast * FORGOTTEN_AT):
                self._slowed_to = 0.0
            else:
                return grown
        return self.limit

    def delay_s(self, now: float) -> float:
        """Seconds until the caller may send; books the place."""
        self._count(now)
        rate = self.rate(now)
        if not rate:
            return 0.0
        at = max(now - SLACK_S, self._next)
        self._next = at + 1.0 / rate
        return max(0.0, at - now)

    def slower(self, now: float) -> None:
        """The smarthost said that the rate was exceeded."""
        if self._slowed_to and now - self._slowed_at < ONE_COMPLAINT_S:
            return
        was = self.rate(now) or max(self._sent, self._sent_before, 1)
        self._too_fast = was
        self._slowed_to = max(SLOWEST, was / 2)
        self._slowed_at = now
        self._next = max(self._next, now + 1.0 / self._slowed_to)

    def _count(self, now: float) -> None:
        second = int(now)
        if second != self._second:
            self._sent_before = self._sent if second == self._second + 1 else 0
            self._second, self._sent = second, 0
        self._sent += 1
