"""What the registry wants against what charon and the kernel do, and the difference applied.

What happens (a change of the registry, an event of charon) is taken up at once. Beside that everything is looked at
again and again, because a notice can be lost: level-triggered. Looks are cut in pieces (looks.py), so that a change
hardly ever waits for one. Whatever fails keeps its last good state, becomes a problem in the report and is tried again
by the next look. Until a rule set was applied once, everything is dropped.

The order is: registry, packet filter, charon, routes. So a policy change waits for nobody, and a revoked site has lost
its sets before its tunnel ends.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.config import Address, Config
from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.flows import Flow, Flows, outlived
from cloudside.datapath.problems import Problem, from_error, problem
from cloudside.datapath.site_routes import SiteRoutes
from cloudside.errors import KyotenError
from cloudside.registry.database import Database
from cloudside.vpn import desired
from cloudside.vpn.credentials import CredentialLoader
from cloudside.vpn.desired import Desired, DesiredReader, Trust
from cloudside.vpn.looks import Look, Looks, Rotation
from cloudside.vpn.reports import Report
from cloudside.vpn.tunnels import Live, Table, after_event, after_listing, judge
from linux.charon import Charon, SaEvent
from linux.charon_process import CharonProcess
from linux.dataplane import Dataplane
from linux.errors import LinuxError
from linux.routes import Routes
from rules.compile import RuleSet
from rules.problems import PolicyError

log = structlog.get_logger("kyoten.gateway")

#: Seconds that a trouble which mended itself (drift, an expelled tunnel) stays in the report.
REMEMBER_S = 300.0
#: Seconds between attempts to start a charon that does not come up.
START_AGAIN_S = 1.0
#: Seconds in which everything is looked at once: each tenant in the registry, whatever its marks say, and each entry of
#: each set. All at once would take a second and a half with 10,000 sites.
THOROUGH_S = 60.0
#: Seconds after an event until charon is asked how it really is: an SA in work is left out of a listing.
SETTLE_S = 0.3
#: How often a reading of the kernel is begun again because something was written meanwhile; then it holds up the rest.
READ_AGAIN = 3

_Read = TypeVar("_Read")
Looking = Generator[Callable[[], Any] | None, Any, tuple[Problem, ...]]
_EXPECTED = (KyotenError, PolicyError, LinuxError, SQLAlchemyError, OSError)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the reconciler works with; one thread uses them all, but ``lister``: a charon client for listings alone."""

    database: Database
    process: CharonProcess
    charon: Charon
    lister: Charon
    credentials: CredentialLoader
    enforcement: Enforcement
    flows: Flows
    routes: Routes
    site_routes: SiteRoutes
    #: Told of each rule set just before it comes into force.
    deciding: Callable[[RuleSet], None] = lambda _: None


