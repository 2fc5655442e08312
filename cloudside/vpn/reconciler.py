"""What the registry wants against what charon and the kernel do, and the difference applied.

What happens (a change of the registry, an event of charon) is taken up at once. Beside that everything is looked at
again and again, because a notice can be lost: level-triggered. Looks are cut in pieces (looks.py), so that a change
hardly ever waits for one. Whatever fails keeps its last good state, becomes a problem in the report and is tried again
by the next look. Until a rule set was applied once, everything is dropped.

The order is: registry, packet filter, charon, routes. So a policy change waits for nobody, and a revoked site has lost
its sets before its tunnel ends.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cloudside.config import Config
from cloudside.vpn.desired import DesiredReader
from cloudside.vpn.looks import Looks
from cloudside.vpn.parts import Parts
from cloudside.vpn.reports import Report
from cloudside.vpn.rules_keeper import RulesKeeper
from cloudside.vpn.troubles import Troubles
from cloudside.vpn.tunnels_keeper import TunnelsKeeper
from linux.charon import SaEvent
from linux.dataplane import Dataplane


class Reconciler:
    """Puts the keepers together. ``clock``: monotonic seconds; ``wake`` ends the caller's wait."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        dataplane: Dataplane,
        clock: Callable[[], float],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._gateway = config.gateway.name
        self._parts = parts
        self._dataplane = dataplane
        self._clock = clock
        self._now = datetime.min.replace(tzinfo=UTC)
        self._looks = looks = Looks(wake)
        self._troubles = troubles = Troubles(clock)
        reader = DesiredReader(parts.database, config)

        def now() -> datetime:
            return self._now

        self._rules = rules = RulesKeeper(config, parts, reader, troubles, looks, clock=clock, now=now)
        self._tunnels = TunnelsKeeper(
            config, parts, reader, troubles, looks, wanted=lambda: rules.desired, clock=clock, now=now
        )

    def close(self) -> None:
        """Look at nothing more."""
        self._looks.close()

    def take_up(self, events: Sequence[SaEvent], *, now: datetime, changed: bool, whole: bool = False) -> None:
        """Take up what happened: ``events`` of charon, and whether the registry has ``changed``. ``whole``: read all of
        it, whatever it says has changed. Raises nothing that a next time could mend.
        """
        self._now = now
        if changed or whole:
            self._rules.take_up(whole=whole)
            self._looks.soon("trust", self._clock())
        if events:
            self._tunnels.take_up(events)

    def listen_again(self) -> None:
        """The stream of events broke: ask charon how it is."""
        self._looks.soon("charon", self._clock())

    def look(self, *, now: datetime) -> bool:
        """Do one piece of looking, if any is due."""
        self._now = now
        return self._looks.step(self._clock())

    def look_at_all(self, *, now: datetime) -> None:
        """Do all that is due to its end."""
        self._now = now
        self._looks.finish(self._clock())

    def wait_s(self) -> float:
        """Seconds until there is something to look at."""
        return self._looks.wait_s(self._clock())

    @property
    def next_change(self) -> datetime | None:
        """When the rule set has to be compiled again even if nobody changes anything: a statement begins or ends."""
        return self._rules.desired.next_change if self._rules.desired is not None else None

    def report(self, *, now: datetime) -> Report:
        """How things stand."""
        return Report(
            gateway=self._gateway,
            at=now,
            rule_set=self._parts.enforcement.fingerprint,
            dataplane=self._dataplane.value,
            live=self._tunnels.live,
            problems=self._troubles.all(),
            wanted=self._rules.desired.rule_set.fingerprint if self._rules.desired is not None else "",
        )
