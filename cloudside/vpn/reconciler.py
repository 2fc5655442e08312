"""One pass: what the registry wants against what charon and the kernel do, and the difference applied.

Level-triggered: a pass asks how things are, not what happened. Whatever fails keeps its last good state, becomes a
problem in the report and is tried again by the next pass. Until a rule set was applied once, everything is dropped.

The order in a pass is: registry, packet filter, charon, routes. So a policy change waits for nobody, and a revoked site
has lost its sets before its tunnel ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.config import Address, Config
from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.flows import Flows, outlived
from cloudside.datapath.problems import Problem, from_error, problem
from cloudside.datapath.site_routes import SiteRoutes
from cloudside.errors import KyotenError
from cloudside.registry.database import Database
from cloudside.vpn import desired
from cloudside.vpn.charon_care import CharonCare, Stream, rules_of
from cloudside.vpn.credentials import CredentialLoader
from cloudside.vpn.desired import Desired, DesiredReader, Trust
from cloudside.vpn.reports import Report
from cloudside.vpn.tunnels import Live, Table, after_event, after_listing, judge
from linux.charon import Charon, SaEvent
from linux.charon_process import CharonProcess
from linux.dataplane import Dataplane
from linux.errors import CharonUnavailableError, LinuxError
from linux.routes import Routes
from rules.compile import RuleSet
from rules.problems import PolicyError

log = structlog.get_logger("kyoten.gateway")

#: Seconds that a trouble which mended itself (drift, an expelled tunnel) stays in the report.
REMEMBER_S = 300.0
#: Seconds between attempts to start a charon that does not come up.
START_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Due:
    """What a pass looks at besides charon's events: the registry, charon's listing, the kernel read back.

    ``whole``: all of the registry, and all of the kernel entry by entry, not only what is said to have changed.
    """

    registry: bool
    listing: bool
    kernel: bool
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What the reconciler works with; one thread uses them all."""

    database: Database
    process: CharonProcess
    charon: Charon
    credentials: CredentialLoader
    enforcement: Enforcement
    flows: Flows
    routes: Routes
    site_routes: SiteRoutes
    #: Told of each rule set just before it comes into force.
    deciding: Callable[[RuleSet], None] = lambda _: None
    #: charon's events, to be opened anew when they tell nothing any more.
    events: Stream | None = None


