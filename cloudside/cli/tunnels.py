"""`kyoten tunnels`: what each gateway last saw of each site's tunnel."""

from typing import Annotated

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import show_rows

COLUMNS = ("site", "tenant", "gateway", "state", "since", "peer", "ike", "suite")


def register(app: typer.Typer) -> None:
    """Put the command into the tree."""
    app.command("tunnels")(tunnels)


def tunnels(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    gateway: Annotated[str | None, typer.Option(help="Only this gateway's.")] = None,
    down: Annotated[bool, typer.Option("--down", help="Only those that are not up.")] = False,
    ike1: Annotated[bool, typer.Option("--ike1", help="Only those that still need IKEv1.")] = False,
    suite: Annotated[str | None, typer.Option(help="Only those whose suite has this in it, such as AES_CBC.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Who is connected where, since when, from which address, with which IKE version and cipher suite."""
    from cloudside.registry import overview
    from cloudside.registry import tenants as known
    from cloudside.vpn import evidence

    cli = cli_of(context)
    with cli.read() as (session, caller):
        if tenant is not None:
            known.get(session, caller, tenant)
        silent = evidence.silent_gateways(session, cli.config, now=cli.now)
        found = overview.tunnels(session, caller, gateway=gateway)
    rows = [
        {
            "site": one.site,
            "tenant": one.tenant,
            "gateway": one.gateway,
            "up": one.up,
            "state": "unknown" if one.gateway in silent else "up" if one.up else "down",
            "since": one.since,
            "peer": one.peer,
            "ike": one.ike_version or None,
            "suite": one.suite,
        }
        for one in found
        if tenant in (None, one.tenant)
        and not (down and one.up and one.gateway not in silent)
        and not (ike1 and one.ike_version != 1)
        and (suite is None or suite.lower() in one.suite.lower())
    ]
    show_rows(cli, "tunnels", rows, COLUMNS)
