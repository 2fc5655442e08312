"""`kyoten site show` and `kyoten site history`: one site as it is, why, and how it was."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import sites as stated
from cloudside.cli import state_words as words
from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.moments import moment
from cloudside.cli.output import print_json, print_table, print_text, printable, show_one
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.tables import TunnelChange
    from cloudside.vpn.verdict import Evidence

HISTORY_COLUMNS = ("at", "change", "gateway", "peer", "cause")


def register(app: typer.Typer) -> None:
    """Put the commands into the group of `kyoten site`."""
    app.command("show")(show)
    app.command("history")(history)


def show(context: typer.Context, site: str, _json: JsonFlag = False) -> None:
    """One site: how it is and why, its line, tunnel, certificate, router and what stands there."""
    from cloudside.cli.firmware_modules import of_site
    from cloudside.pki.issuing import tenant_authority_name
    from cloudside.registry import certificates, devices, releases, settings, sites
    from cloudside.registry.addresses import router_address
    from cloudside.registry.tables import Router
    from cloudside.vpn import evidence as evidence_of
    from cloudside.vpn import verdict

    cli = cli_of(context)
    now = cli.now
    with cli.read() as (session, caller):
        found = sites.get(session, caller, site)
        router = session.get(Router, found.id)
        certificate = certificates.current(
            session, authority=tenant_authority_name(found.tenant_id), kind="site", subject=found.id
        )
        known = evidence_of.of_site(session, caller, cli.config, found.id, now=now)
        state, tunnel = verdict.standing(known.tunnels, known.silent_gateways)
        ends = None if certificate is None else certificate.not_after
        firmware = releases.state(session, caller, found.id)
        document: dict[str, Any] = {
            **stated.row_of(found),
            "state": state.value,
            "since": None if tunnel is None else tunnel.since,
            "why": words.trouble(verdict.why(known, now=now)),
            "last_problem": words.trouble(verdict.last_problem(known)),
            **words.tunnel(tunnel, known.heard),
            **words.router(known.heard),
            "firmware": words.firmware(firmware),
            "modules": [] if firmware is None else of_site(firmware),
            "certificate_until": ends,
            "certificate_days": None if ends is None else (ends - now).days,
            "router_address": str(router_address(found.overlay)),
            "mail_hourly_limit": found.mail_hourly_limit,
            "enrolled": None if router is None else router.enrolled_at,
            "host_key": None if router is None else router.ssh_host_key,
            "devices": [device.name for device in devices.every(session, caller, site_id=found.id)],
            "settings": [stated.settings_row(row) for row in settings.versions(session, caller, found.id)[:5]],
        }
    if cli.as_json:
        print_json(document)
    else:
        show_one(cli, words.site_in_words(document, now=now))


def history(
    context: typer.Context,
    site: str,
    since: Annotated[str, typer.Option(metavar="MOMENT", help="'2026-12-24 08:00' in UTC, or 2h, 7d ago.")] = "30d",
    most: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many, the newest.")] = 200,
    _json: JsonFlag = False,
) -> None:
    """When a site was connected and when not, why it was lost, and what part of the time it was there."""
    from cloudside.registry import history as kept
    from cloudside.registry import sites
    from cloudside.vpn import evidence as evidence_of
    from cloudside.vpn.availability import availability

    cli = cli_of(context)
    now = cli.now
    begin = moment(since, now=now)
    with cli.read() as (session, caller):
        found = sites.get(session, caller, site)
        changes = kept.changes(session, caller, found.id, since=begin)
        before = kept.states_before(session, caller, found.id, at=begin)
        known = evidence_of.of_site(session, caller, cli.config, found.id, now=now)
    # What is now closes a history whose last rows were left out; since a gateway is silent nothing is known of it.
    steps = [(row.at, row.gateway, row.up) for row in changes]
    last = {**before, **{gateway: up for _, gateway, up in steps}}
    steps += [(row.since, row.gateway, row.up) for row in known.tunnels if last.get(row.gateway) != row.up]
    steps.sort(key=lambda step: step[0])
    until = now - timedelta(seconds=min(known.silent_gateways.values(), default=0)) if _all_silent(known) else now
    told = availability(steps, before, since=begin, until=max(until, begin))
    rows = [_change(row) for row in changes[-most:]]
    document = {
        "site": found.id,
        "since": begin,
        "until": until,
        "availability_percent": None if told.percent is None else round(told.percent, 3),
        "connected_s": round(told.up_s),
        "known_s": round(told.known_s),
        "losses": told.losses,
        "changes": rows,
    }
    if cli.as_json:
        print_json(document)
        return
    shown = [{**row, "change": text(f"cli.tunnel-{row['state']}"), "cause": row["text"]} for row in rows]
    print_table("history", shown, HISTORY_COLUMNS)
    params: dict[str, str | int] = {"site": found.id, "since": f"{begin:%Y-%m-%d %H:%M}"}
    if told.percent is None:
        print_text(text("cli.history-nothing-known", params))
    else:
        params |= {"percent": f"{told.percent:.3f}", "losses": told.losses}
        params |= {"connected": words.span(told.up_s), "known": words.span(told.known_s)}
        print_text(text("cli.availability", params))
    if _all_silent(known):
        print_text(printable(text("cli.history-unknown-since", {"until": f"{until:%Y-%m-%d %H:%M:%S}"})))


def _all_silent(known: "Evidence") -> bool:
    return bool(known.tunnels) and all(tunnel.gateway in known.silent_gateways for tunnel in known.tunnels)


def _change(row: "TunnelChange") -> dict[str, Any]:
    return {
        "at": row.at,
        "state": "up" if row.up else "down",
        "gateway": row.gateway,
        "peer": row.peer,
        "key": row.cause or None,
        "params": row.params,
        "text": text(row.cause, {**row.params, "site": row.site_id}) if row.cause else None,
    }
