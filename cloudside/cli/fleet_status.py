"""`kyoten status`: the fleet at one look, the worst first."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import incidents as incidents_group
from cloudside.cli import reports as rows_of
from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import print_json, print_table, print_text, printable
from cloudside.messages import text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cloudside.cli.context import Cli
    from cloudside.registry.callers import Caller
    from cloudside.registry.overview import SiteRow

SITE_COLUMNS = ("site", "tenant", "phase", "tunnel", "uplink", "heartbeat", "settings", "problems")
TENANT_COLUMNS = ("tenant", "sites", "up", "down", "never", "unknown", "revoked")
GATEWAY_COLUMNS = ("gateway", "seen", "tunnels", "rule_set", "dataplane", "problems")
WORST_COLUMNS = ("site", "tenant", "state", "since", "why")

#: All sites are listed one by one when there are no more than this.
SMALL_FLEET = 50
#: Days before a certificate's end from which a site is named; a router renews 120 days before.
CERTIFICATE_DAYS = 30
#: Per cent of a month's data from which a site is named.
BUDGET_PERCENT = 80
#: A problem that somebody saw within this time is a problem of today.
_RECENT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What the registry knows of all sites, by site."""

    sites: "list[SiteRow]"
    states: Mapping[str, tuple[str, datetime | None, str]]
    troubles: Mapping[str, list[dict[str, Any]]]
    connected: list[tuple[str, str]]


def register(app: typer.Typer) -> None:
    """Put the command into the tree."""
    app.command("status")(status)


def status(
    context: typer.Context,
    site: Annotated[str | None, typer.Argument(help="Only this site.")] = None,
    worst: Annotated[int, typer.Option(min=0, max=10_000, help="How many of the worst are named.")] = 20,
    every: Annotated[
        bool, typer.Option("--sites", help="List each site; a fleet of 50 at most is listed anyway.")
    ] = False,
    _json: JsonFlag = False,
) -> None:
    """How many sites are connected, how the gateways are, which sites are worst, and what is wrong in words."""
    from cloudside.registry import incidents, reports, sites
    from cloudside.vpn import evidence

    cli = cli_of(context)
    now = cli.now
    with cli.read() as (session, caller):
        silent = evidence.silent_gateways(session, cli.config, now=now)
        if site is not None:
            sites.get(session, caller, site)
        fleet = _read(session, caller, silent, now=now)
        states = reports.gateways(session, caller) if caller.tenant is None else []
        carried = Counter(gateway for _, gateway in fleet.connected)
        open_now = incidents.still_open(session, caller)
        listed = site is not None or every or len(fleet.sites) <= SMALL_FLEET
        site_rows = _listed(session, caller, silent, site, now=now) if listed else None
    tenants = _counts(fleet)
    gateway_rows = [rows_of.gateway_row(one, now=now, silent=silent, tunnels=carried[one.name]) for one in states]
    worst_rows = _worst(fleet, now=now)
    incident_rows = [incidents_group.row_of(incident) for incident in open_now if site in (None, incident.subject)]
    if cli.as_json:
        document = {"sites": site_rows, "gateways": gateway_rows, "incidents": incident_rows}
        fleet_wide = {"total": _total(tenants), "tenants": tenants, "worst": worst_rows[:worst]}
        print_json(document if site is not None else {**fleet_wide, **document})
        return
    if site is None:
        _print_fleet(cli, tenants, gateway_rows, worst_rows, worst)
    elif caller.tenant is None:
        _print_gateways(gateway_rows)
    if site_rows is not None:
        print_table("sites", [rows_of.site_in_words(row) for row in site_rows], SITE_COLUMNS)
        for line in rows_of.problems_in_words(site_rows, "site"):
            print_text(printable(line))
    print_table("incidents", incident_rows, incidents_group.COLUMNS, title=text("cli.title-incidents"))


def _print_fleet(
    cli: "Cli", tenants: list[dict[str, Any]], gateways: list[dict[str, Any]], worst: list[dict[str, Any]], most: int
) -> None:
    totals = [{**_total(tenants), "tenant": text("cli.all-tenants")}] if len(tenants) > 1 else []
    print_table("sites", [*tenants, *totals], TENANT_COLUMNS)
    if cli.tenant is None:
        _print_gateways(gateways)
    if worst[:most]:
        print_table(
            "sites", [_worst_in_words(row) for row in worst[:most]], WORST_COLUMNS, title=text("cli.title-worst")
        )
    if len(worst) > most:
        print_text(text("cli.and-more", {"count": len(worst) - most}))


def _print_gateways(rows: list[dict[str, Any]]) -> None:
    words = [rows_of.gateway_in_words(row) for row in rows]
    print_table("gateways", words, GATEWAY_COLUMNS, title=text("cli.title-gateways"))
    for line in rows_of.problems_in_words(rows, "gateway"):
        print_text(printable(line))


