"""`kyoten tenant`: customers and their blocks."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import done, show_one, show_rows

if TYPE_CHECKING:
    from cloudside.registry.addresses import Network
    from cloudside.registry.tables import Tenant

app = typer.Typer(no_args_is_help=True, help="Customers and their address blocks.")


@app.command()
def add(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="Name: lower-case letters, digits, hyphens.")],
    block: Annotated[str | None, typer.Option(help="Block in the overlay; else the first free one.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Take a tenant in."""
    from cloudside.registry import tenants

    cli = cli_of(context)
    with cli.write("gateway") as (session, caller):
        added = tenants.add(
            session,
            caller,
            tenant_id=tenant,
            overlay=cli.config.gateway.overlay,
            block=block,
            now=cli.now,
            reserved=reserved(cli),
        )
    done(cli, _row(added), "cli.tenant-added", tenant=added.id, block=str(added.block))


@app.command("list")
def list_(context: typer.Context, _json: JsonFlag = False) -> None:
    """All tenants."""
    from cloudside.registry import tenants

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [_row(tenant) for tenant in tenants.every(session, caller)]
    show_rows(cli, "tenants", rows, ("tenant", "block", "created"))


@app.command()
def show(context: typer.Context, tenant: str, _json: JsonFlag = False) -> None:
    """One tenant: its block, sites, policy."""
    from cloudside.registry import policies, sites, tenants

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = tenants.get(session, caller, tenant)
        theirs = [site.id for site in sites.every(session, caller, tenant_id=found.id)]
        policy = policies.in_force(session, caller, found.id)
    version = None if policy is None else policy.version
    show_one(cli, {**_row(found), "sites": theirs, "policy_version": version})


def reserved(cli: Cli) -> "tuple[Network, ...]":
    """Prefixes of the overlay that are nobody's: the gateway's own service address."""
    from cloudside.registry.addresses import read_prefix

    return (read_prefix(str(cli.config.gateway.service_address)),)


def _row(tenant: "Tenant") -> dict[str, Any]:
    return {"tenant": tenant.id, "block": str(tenant.block), "created": tenant.created_at}
