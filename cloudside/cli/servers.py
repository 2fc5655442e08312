"""`kyoten server`: cloud servers behind the gateways."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import done, show_rows
from cloudside.cli.tenants import reserved

if TYPE_CHECKING:
    from cloudside.registry.tables import Server

app = typer.Typer(no_args_is_help=True, help="Cloud servers behind the gateways.")


@app.command()
def add(
    context: typer.Context,
    server: str,
    address: str,
    tenant: Annotated[str | None, typer.Option(help="For this tenant only; else offered to every tenant.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Take a cloud server in."""
    from cloudside.registry import servers

    cli = cli_of(context)
    with cli.write("gateway") as (session, caller):
        added = servers.add(
            session,
            caller,
            server_id=server,
            address=address,
            overlay=cli.config.gateway.overlay,
            tenant_id=tenant,
            reserved=reserved(cli),
        )
    done(cli, _row(added), "cli.server-added", server=added.id, address=str(added.address))


@app.command("list")
def list_(context: typer.Context, _json: JsonFlag = False) -> None:
    """All cloud servers."""
    from cloudside.registry import servers

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [_row(server) for server in servers.every(session, caller)]
    show_rows(cli, "servers", rows, ("server", "address", "tenant"))


@app.command()
def remove(context: typer.Context, server: str, _json: JsonFlag = False) -> None:
    """Forget a cloud server; statements that name it allow nothing any more."""
    from cloudside.registry import servers

    cli = cli_of(context)
    with cli.write("gateway") as (session, caller):
        servers.remove(session, caller, server_id=server)
    done(cli, {"server": server, "removed": True}, "cli.server-removed", server=server)


def _row(server: "Server") -> dict[str, Any]:
    return {"server": server.id, "address": str(server.address), "tenant": server.tenant_id}