def _read(session: "Session", caller: "Caller", silent: Mapping[str, int], *, now: datetime) -> _Fleet:
    from cloudside.registry import history, overview
    from cloudside.vpn.verdict import State, TunnelView, standing

    sites = overview.sites(session, caller)
    connected = overview.connected(session, caller)
    recent = history.problems_of_all(session, caller, since=now - _RECENT)
    up = {site: gateway for site, gateway in connected if gateway not in silent}
    rest = [name for name, gateway in connected if name not in up]
    tunnels: dict[str, list[TunnelView]] = {}
    rows = overview.tunnels(session, caller, up=False)
    # When a tunnel came up matters only where it says whether a problem is over, or nobody knows more.
    if named := [*rest, *(name for name in recent if name in up)]:
        rows += [row for row in overview.tunnels(session, caller, of=named) if row.up]
    for row in rows:
        tunnels.setdefault(row.site, []).append(TunnelView(row.gateway, row.up, row.since))
    states: dict[str, tuple[str, datetime | None, str]] = {}
    for one in sites:
        if one.site in up and one.site not in recent:
            states[one.site] = (State.UP.value, None, up[one.site])
            continue
        state, tunnel = standing(tunnels.get(one.site, ()), silent)
        since = None if tunnel is None else tunnel.since
        states[one.site] = (state.value, since, "" if tunnel is None else tunnel.gateway)
    troubles: dict[str, list[dict[str, Any]]] = {}
    for name, seen in recent.items():
        _, since, _ = states.get(name, ("", None, ""))
        # What kept a site out before its tunnel came up is over.
        if states.get(name, ("",))[0] != "up" or (since is not None and seen.seen_at > since):
            troubles.setdefault(name, []).append(rows_of.problem_row({"key": seen.key, "params": seen.params}))
    for name, (_, found) in overview.problems_reported(session, caller).items():
        troubles.setdefault(name, []).extend(rows_of.problem_row(one) for one in found if "key" in one)
    for name, ends in overview.certificates_ending(
        session, caller, before=now + timedelta(days=CERTIFICATE_DAYS)
    ).items():
        key = "cli.certificate-ends" if ends > now else "cli.certificate-ended"
        params = {"site": name, "until": f"{ends:%Y-%m-%d}"}
        troubles.setdefault(name, []).append(rows_of.problem_row({"key": key, "params": params}))
    for name, (used, budget) in overview.data_used(session, caller, percent=BUDGET_PERCENT).items():
        params = {"site": name, "percent": str(100 * used // budget)}
        troubles.setdefault(name, []).append(rows_of.problem_row({"key": "cli.budget-used", "params": params}))
    return _Fleet(sites, states, troubles, connected)


def _counts(fleet: _Fleet) -> list[dict[str, Any]]:
    counts: dict[str, dict[str, Any]] = {}
    for one in fleet.sites:
        row = counts.setdefault(
            one.tenant, {"tenant": one.tenant, "sites": 0, "up": 0, "down": 0, "never": 0, "unknown": 0, "revoked": 0}
        )
        row["sites"] += 1
        row["revoked" if one.revoked else fleet.states[one.site][0]] += 1
    return [counts[tenant] for tenant in sorted(counts)]


def _total(tenants: list[dict[str, Any]]) -> dict[str, Any]:
    return {column: sum(row[column] for row in tenants) for column in TENANT_COLUMNS[1:]}


def _worst(fleet: _Fleet, *, now: datetime) -> list[dict[str, Any]]:
    """Sites in service that are not as they should be: those not connected before others, the longest first."""
    rank = {"down": 0, "unknown": 1, "never": 2, "up": 3}
    rows = []
    for one in fleet.sites:
        if one.revoked or one.phase in ("planned", "retired"):
            continue
        state, since, gateway = fleet.states[one.site]
        troubles = fleet.troubles.get(one.site, [])
        if state == "up" and not troubles:
            continue
        row = {"site": one.site, "tenant": one.tenant, "state": state, "since": since, "gateway": gateway}
        rows.append((rank[state], since or now, one.site, {**row, "problems": troubles}))
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:3])]


def _worst_in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "state": text(f"cli.tunnel-{row['state']}"),
        "why": [problem["text"] for problem in row["problems"]],
    }


def _listed(
    session: "Session", caller: "Caller", silent: Mapping[str, int], site: str | None, *, now: datetime
) -> list[dict[str, Any]]:
    from cloudside.registry import reports, settings, sites
    from cloudside.registry.tables import Tunnel

    shown = [sites.get(session, caller, site)] if site else sites.every(session, caller)
    heartbeats = reports.heartbeats(session, caller)
    newest = settings.latest_of_all(session, caller)
    tunnels_of: dict[str, list[Tunnel]] = {}
    for tunnel in reports.tunnels(session, caller):
        tunnels_of.setdefault(tunnel.site_id, []).append(tunnel)
    return [
        rows_of.site_row(
            one, tunnels_of.get(one.id, []), heartbeats.get(one.id), newest.get(one.id), now=now, silent=silent
        )
        for one in shown
    ]
