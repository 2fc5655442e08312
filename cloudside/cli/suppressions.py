"""`kyoten mail suppressions`: addresses that a tenant's mail is not sent to any more."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of, operators_cli_of
from cloudside.cli.moments import duration
from cloudside.cli.output import done, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from datetime import datetime

    from cloudside.registry.tables import Suppression

app = typer.Typer(no_args_is_help=True, help="Addresses that nothing is sent to any more.")

COLUMNS = ("tenant", "address", "cause", "reason", "message", "author", "created", "expires")

Tenant = Annotated[str | None, typer.Option("--tenant", help="On this tenant's list.")]
Servers = Annotated[bool, typer.Option("--servers", help="On the list for cloud servers' mail.")]


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Tenant = None,
    servers: Servers = False,
    address: Annotated[str | None, typer.Option("--address", help="This address only.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that are over too, until they are forgotten.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Addresses that nothing is sent to, by tenant."""
    from cloudside.registry import suppressions

    cli = cli_of(context)
    owner = _owner(context, tenant, servers, needed=False)
    with cli.read() as (session, caller):
        found = suppressions.every(session, caller, tenant_id=owner, address=address, now=None if every else cli.now)
    show_rows(cli, "suppressions", [_row(row) for row in found], COLUMNS)


@app.command()
def add(
    context: typer.Context,
    address: str,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever wonders.")],
    tenant: Tenant = None,
    servers: Servers = False,
    length: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long: 30d; else until it is removed.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Send a tenant's mail to an address no more. Its sites' mails to it come back as failed."""
    from cloudside.registry import suppressions

    cli = cli_of(context)
    owner = _owner(context, tenant, servers)
    now = cli.now
    ends = None if length is None else now + duration(length)
    with cli.write("relay") as (session, caller):
        row = suppressions.add(
            session,
            caller,
            tenant_id=owner or "",
            address=address,
            cause="manual",
            reason=reason,
            author=cli.person,
            now=now,
            expires_at=ends,
        )
        document = _row(row)
    stands = (row.cause, row.reason, row.expires_at) != ("manual", reason, ends)
    key = "cli.suppression-stood" if stands else "cli.suppression-added"
    done(cli, document, key, address=row.address, tenant=_name(row.tenant_id), until=_until(row.expires_at))


@app.command()
def remove(
    context: typer.Context, address: str, tenant: Tenant = None, servers: Servers = False, _json: JsonFlag = False
) -> None:
    """Send to an address again."""
    from cloudside.registry import suppressions

    cli = cli_of(context)
    owner = _owner(context, tenant, servers)
    with cli.write("relay") as (session, caller):
        row = suppressions.remove(session, caller, tenant_id=owner or "", address=address)
        document = _row(row)
    done(
        cli, {**document, "removed": True}, "cli.suppression-removed", address=row.address, tenant=_name(row.tenant_id)
    )


def _owner(context: typer.Context, tenant: str | None, servers: bool, *, needed: bool = True) -> str | None:
    """Whose list: a tenant's administrator has one. Raises InputError: none or two were named, or an unknown tenant."""
    cli = cli_of(context)
    if servers:
        operators_cli_of(context)
        if tenant is not None:
            raise InputError("cli.suppression-whose")
        return ""
    if tenant is None and cli.tenant is None and needed:
        raise InputError("cli.suppression-whose")
    return _known(cli, tenant) if tenant is not None else (cli.tenant and cli.caller.tenant)


def _known(cli: Cli, tenant: str) -> str:
    from cloudside.registry import tenants

    with cli.read() as (session, caller):
        return tenants.get(session, caller, tenant).id


def _row(row: "Suppression") -> dict[str, Any]:
    return {
        "tenant": row.tenant_id or None,
        "address": row.address,
        "cause": row.cause,
        "reason": row.reason,
        "message": row.message or None,
        "author": row.author,
        "created": row.created_at,
        "expires": row.expires_at,
    }


def _name(tenant: str) -> str:
    return tenant or text("cli.mail-of-servers")


def _until(end: "datetime | None") -> str:
    return (
        text("cli.until-removed") if end is None else text("cli.until-moment", {"moment": f"{end:%Y-%m-%d %H:%M} UTC"})
    )
