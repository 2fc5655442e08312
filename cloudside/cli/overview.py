"""`kyoten status` and `kyoten tunnels`: how the fleet is now."""

from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli import incidents as incidents_group
from cloudside.cli import reports as rows_of
from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import print_json, print_table, print_text, printable, show_rows
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.tables import Tunnel

SITE_COLUMNS = ("site", "tenant", "phase", "tunnel", "uplink", "heartbeat", "settings", "problems")
GATEWAY_COLUMNS = ("gateway", "seen", "rule_set", "dataplane", "problems")
TUNNEL_COLUMNS = ("site", "gateway", "up", "since", "peer", "suite")


def register(app: typer.Typer) -> None:
    """Put the commands into the tree."""
    app.command("status")(status)
    app.command("tunnels")(tunnels)


def status(
    context: typer.Context,
    site: Annotated[str | None, typer.Argument(help="Only this site.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Sites, gateways and open incidents, and what is wrong with them in words."""
    from cloudside.registry import incidents, reports, settings, sites

    cli = cli_of(context)
    now = cli.now
    with cli.read() as (session, caller):
        shown = [sites.get(session, caller, site)] if site else sites.every(session, caller)
        heartbeats = reports.heartbeats(session, caller)
        newest = settings.latest_of_all(session, caller)
        tunnels_of: dict[str, list[Tunnel]] = {}
        for tunnel in reports.tunnels(session, caller):
            tunnels_of.setdefault(tunnel.site_id, []).append(tunnel)
        gateways = reports.gateways(session, caller) if caller.tenant is None else []
        open_now = incidents.still_open(session, caller)
    site_rows = [
        rows_of.site_row(one, tunnels_of.get(one.id, []), heartbeats.get(one.id), newest.get(one.id), now=now)
        for one in shown
    ]
    gateway_rows = [rows_of.gateway_row(gateway, now=now) for gateway in gateways]
    incident_rows = [incidents_group.row_of(incident) for incident in open_now if site in (None, incident.subject)]
    if cli.as_json:
        print_json({"sites": site_rows, "gateways": gateway_rows, "incidents": incident_rows})
        return
    print_table("sites", [rows_of.site_in_words(row) for row in site_rows], SITE_COLUMNS)
    if caller.tenant is None:
        words = [rows_of.gateway_in_words(row) for row in gateway_rows]
        print_table("gateways", words, GATEWAY_COLUMNS, title=text("cli.title-gateways"))
    for line in (
        *rows_of.problems_in_words(site_rows, "site"),
        *rows_of.problems_in_words(gateway_rows, "gateway"),
    ):
        print_text(printable(line))
    print_table("incidents", incident_rows, incidents_group.COLUMNS, title=text("cli.title-incidents"))


def tunnels(context: typer.Context, _json: JsonFlag = False) -> None:
    """What each gateway last saw of each site's tunnel."""
    from cloudside.registry import reports

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [
            {
                "site": one.site_id,
                "gateway": one.gateway,
                "up": one.up,
                "since": one.since,
                "peer": one.peer,
                "suite": one.suite,
            }
            for one in reports.tunnels(session, caller)
        ]
    show_rows(cli, "tunnels", rows, TUNNEL_COLUMNS)
