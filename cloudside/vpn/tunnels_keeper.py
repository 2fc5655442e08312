"""Keeps charon running and told, its tunnels to those that may be, and the routes to sites along live tunnels."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.config import Config, Network
from cloudside.datapath.problems import Problem, problem
from cloudside.errors import KyotenError
from cloudside.vpn.charon_care import CharonCare, rules_of
from cloudside.vpn.desired import Desired, DesiredReader, Trust
from cloudside.vpn.looks import Looks
from cloudside.vpn.parts import Parts
from cloudside.vpn.troubles import Looking, Troubles
from cloudside.vpn.tunnels import Accepted, Live, Table, after_events, after_listing, judge
from linux.charon import IkeSa, SaEvent
from linux.errors import CharonUnavailableError

log = structlog.get_logger("kyoten.gateway")

#: Seconds between attempts to start a charon that does not come up.
START_AGAIN_S = 1.0
#: Seconds after an event until charon is asked how it really is: an SA in work is left out of a listing.
SETTLE_S = 0.3
#: How often the reading of the routes is begun again because some were changed meanwhile.
READ_AGAIN = 3

_CHARON = "vpn.charon-failed"
_ROUTES = "datapath.routes-failed"


class TunnelsKeeper:
    """``wanted`` is what the registry wants, as it was read last; ``now`` the time, ``clock`` monotonic seconds."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        reader: DesiredReader,
        troubles: Troubles,
        looks: Looks,
        *,
        wanted: Callable[[], Desired | None],
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._parts = parts
        self._care = CharonCare(parts.process, parts.charon, config.vpn, clock, parts.events)
        self._rules = rules_of(config.vpn)
        self._reader = reader
        self._troubles = troubles
        self._looks = looks
        self._wanted = wanted
        self._clock = clock
        self._now = now
        self._trust: Trust | None = None
        self._table = Table()
        #: What came in while charon's listing was on its way; None: none is.
        self._meanwhile: list[SaEvent] | None = None
        self._blocks: tuple[Network, ...] | None = None
        #: What was in order at the last look, by IKE_SA.
        self._accepted: Mapping[int, Accepted] = {}
        #: Whose prefixes the routes lead to; None: nobody knows.
        self._routed: Mapping[str, Live] | None = None
        self._start_again_at = 0.0
        #: Until when events are expected to go on, and when charon is listed all the same.
        self._quiet_at = self._list_at = 0.0
        #: Whether charon still has to be told that its log was set aside.
        self._reopen_log = False
        #: Whether charon answered when it was last tended.
        self._answers = False
        #: Site -> when a certificate of its was last revoked: in the registry, and for this charon on our clock.
        self._revocations: dict[str, tuple[datetime, float]] | None = None
        #: Whether charon has listed what it has, to this daemon: until then an earlier one's tunnels and routes stand.
        self._listed = False
        #: Tunnels that carry traffic and may, by site; None: charon was not asked yet.
        self.live: Mapping[str, Live] | None = None
        self._resync_s = resync_s = config.gateway.resync_s
        start = clock()
        for name, part, look in (
            ("trust", "vpn.trust-failed", self._look_at_trust),
            ("charon", _CHARON, self._look_at_charon),
            ("routes", _ROUTES, self._look_at_routes),
        ):
            looks.add(name, resync_s, partial(troubles.look, part, look), now=start)

    def take_up(self, events: Sequence[SaEvent]) -> None:
        """What charon tells of its own accord."""
        self._table = after_events(self._table, events)
        if self._meanwhile is not None:
            self._meanwhile += events
        for kind, up in sorted({(event.kind, event.up) for event in events}):
            named = [f"{one.sa.remote_id} {one.sa.remote_host}" for one in events if one.kind == kind and one.up == up]
            log.info("sa-events", kind=kind, up=up, sites=named)
        self._troubles.remember(self._care.note(events))
        self._tend_and_route()
        self._quiet_at = self._clock() + SETTLE_S
        self._looks.soon("charon", self._quiet_at)

    def _tend_and_route(self) -> None:
        self._troubles.step(_CHARON, self._look_after_charon)
        self._troubles.step(_ROUTES, self._route)

    def _look_at_trust(self) -> Looking:
        self._trust = self._reader.trust(now=self._now())
        yield None
        self._tend_and_route()
        return self._trust.problems

    def _look_at_charon(self) -> Looking:
        """How it really is, by its own listing. While sites come by the hundred that is only now and then: to be
        listed keeps charon busy.
        """
        now = self._clock()
        if now < self._quiet_at and now < self._list_at:
            self._looks.soon("charon", min(self._quiet_at, self._list_at))
            return self._troubles.of(_CHARON)
        self._list_at = now + self._resync_s
        self._troubles.step(_CHARON, self._look_after_charon)
        if not self._answers or self._parts.process.pid is None:
            return self._troubles.of(_CHARON)
        self._reopen_log = self._parts.process.set_log_aside() or self._reopen_log
        if self._reopen_log:
            self._parts.charon.reopen_log()
            self._reopen_log = False
        asked = self._parts.process.pid
        events: list[SaEvent] = []
        self._meanwhile = events
        try:
            listing = yield self._list
        except CharonUnavailableError:
            self._care.silent()
            raise
        finally:
            self._meanwhile = None
        if self._parts.process.pid != asked:
            self._looks.soon("charon", self._clock())  # of a charon that is gone: another one numbers its SAs anew
            return self._troubles.of(_CHARON)
        self._troubles.remember(self._care.compare(self._table, listing))
        self._table = after_listing(self._table, listing)
        self._listed = True
        self._table = after_events(self._table, events)
        self._tend_and_route()
        return self._troubles.of(_CHARON)

    def _list(self) -> tuple[IkeSa, ...]:
        """In the looks' thread, with a connection of its own."""
        try:
            return self._parts.lister.sas()
        except CharonUnavailableError:
            return self._parts.lister.sas()  # the connection may have been that to a charon which is gone

    def _look_at_routes(self) -> Looking:
        routes = self._parts.site_routes
        for _ in range(READ_AGAIN):
            before = routes.changes
            found = yield routes.read
            if routes.changes == before:
                break
        else:
            found = routes.read()  # tunnels come and go without end: then it holds up the rest
        routes.judge(found)
        return self._route()

    def _look_after_charon(self) -> tuple[Problem, ...]:
        self._answers = False
        try:
            if not self._care.answers():
                found = tuple(one for one in self._troubles.of(_CHARON) if one.key == _CHARON)
            else:
                found = self._tend_charon()
                self._answers = True
        except CharonUnavailableError as error:
            self._care.silent()
            found = (problem(_CHARON, reason=str(error)[:400]),)
        return tuple(dict.fromkeys((*found, *self._care.problems())))

    def _tend_charon(self) -> tuple[Problem, ...]:
        """Start it, tell it what it lacks, and end the tunnels that may not be."""
        parts = self._parts
        if parts.process.pid is None:
            self.live = {}
            self._table = Table()
            self._listed = True
            if self._clock() < self._start_again_at:
                return self._troubles.of(_CHARON)
            self._start_again_at = self._clock() + START_AGAIN_S
            parts.charon.close()
            parts.credentials.forget()
            parts.process.ensure()
            log.info("charon-started", pid=parts.process.pid)
            self._looks.soon("charon", self._clock())
        found, trust = self._wanted(), self._trust
        if found is None or trust is None:
            return ()
        self._teach(trust)
        if self._note_revocations(trust.revocations):
            listing = parts.charon.sas()
            self._troubles.remember(self._care.compare(self._table, listing))
            self._table = after_listing(self._table, listing)
            self._listed = True
        judgement = judge(self._table, found.site_prefixes, self._revoked_s(), self._rules, self._accepted)
        self._accepted = judgement.accepted
        self._troubles.remember(judgement.problems)
        if self._listed:
            self.live = judgement.live  # first: the route of a tunnel that must end goes whatever charon says
        if judgement.expelled:
            self._learn_why()
        for number in judgement.expelled:
            parts.charon.terminate(unique_id=number)
        if judgement.expelled:
            sas = {number: sa for number, sa in self._table.sas.items() if number not in judgement.expelled}
            self._table = Table(sas, self._table.missing)
        return ()

    def _learn_why(self) -> None:
        """Before a tunnel ends. The registry is read for the rules first and for keys and lists later; a router that is
        cut off tries again at once, and by then charon must have the list that it is on.
        """
        try:
            self._trust = self._reader.trust(now=self._now())
        except (KyotenError, SQLAlchemyError, OSError) as error:
            log.warning("trust-not-read", reason=str(error)[:400])  # told of by the next look at it; the tunnel ends
        else:
            self._teach(self._trust)

    def _teach(self, trust: Trust) -> None:
        if trust.credentials is not None and self._parts.credentials.load(trust.credentials):
            log.info("revocation-lists-loaded", count=len(trust.credentials.revocation_lists))

    def _note_revocations(self, found: Mapping[str, datetime]) -> bool:
        """Whether a site's certificate was revoked since the last pass. Called when charon has the lists: until then it
        took the certificate, so what counts is this moment. For what an earlier process saw it is the registry's.
        """
        known, clock = self._revocations, self._clock()
        now = self._now()
        ago_s = {site: max(0.0, (now - at).total_seconds()) if known is None else 0.0 for site, at in found.items()}
        self._revocations = {
            site: known[site] if known and site in known and known[site][0] == at else (at, clock - ago_s[site])
            for site, at in found.items()
        }
        return known is not None and self._revocations != known

    def _revoked_s(self) -> dict[str, float]:
        clock = self._clock()
        return {site: clock - since for site, (_, since) in (self._revocations or {}).items()}

    def _route(self) -> tuple[Problem, ...]:
        found, live = self._wanted(), self.live
        if found is None or live is None:
            return ()
        routes, before = self._parts.site_routes, self._routed
        self._routed = None
        if found.blocks == self._blocks and before is not None:
            # The usual case: of thousands of tunnels a few came or went.
            changed = [site for site, one in live.items() if not _same_way(before.get(site), one)]
            come = {prefix for site in changed for prefix in live[site].prefixes}
            left = [before[site] for site in changed if site in before]
            left += [before[site] for site in before.keys() - live.keys()]
            gone = {prefix for one in left for prefix in one.prefixes} - come
            done = routes.adjust(come, gone)
        else:
            done = False
        if not done:
            routes.follow(found.blocks, [prefix for tunnel in live.values() for prefix in tunnel.prefixes])
        self._routed, self._blocks = live, found.blocks
        return ()


def _same_way(before: Live | None, now: Live) -> bool:
    """Whether a site's routes stay as they are. A listing makes every tunnel a new object."""
    return before is now or (before is not None and before.prefixes == now.prefixes)