class Reconciler:
    """Holds what is known between passes. ``clock`` is monotonic seconds."""

    def __init__(self, config: Config, parts: Parts, dataplane: Dataplane, clock: Callable[[], float]) -> None:
        self._config = config
        self._parts = parts
        self._dataplane = dataplane
        self._clock = clock
        self._reader = DesiredReader(parts.database, config)
        self._care = CharonCare(parts.process, parts.charon, config.vpn, clock, parts.events)
        self._rules = rules_of(config.vpn)
        self._desired: Desired | None = None
        self._trust: Trust | None = None
        self._followed: tuple[object, ...] = ()
        self._table = Table()
        self._live: Mapping[str, Live] | None = None
        self._remembered: dict[Problem, float] = {}
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._start_again_at = 0.0
        self._judge_flows = False
        self._swept = False
        #: Site -> when a certificate of its was last revoked: in the registry, and for this charon on our clock.
        self._revocations: dict[str, tuple[datetime, float]] | None = None

    def run_pass(self, due: Due, events: list[SaEvent], *, now: datetime) -> Report:
        """One pass. Raises nothing that a next pass could mend."""
        if due.registry:
            self._step("vpn.registry-failed", lambda: self._read_registry(now, whole=due.whole))
        if due.kernel:
            self._step("datapath.drift-failed", lambda: self._repair(thorough=due.whole))
        self._step("datapath.filter-failed", self._enforce)
        self._step("datapath.admission-failed", self._admit)
        self._step("datapath.grants-failed", lambda: self._grant(now))
        if not self._swept:
            self._step("datapath.sweep-failed", self._sweep)
        if due.registry:
            self._step("vpn.trust-failed", lambda: self._read_trust(now))
        for event in events:
            self._table = after_event(self._table, event)
            log.info("sa-event", kind=event.kind, up=event.up, site=event.sa.remote_id, peer=event.sa.remote_host)
        self._remember(self._care.note(events))
        self._step("vpn.charon-failed", lambda: self._look_after_charon(now, listing=due.listing))
        self._step("datapath.routes-failed", lambda: self._route(always=due.kernel))
        if self._judge_flows:
            self._step("datapath.flows-failed", self._end_flows)
        return self._report(now)

    @property
    def next_change(self) -> datetime | None:
        """When the rule set has to be compiled again even if nobody changes anything: a statement begins or ends."""
        return self._desired.next_change if self._desired is not None else None

    def _step(self, failed: str, action: Callable[[], tuple[Problem, ...]]) -> None:
        """Run a part of the pass; its problems replace those it had before. ``failed`` is the key when it breaks."""
        try:
            found = action()
        except KyotenError as error:
            found = (from_error(error),)
        except PolicyError as error:
            found = tuple(desired.of_rule(mistake) for mistake in error.problems)
        except (LinuxError, SQLAlchemyError, OSError) as error:
            found = (problem(failed, reason=str(error)[:400]),)
        for one in set(found) - set(self._problems.get(failed, ())):
            log.warning("problem", key=one.key, **dict(one.params))
        self._problems[failed] = found

    def _remember(self, found: tuple[Problem, ...]) -> None:
        for one in found:
            if one not in self._remembered:
                log.warning("problem", key=one.key, **dict(one.params))
            self._remembered[one] = self._clock() + REMEMBER_S

    def _read_registry(self, now: datetime, *, whole: bool) -> tuple[Problem, ...]:
        try:
            self._desired = self._reader.read(now=now, whole=whole)
        except (KyotenError, SQLAlchemyError, OSError):
            self._desired = self._reader.later(now=now)
            raise
        return self._desired.problems

    def _read_trust(self, now: datetime) -> tuple[Problem, ...]:
        self._trust = self._reader.trust(now=now)
        return self._trust.problems

    def _repair(self, *, thorough: bool) -> tuple[Problem, ...]:
        what = self._parts.enforcement.repair(thorough=thorough)
        if what:
            self._remember((problem("datapath.drift", what=", ".join(what)),))
        return ()

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

    def _grant(self, now: datetime) -> tuple[Problem, ...]:
        if self._desired is None:
            return ()
        found = self._parts.enforcement.grant(self._desired.rule_set, now=now)
        return tuple(desired.of_rule(mistake) for mistake in found)

    def _sweep(self) -> tuple[Problem, ...]:
        self._parts.enforcement.sweep()
        self._swept = True
        return ()

    def _end_flows(self) -> tuple[Problem, ...]:
        if self._desired is None:
            return ()
        rule_set = self._desired.rule_set
        own = {address.ip for interface in self._parts.routes.interfaces() for address in interface.addresses}

        def admitted(address: Address) -> bool:
            return bool(rule_set.whereabouts.at(address))

        gone = outlived(
            self._parts.flows.list(),
            rule_set,
            overlay=self._config.gateway.overlay,
            own=own,
            admitted=admitted,
        )
        if gone:
            log.info("flows-ended", count=self._parts.flows.end(gone))
        self._judge_flows = False
        return ()

    def _look_after_charon(self, now: datetime, *, listing: bool) -> tuple[Problem, ...]:
        try:
            if not self._care.answers():
                before = self._problems.get("vpn.charon-failed", ())
                found = tuple(one for one in before if one.key == "vpn.charon-failed")
            else:
                found = self._tend_charon(now, listing=listing)
        except CharonUnavailableError as error:
            self._care.silent()
            found = (problem("vpn.charon-failed", reason=str(error)[:400]),)
        return tuple(dict.fromkeys((*found, *self._care.problems())))

    def _tend_charon(self, now: datetime, *, listing: bool) -> tuple[Problem, ...]:
        parts = self._parts
        if parts.process.pid is None:
            self._live = {}
            self._table = Table()
            if self._clock() < self._start_again_at:
                return self._problems.get("vpn.charon-failed", ())
            self._start_again_at = self._clock() + START_AGAIN_S
            parts.charon.close()
            parts.credentials.forget()
            parts.process.ensure()
            log.info("charon-started", pid=parts.process.pid)
            listing = True
        found, trust = self._desired, self._trust
        if found is None or trust is None:
            return ()
        if trust.credentials is not None and parts.credentials.load(trust.credentials):
            log.info("revocation-lists-loaded", count=len(trust.credentials.revocation_lists))
        if self._note_revocations(trust.revocations, now) or listing:
            if parts.process.set_log_aside():
                parts.charon.reopen_log()
            listed = parts.charon.sas()
            self._remember(self._care.compare(self._table, listed))
            self._table = after_listing(self._table, listed)
        judgement = judge(self._table, found.site_prefixes, self._revoked_s(), self._rules)
        for number in judgement.expelled:
            parts.charon.terminate(unique_id=number)
        if judgement.expelled:
            sas = {number: sa for number, sa in self._table.sas.items() if number not in judgement.expelled}
            self._table = Table(sas, self._table.missing)
        self._remember(judgement.problems)
        self._live = judgement.live
        return ()

    def _note_revocations(self, found: Mapping[str, datetime], now: datetime) -> bool:
        """Whether a site's certificate was revoked since the last pass. Called when charon has the lists: until then it
        took the certificate, so what counts is this moment. For what an earlier process saw it is the registry's.
        """
        known, clock = self._revocations, self._clock()
        ago_s = {site: max(0.0, (now - at).total_seconds()) if known is None else 0.0 for site, at in found.items()}
        self._revocations = {
            site: known[site] if known and site in known and known[site][0] == at else (at, clock - ago_s[site])
            for site, at in found.items()
        }
        return known is not None and self._revocations != known

    def _revoked_s(self) -> dict[str, float]:
        clock = self._clock()
        return {site: clock - since for site, (_, since) in (self._revocations or {}).items()}

    def _route(self, *, always: bool) -> tuple[Problem, ...]:
        if self._desired is None:
            return ()
        live = [prefix for tunnel in (self._live or {}).values() for prefix in tunnel.prefixes]
        wanted = (self._desired.blocks, tuple(live))
        if always or wanted != self._followed:
            self._followed = ()
            self._parts.site_routes.follow(*wanted)
            self._followed = wanted
        return ()

    def _report(self, now: datetime) -> Report:
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
            wanted=self._desired.rule_set.fingerprint if self._desired is not None else "",
        )
