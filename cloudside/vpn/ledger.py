"""What a gateway's reports change in the registry: tunnels' states, their history, why sites do not get in.

A report is held against what was written before, kept in memory: one that changes nothing writes one row, the
gateway's own. The first one after a start is held against the registry.

A daemon that was restarted must not write history that did not happen: a tunnel that stood up before the start and is
not listed yet counts as up for INHERITED_S more, because a listing leaves out an SA that charon works on just then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import ip_address

from sqlalchemy.orm import Session

from cloudside.datapath.problems import Problem
from cloudside.registry import history, reports
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.history import Change, Seen
from cloudside.registry.reports import TunnelState
from cloudside.vpn.causes import Cause
from cloudside.vpn.tunnels import Live

#: Seconds that a tunnel inherited from an earlier process counts as up without being listed.
INHERITED_S = 15.0
#: A daemon that was away longer than this many seconds cannot say when in between a tunnel ended.
AWAY_S = 60.0
#: Seconds after which a cause explains the loss of a tunnel no more.
FRESH_S = 60.0
#: The same problem of a site is told again after this many seconds, so a flood of attempts costs few rows.
TELL_AGAIN_S = 30.0
#: How tunnels end that were good: the history has them, and no problem of a site.
ENDINGS = frozenset({"causes.dead-peer", "causes.router-ended", "causes.replaced"})
#: Problems of sites in one report at most; who still has one is heard of again.
MOST_PROBLEMS = 200
#: Seconds after which names that the registry did not know are asked for again.
STRANGERS_S = 60.0


@dataclass(frozen=True, slots=True)
class Report:
    """One gateway's state. ``live`` None: charon could not be asked, tunnels are left as they stand.

    ``rule_set`` is the fingerprint of what is in the kernel, ``wanted`` of what the registry wants; "": not known.
    """

    gateway: str
    at: datetime
    rule_set: str
    dataplane: str
    live: Mapping[str, Live] | None
    problems: tuple[Problem, ...]
    wanted: str = ""


class Ledger:
    """Writes the reports of one gateway. Not for several threads."""

    def __init__(self) -> None:
        self._standing: dict[str, TunnelState] | None = None
        #: Up by the registry when this process began, and not seen since.
        self._inherited: set[str] = set()
        self._began: datetime | None = None
        self._seen_before: datetime | None = None
        self._strangers: set[str] = set()
        self._ask_again_at: datetime | None = None
        self._causes: dict[str, Cause] = {}
        self._told: dict[str, tuple[str, datetime]] = {}
        self._problems: frozenset[Problem] = frozenset()

    def write(
        self,
        database: Database,
        report: Report,
        causes: Sequence[Cause] = (),
        *,
        charon_started_at: datetime | None = None,
    ) -> None:
        """Write a report in one transaction, and what charon's log said. Raises what the registry raises; the next
        report then says it all again, but for the causes.
        """
        standing, self._standing = self._standing, None  # a write that fails leaves it unknown what stands there
        with database.record() as session:
            if standing is None:
                standing = self._load(session, report.gateway)
            found = self._attributed(session, standing, causes)
            self._causes.update(found)
            new_problems = {one for one in report.problems if one not in self._problems}
            if report.live is not None:
                about = {str(dict(one.params).get("site")): one for one in new_problems}
                standing = self._write_tunnels(session, report, standing, about, charon_started_at)
            self._write_problems(session, report, found, new_problems)
            said = {
                "problems": [one.as_json() for one in report.problems],
                "wanted_rule_set": report.wanted,
                "charon": report.live is not None,
            }
            reports.record_gateway(
                session, OPERATOR, name=report.gateway, seen_at=report.at, rule_set=report.rule_set,
                dataplane=report.dataplane, report=said,
            )  # fmt: skip
        self._standing = standing
        self._problems = frozenset(report.problems)
        old = report.at - timedelta(seconds=2 * FRESH_S)
        self._causes = {site: cause for site, cause in self._causes.items() if cause.at > old}
        self._told = {site: told for site, told in self._told.items() if told[1] > old}

    def _load(self, session: Session, gateway: str) -> dict[str, TunnelState]:
        rows = reports.tunnel_states(session, OPERATOR, gateway=gateway)
        if self._began is None:
            self._inherited = {row.site_id for row in rows if row.up}
            seen = {state.name: state.seen_at for state in reports.gateways(session, OPERATOR)}
            self._seen_before = seen.get(gateway)
        return {row.site_id: row for row in rows}

    def _write_tunnels(
        self,
        session: Session,
        report: Report,
        standing: dict[str, TunnelState],
        about: Mapping[str, Problem],
        charon_started_at: datetime | None,
    ) -> dict[str, TunnelState]:
        live = report.live or {}
        self._began = self._began or report.at
        if self._ask_again_at is None or report.at >= self._ask_again_at:
            self._strangers.clear()
            self._ask_again_at = report.at + timedelta(seconds=STRANGERS_S)
        came = [
            _state(tunnel, standing.get(site), report.at)
            for site, tunnel in live.items()
            if not _stands(standing.get(site), tunnel) and site not in self._strangers
        ]
        self._inherited -= live.keys()
        doubtful = self._inherited if (report.at - self._began).total_seconds() < INHERITED_S else frozenset()
        gone = [row for site, row in standing.items() if row.up and site not in live and site not in doubtful]
        if not came and not gone:
            return standing
        losses = [self._loss(row, report, about, charon_started_at) for row in gone]
        self._inherited -= {row.site_id for row in gone}
        # The peer stays: failed attempts that name no site are told apart by where a site came from last.
        ended = [replace(row, up=False, since=loss.at) for row, loss in zip(gone, losses, strict=True)]
        known = reports.record_tunnels(session, OPERATOR, [*came, *ended], gateway=report.gateway)
        self._strangers |= {state.site_id for state in came} - known
        began = [state for state in came if not ((row := standing.get(state.site_id)) is not None and row.up)]
        changes = [*losses, *(Change(state.site_id, state.since, True, state.peer) for state in began)]
        kept = [change for change in changes if change.site_id in known]
        history.add_changes(session, OPERATOR, kept, gateway=report.gateway, now=report.at)
        return standing | {state.site_id: state for state in (*came, *ended) if state.site_id in known}

    def _loss(
        self,
        row: TunnelState,
        report: Report,
        about: Mapping[str, Problem],
        charon_started_at: datetime | None,
    ) -> Change:
        site, at = row.site_id, report.at
        if site in self._inherited and self._began is not None and self._seen_before is not None:
            seen = self._seen_before
            if (self._began - seen).total_seconds() > AWAY_S:
                # When it ended nobody saw: from when nobody looked it does not count as connected.
                params = {"gateway": report.gateway, "until": f"{self._began:%Y-%m-%d %H:%M:%S} UTC"}
                return Change(site, max(seen, row.since), False, row.peer, "causes.gateway-away", params)
        if site in about:
            return Change(site, at, False, row.peer, about[site].key, dict(about[site].params))
        cause = self._causes.get(site)
        if cause is not None and (at - cause.at).total_seconds() <= FRESH_S:
            return Change(site, at, False, row.peer, cause.key, {**cause.params, "site": site})
        started = charon_started_at
        if started is not None and started > row.since and (at - started).total_seconds() <= FRESH_S:
            return Change(site, at, False, row.peer, "causes.charon-restarted", {"gateway": report.gateway})
        return Change(site, at, False, row.peer)

    def _attributed(
        self, session: Session, standing: Mapping[str, TunnelState], causes: Sequence[Cause]
    ) -> dict[str, Cause]:
        """The newest cause of each site: by the name that was claimed, else by where the site came from last."""
        if not causes:
            return {}
        claimed = {cause.site for cause in causes if cause.site}
        known = history.known_sites(session, OPERATOR, claimed)
        nameless = {cause.peer for cause in causes if not cause.site and _is_address(cause.peer)}
        places: dict[str, list[str]] = {peer: [] for peer in nameless}
        for row in standing.values() if nameless else ():
            if row.peer in places:
                places[row.peer].append(row.site_id)
        heard = reports.sites_heard_from(
            session, OPERATOR, [ip_address(peer) for peer, names in places.items() if not names]
        )
        for source, names in heard.items():
            places[str(source)] = names
        found: dict[str, Cause] = {}
        for cause in causes:
            site = cause.site if cause.site else _only(places.get(cause.peer, ()), standing)
            if site and (not cause.site or site in known):
                found[site] = cause
        return found

    def _write_problems(
        self, session: Session, report: Report, found: Mapping[str, Cause], new_problems: set[Problem]
    ) -> None:
        # What a site met when it tried says more than why it was sent away before; it is told last.
        seen: list[Seen] = []
        named = {str(params["site"]): one for one in new_problems if "site" in (params := dict(one.params))}
        if named:
            known = history.known_sites(session, OPERATOR, named)
            seen += [Seen(site, named[site].key, dict(named[site].params), report.at) for site in sorted(known)]
        seen += [
            Seen(site, cause.key, {**cause.params, "site": site}, cause.at)
            for site, cause in found.items()
            if cause.key not in ENDINGS and not self._told_lately(site, cause)
        ]
        told = seen[-MOST_PROBLEMS:]
        if told:
            history.record_problems(session, OPERATOR, told, seen_by=history.gateway_witness(report.gateway))
        for one in told:
            self._told[one.site_id] = (one.key, one.at)

    def _told_lately(self, site: str, cause: Cause) -> bool:
        key, at = self._told.get(site, ("", cause.at))
        return key == cause.key and (cause.at - at).total_seconds() < TELL_AGAIN_S


def _stands(row: TunnelState | None, tunnel: Live) -> bool:
    """Whether this is what the row says already."""
    return row is not None and row.up and (row.peer, row.suite, row.ike_version) == (
        tunnel.peer[:60], tunnel.suite[:100], tunnel.ike_version,
    )  # fmt: skip


def _state(tunnel: Live, row: TunnelState | None, at: datetime) -> TunnelState:
    since = at - timedelta(seconds=tunnel.established_s)
    if row is not None:
        # A new SA in place of one is no new connection; and none began before it was seen to end.
        since = row.since if row.up else max(since, row.since)
    return TunnelState(tunnel.site, True, since, tunnel.peer[:60], tunnel.suite[:100], tunnel.ike_version)


def _only(names: Sequence[str], standing: Mapping[str, TunnelState]) -> str:
    """Whose an attempt without a name is: there may be many sites behind one address of a carrier."""
    down = [name for name in names if not ((row := standing.get(name)) is not None and row.up)]
    candidates = down if len(names) > 1 else names
    return candidates[0] if len(candidates) == 1 else ""


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
