"""One site under watch: its baseline, and whether an alarm about too much stands. Pure.

The state is a function of the hours that were taken in, so replaying the queue's counts after a restart ends in the
same state. Fed with finished hours in order (``finish``) and asked about the running one (``look``).
"""

from cloudside.mail.watch import anomaly
from cloudside.mail.watch.anomaly import Span, Unusual
from cloudside.mail.watch.baseline import Baseline


class Habit:
    """What a site does, and what is unusual about it now."""

    __slots__ = ("_usual", "baseline", "standing")

    def __init__(self) -> None:
        self.baseline = Baseline()
        #: The alarm that stands: the latest finding, until an hour ends in which there is nothing to find.
        self.standing: Unusual | None = None
        self._usual = (0.0, 0.0)

    def look(self, hour: int, count: int) -> Unusual | None:
        """The alarm that stands with ``count`` recipients so far in the running hour."""
        found = anomaly.unusual(self.baseline, hour, count)
        if found is not None:
            self._raise(found)
        return self.standing

    def finish(self, hour: int, count: int) -> None:
        """An hour is over with this count."""
        found = anomaly.unusual(self.baseline, hour, count)
        if found is not None:
            self._raise(found)
        elif self.standing is not None:
            # It may be how this site is now. One alarm raises what is usual once, however long it lasted.
            in_hours, in_day = self._usual
            if self.standing.span is Span.HOURS:
                self.baseline.accept(in_hours, 0.0)
            else:
                self.baseline.accept(0.0, in_day)
            self.standing = None
        missed = count > 0 and anomaly.silent(self.baseline)
        self.baseline.learn(hour, count, alarmed=found is not None, missed=missed)

    def _raise(self, found: Unusual) -> None:
        if self.standing is None:
            self._usual = anomaly.excesses(self.baseline)
        self.standing = found