class Reconciler:
    """Holds what is known from one time to the next. ``clock``: monotonic seconds; ``wake`` ends the caller's wait."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        dataplane: Dataplane,
        clock: Callable[[], float],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._parts = parts
        self._dataplane = dataplane
        self._clock = clock
        self._reader = DesiredReader(parts.database, config)
        self._desired: Desired | None = None
        self._trust: Trust | None = None
        self._followed: tuple[object, ...] = ()
        self._table = Table()
        #: What came in while charon's listing was on its way; None: none is.
        self._meanwhile: list[SaEvent] | None = None
        self._live: Mapping[str, Live] | None = None
        self._remembered: dict[Problem, float] = {}
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._start_again_at = 0.0
        self._judge_flows = False
        self._swept = False
        #: Site -> when a certificate of its was last revoked: in the registry, and for this charon on our clock.
        self._revocations: dict[str, tuple[datetime, float]] | None = None
        self._now = datetime.min.replace(tzinfo=UTC)
        resync_s, start = config.gateway.resync_s, clock()
        self._tenants = Rotation(resync_s / THOROUGH_S)
        self._sets = Rotation(resync_s / THOROUGH_S)
        self._looks = Looks(wake)
        for name, failed, look in (
            ("trust", "vpn.trust-failed", self._look_at_trust),
            ("charon", "vpn.charon-failed", self._look_at_charon),
            ("sweep", "datapath.sweep-failed", self._look_behind),
            ("flows", "datapath.flows-failed", self._look_at_flows),
            ("routes", "datapath.routes-failed", self._look_at_routes),
            ("tables", "datapath.drift-failed", self._look_at_tables),
            ("sets", "datapath.sets-failed", self._look_at_sets),
            ("entries", "datapath.entries-failed", self._look_at_entries),
            ("registry", "vpn.registry-failed", self._look_at_registry),
        ):
            self._looks.add(name, resync_s, partial(self._guarded, failed, look), now=start)

    def close(self) -> None:
        """Look at nothing more."""
        self._looks.close()

    def take_up(self, events: Sequence[SaEvent], *, now: datetime, changed: bool, whole: bool = False) -> None:
        """Take up what happened: ``events`` of charon, and whether the registry has ``changed``. ``whole``: read all of
        it, whatever it says has changed. Raises nothing that a next time could mend.
        """
        self._now = now
        if changed or whole:
            self._step("vpn.registry-failed", lambda: self._read_registry(whole=whole))
            self._filter()
            self._looks.soon("trust", self._clock())
        for event in events:
            self._table = after_event(self._table, event)
            if self._meanwhile is not None:
                self._meanwhile.append(event)
            log.info("sa-event", kind=event.kind, up=event.up, site=event.sa.remote_id, peer=event.sa.remote_host)
        if events:
            self._tend_and_route()
            # An SA in work is left out of a listing.
            self._looks.soon("charon", self._clock() + SETTLE_S)

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
        return self._desired.next_change if self._desired is not None else None

    def _step(self, failed: str, action: Callable[[], tuple[Problem, ...]]) -> None:
        """Run a part; its problems replace those it had before. ``failed`` is the key when it breaks."""
        try:
            found = action()
        except _EXPECTED as error:
            found = _problems_of(error, failed)
        self._settle(failed, found)

    def _guarded(self, failed: str, look: Callable[[], Looking]) -> Look:
        """The same for a look."""
        try:
            found = yield from look()
        except _EXPECTED as error:
            found = _problems_of(error, failed)
        self._settle(failed, found)

    def _settle(self, failed: str, found: tuple[Problem, ...]) -> None:
        for one in set(found) - set(self._problems.get(failed, ())):
            log.warning("problem", key=one.key, **dict(one.params))
        self._problems[failed] = found

    def _remember(self, found: tuple[Problem, ...]) -> None:
        for one in found:
            if one not in self._remembered:
                log.warning("problem", key=one.key, **dict(one.params))
            self._remembered[one] = self._clock() + REMEMBER_S

    def _filter(self) -> None:
        """Bring the packet filter to what is wanted."""
        self._step("datapath.filter-failed", self._enforce)
        self._step("datapath.admission-failed", self._admit)
        self._step("datapath.grants-failed", self._grant)
        if not self._swept:
            self._looks.soon("sweep", self._clock())
        if self._judge_flows:
            self._looks.soon("flows", self._clock())

    def _tend_and_route(self) -> None:
        self._step("vpn.charon-failed", self._tend_charon)
        self._step("datapath.routes-failed", self._route)

    def _look_at_registry(self) -> Looking:
        """What is said to have changed, and some tenants whatever is said: one after the other, all in THOROUGH_S."""
        known = self._desired.parts.own if self._desired is not None else {}
        again = self._tenants.next(dict.fromkeys(known, 1))
        problems = self._read_registry(again=again)
        self._problems["vpn.registry-failed"] = problems
        self._filter()
        return problems
        yield

    def _look_at_trust(self) -> Looking:
        self._trust = self._reader.trust(now=self._now)
        yield None
        self._tend_and_route()
        return self._trust.problems

    def _look_at_charon(self) -> Looking:
        """How it really is, by its own listing."""
        self._step("vpn.charon-failed", self._tend_charon)
        if self._problems["vpn.charon-failed"] or self._parts.process.pid is None:
            return self._problems["vpn.charon-failed"]
        if self._parts.process.set_log_aside():
            self._parts.charon.reopen_log()
        self._meanwhile = []
        try:
            listing = yield self._parts.lister.sas
            events = self._meanwhile
        finally:
            self._meanwhile = None
        self._table = after_listing(self._table, listing)
        for event in events:
            self._table = after_event(self._table, event)
        self._tend_and_route()
        return self._problems["vpn.charon-failed"]

    def _look_at_tables(self) -> Looking:
        enforcement = self._parts.enforcement
        tables = yield from self._unwritten(enforcement.read_tables)
        return self._drifted(enforcement.judge_tables(tables))

    def _look_at_sets(self) -> Looking:
        enforcement = self._parts.enforcement
        headings = yield from self._unwritten(enforcement.read_headings)
        return self._drifted(enforcement.judge_headings(headings))

    def _look_at_entries(self) -> Looking:
        """Some sets entry by entry: one after the other, all in THOROUGH_S."""
        enforcement = self._parts.enforcement
        names = self._sets.next(enforcement.set_sizes())
        contents = yield from self._unwritten(lambda: enforcement.read_sets(names))
        return self._drifted(enforcement.judge_sets(names, contents))

    def _unwritten(self, read: Callable[[], _Read]) -> Generator[Callable[[], Any] | None, Any, _Read]:
        """What ``read`` finds, with nothing written while it was read."""
        enforcement = self._parts.enforcement
        for _ in range(READ_AGAIN):
            before = enforcement.writes
            found: _Read = yield read
            if enforcement.writes == before:
                return found
        return read()

    def _look_behind(self) -> Looking:
        yield None
        if not self._swept:
            self._parts.enforcement.sweep()
            self._swept = True
        return ()

    def _look_at_flows(self) -> Looking:
        if not self._judge_flows or self._desired is None:
            return self._problems.get("datapath.flows-failed", ())
        self._judge_flows = False
        try:
            flows = yield self._parts.flows.list
            self._end_flows(flows)
        except BaseException:
            self._judge_flows = True
            raise
        return ()

    def _look_at_routes(self) -> Looking:
        if self._followed:
            before = self._followed
            found = yield self._parts.site_routes.read
            if before is self._followed:
                self._parts.site_routes.judge(found)
        return self._route()

    def _drifted(self, what: tuple[str, ...]) -> tuple[Problem, ...]:
        if what:
            self._remember((problem("datapath.drift", what=", ".join(what)),))
            self._filter()
        return ()

    def _read_registry(self, *, whole: bool = False, again: Collection[str] | None = None) -> tuple[Problem, ...]:
        try:
            self._desired = self._reader.read(now=self._now, whole=whole, again=again)
        except (KyotenError, SQLAlchemyError, OSError):
            self._desired = self._reader.later(now=self._now)
            raise
        return self._desired.problems

    def _enforce(self) -> tuple[Problem, ...]:
        if self._desired is None:
            return ()
        enforcement, rule_set = self._parts.enforcement, self._desired.rule_set
        if enforcement.fingerprint != rule_set.fingerprint:
            began = self._clock()
            # Before, because apply can break after the flip.
            self._judge_flows = True
            self._parts.deciding(rule_set)
            swept, self._swept = self._swept, False
            done = enforcement.apply(rule_set)
            # A change in place leaves nothing behind.
            self._swept = swept and done.how == "in place"
            seconds = round(self._clock() - began, 4)
            log.info("rule-set", fingerprint=rule_set.fingerprint[:12], how=done.how, seconds=seconds)
            return tuple(desired.of_rule(mistake) for mistake in done.problems)
        return self._problems.get("datapath.filter-failed", ())

    def _admit(self) -> tuple[Problem, ...]:
        if self._desired is not None and self._parts.enforcement.admit(self._desired.parts):
            self._judge_flows = True
        return ()

    def _grant(self) -> tuple[Problem, ...]:
        if self._desired is None:
            return ()
        found = self._parts.enforcement.grant(self._desired.rule_set, now=self._now)
        return tuple(desired.of_rule(mistake) for mistake in found)

    def _end_flows(self, flows: Sequence[Flow]) -> None:
        if self._desired is None:
            return
        rule_set = self._desired.rule_set
        own = {address.ip for interface in self._parts.routes.interfaces() for address in interface.addresses}

        def admitted(address: Address) -> bool:
            return bool(rule_set.whereabouts.at(address))

        gone = outlived(
            flows,
            rule_set,
            overlay=self._config.gateway.overlay,
            own=own,
            admitted=admitted,
        )
        if gone:
            log.info("flows-ended", count=self._parts.flows.end(gone))

    def _tend_charon(self) -> tuple[Problem, ...]:
        """Start it, tell it what it lacks, and end the tunnels that may not be."""
        parts = self._parts
        if parts.process.pid is None:
            self._live = {}
            self._table = Table()
            if self._clock() < self._start_again_at:
                return self._problems.get("vpn.charon-failed", ())
            self._start_again_at = self._clock() + START_AGAIN_S
            parts.charon.close()
            parts.lister.close()
            parts.credentials.forget()
            parts.process.ensure()
            log.info("charon-started", pid=parts.process.pid)
            self._looks.soon("charon", self._clock())
        found, trust = self._desired, self._trust
        if found is None or trust is None:
            return ()
        if trust.credentials is not None and parts.credentials.load(trust.credentials):
            log.info("revocation-lists-loaded", count=len(trust.credentials.revocation_lists))
        if self._note_revocations(trust.revocations):
            self._table = after_listing(self._table, parts.charon.sas())
        judgement = judge(self._table, found.site_prefixes, self._revoked_s())
        for number in judgement.expelled:
            parts.charon.terminate(unique_id=number)
        if judgement.expelled:
            sas = {number: sa for number, sa in self._table.sas.items() if number not in judgement.expelled}
            self._table = Table(sas, self._table.missing)
        self._remember(judgement.problems)
        self._live = judgement.live
        return ()

    def _note_revocations(self, found: Mapping[str, datetime]) -> bool:
        """Whether a site's certificate was revoked since the last pass. Called when charon has the lists: until then it
        took the certificate, so what counts is this moment. For what an earlier process saw it is the registry's.
        """
        known, clock = self._revocations, self._clock()
        ago_s = {
            site: max(0.0, (self._now - at).total_seconds()) if known is None else 0.0 for site, at in found.items()
        }
        self._revocations = {
            site: known[site] if known and site in known and known[site][0] == at else (at, clock - ago_s[site])
            for site, at in found.items()
        }
        return known is not None and self._revocations != known

    def _revoked_s(self) -> dict[str, float]:
        clock = self._clock()
        return {site: clock - since for site, (_, since) in (self._revocations or {}).items()}

    def _route(self) -> tuple[Problem, ...]:
        if self._desired is None:
            return ()
        live = [prefix for tunnel in (self._live or {}).values() for prefix in tunnel.prefixes]
        wanted = (self._desired.blocks, tuple(live))
        if wanted != self._followed:
            self._followed = ()
            self._parts.site_routes.follow(*wanted)
            self._followed = wanted
        return ()

    def report(self, *, now: datetime) -> Report:
        """How things stand."""
        clock = self._clock()
        self._remembered = {one: until for one, until in self._remembered.items() if until > clock}
        problems = [one for found in self._problems.values() for one in found]
        return Report(
            gateway=self._config.gateway.name,
            at=now,
            rule_set=self._parts.enforcement.fingerprint,
            dataplane=self._dataplane.value,
            live=self._live,
            problems=tuple(dict.fromkeys([*problems, *self._remembered])),
        )


def _problems_of(error: Exception, failed: str) -> tuple[Problem, ...]:
    if isinstance(error, KyotenError):
        return (from_error(error),)
    if isinstance(error, PolicyError):
        return tuple(desired.of_rule(mistake) for mistake in error.problems)
    return (problem(failed, reason=str(error)[:400]),)
