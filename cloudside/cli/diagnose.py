"""`kyoten site diagnose`: the way from a site to the cloud, link by link, and where it stops."""

from typing import TYPE_CHECKING, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import print_json, print_text, printable
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.addresses import Address
    from cloudside.registry.tables import Site
    from cloudside.vpn.diagnosis import Facts, Live

#: Exit status when the way stops somewhere.
STOPS = 1


def register(app: typer.Typer) -> None:
    """Put the command into the group of `kyoten site`."""
    app.command("diagnose")(diagnose)


def diagnose(context: typer.Context, site: str, _json: JsonFlag = False) -> None:
    """Walk the way from a site to the cloud and say where it stops and what to do. On the gateway it looks deeper."""
    from cloudside.vpn.diagnosis import Outcome, walk

    cli = cli_of(context)
    now = cli.now
    steps = walk(_facts(cli, site), now=now)
    stops = steps[-1].outcome is Outcome.STOP
    rows: list[dict[str, Any]] = [
        {"step": step.name, "outcome": step.outcome.value, "key": step.key, "params": dict(step.params),
         "text": text(step.key, step.params)}
        for step in steps
    ]  # fmt: skip
    if cli.as_json:
        print_json({"site": site, "stops_at": steps[-1].name if stops else None, "steps": rows})
    else:
        for row in rows:
            outcome, name = text(f"diagnose.outcome-{row['outcome']}"), text(f"diagnose.step-{row['step']}")
            print_text(printable(f"{outcome}  {name}: {row['text']}"))
        if not stops:
            print_text(text("diagnose.whole-way", {"site": site}))
    if stops:
        raise typer.Exit(STOPS)


def _facts(cli: Cli, name: str) -> "Facts":
    from cloudside.pki.issuing import tenant_authority_name
    from cloudside.registry import certificates, devices, reports, sites
    from cloudside.registry.addresses import overlay_address, router_address
    from cloudside.registry.callers import OPERATOR
    from cloudside.vpn import evidence
    from cloudside.vpn.diagnosis import Certificate, Facts, GatewayFacts

    config, now = cli.config, cli.now
    with cli.read() as (session, caller):
        site = sites.get(session, caller, name)
        known = evidence.of_site(session, caller, config, site.id, now=now)
        record = certificates.current(
            session, authority=tenant_authority_name(site.tenant_id), kind="site", subject=site.id
        )
        gateways = [
            GatewayFacts(
                row.name,
                known.silent_gateways.get(row.name),
                row.report.get("charon"),
                row.report["wanted_rule_set"] == row.rule_set if row.report.get("wanted_rule_set") else None,
            )
            for row in reports.gateways(session, OPERATOR)
        ]
        asked = [
            (device.name, overlay_address(site.lan, site.overlay, device.lan_address))
            for device in devices.every(session, caller, site_id=site.id)
        ]
    return Facts(
        site=site.id,
        phase=site.phase,
        revoked_at=site.revoked_at,
        router_address=str(router_address(site.overlay)),
        certificate=None if record is None else Certificate(record.not_before, record.not_after),
        gateways=gateways,
        evidence=known,
        live=_live(cli, site, asked),
        here=config.gateway.name,
    )


def _live(cli: Cli, site: "Site", asked: "list[tuple[str, Address]]") -> "Live | None":
    from cloudside.registry.addresses import router_address
    from cloudside.vpn import inspection
    from linux.runner import SubprocessRunner

    if cli.tenant is not None or not inspection.is_here(cli.config):
        return None
    return inspection.look(
        cli.config,
        SubprocessRunner(),
        site=site.id,
        overlay=site.overlay,
        router=router_address(site.overlay),
        devices=asked,
    )
