"""Waiting longer after each failure, never in step with other routers. Pure: randomness comes in as a number."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter over an exponentially growing window (as in AWS's "Exponential Backoff And Jitter", 2015).

    ``first_s`` is the window after one failure, ``most_s`` the largest, both in seconds.
    """

    first_s: float
    most_s: float

    def delay_s(self, failures: int, roll: float) -> float:
        """Seconds to wait after this many failures in a row; ``roll`` is uniform in [0, 1).

        Never less than a tenth of the window: a roll of zero must not make a busy loop.
        """
        if failures <= 0:
            return 0.0
        window = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return window * (0.1 + 0.9 * roll)
