"""`kyoten grant`: reachability for a limited time beside a tenant's policy, for a visit."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.answers import End, tenants_of
from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.moments import duration
from cloudside.cli.output import done, show_rows
from cloudside.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from cloudside.registry.tables import Grant

app = typer.Typer(no_args_is_help=True, help="Reachability for a limited time.")

COLUMNS = ("grant", "tenant", "source", "destination", "services", "starts", "ends", "state", "author", "reason")
#: Hexadecimal digits of a grant's id: unique, and still typed by people.
_ID_BYTES = 5


@app.command()
def add(
    context: typer.Context,
    source: End,
    destination: End,
    services: Annotated[list[str], typer.Argument(metavar="SERVICE...", help="Such as ssh or tcp/443.")],
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 2h, 30m, 1d12h; 7d at most.")],
    reason: Annotated[str, typer.Option("--reason", help="Who visits, and what for.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="MOMENT", help="When it begins, UTC: '2026-12-24 08:00'; else now.")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose it is, where the two ends do not say.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Let A reach B for a limited time. It ends by itself."""
    import secrets

    from cloudside.cli.tenants import reserved
    from cloudside.registry import grants

    cli = cli_of(context)
    now = cli.now
    starts = now if start is None else _moment(start)
    ends = starts + duration(length)
    with cli.write("gateway") as (session, caller):
        owner = tenant or _owner(session, caller, source, destination)
        written = ", ".join(services)
        kept = grants.add(
            session,
            caller,
            grant_id=secrets.token_hex(_ID_BYTES),
            tenant_id=owner,
            source=source,
            destination=destination,
            services=written,
            starts_at=starts,
            ends_at=ends,
            reason=reason,
            author=cli.person,
            overlay=cli.config.gateway.overlay,
            reserved=reserved(cli),
            now=now,
        )
        _require_room(session, kept)
        row = row_of(kept, now)
    done(
        cli,
        row,
        "cli.grant-added",
        grant=kept.id,
        source=kept.source,
        destination=kept.destination,
        services=kept.services,
        starts=f"{kept.starts_at:%Y-%m-%d %H:%M} UTC",
        ends=f"{kept.ends_at:%Y-%m-%d %H:%M} UTC",
    )


@app.command("list")
def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Past ones too.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Grants that hold or are to come, those that start last first."""
    from cloudside.registry import grants

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [row_of(one, cli.now) for one in grants.every(session, caller)]
    show_rows(cli, "grants", [row for row in rows if every or row["state"] in ("waiting", "holds")], COLUMNS)


@app.command()
def end(context: typer.Context, grant: Annotated[str, typer.Argument(metavar="ID")], _json: JsonFlag = False) -> None:
    """End a grant before its time."""
    from cloudside.registry import grants

    cli = cli_of(context)
    now = cli.now
    with cli.write("gateway") as (session, caller):
        before = row_of(grants.get(session, caller, grant), now)["state"]
        kept = grants.end(session, caller, grant_id=grant, now=now)
        row = row_of(kept, now)
    over = before in ("over", "ended")
    done(cli, row, "cli.grant-over-already" if over else "cli.grant-ended", grant=kept.id)


def row_of(grant: "Grant", now: "datetime") -> dict[str, Any]:
    """A grant as JSON and tables have it."""
    return {
        "grant": grant.id,
        "tenant": grant.tenant_id,
        "source": grant.source,
        "destination": grant.destination,
        "services": grant.services,
        "starts": grant.starts_at,
        "ends": grant.ended_at or grant.ends_at,
        "state": _state(grant, now),
        "author": grant.author,
        "reason": grant.reason,
    }


def _state(grant: "Grant", now: "datetime") -> str:
    if grant.ended_at is not None:
        return "ended"
    if now >= grant.ends_at:
        return "over"
    return "holds" if now >= grant.starts_at else "waiting"


def _owner(session: "Session", caller: "Caller", source: str, destination: str) -> str:
    """The tenant that the ends belong to. Raises InputError: they do not say."""
    if caller.tenant is not None:
        return caller.tenant
    for end in (destination, source):
        found = tenants_of(session, [end.split("/")[0]], whole_if_shared=False)
        if found:
            return found[0]
    raise InputError("cli.grant-tenant-wanted", source=source, destination=destination)


def _require_room(session: "Session", grant: "Grant") -> None:
    """Raise InputError if the platform's file leaves nothing of the grant."""
    from cloudside.cli.plans import inventory_of
    from cloudside.registry import grants
    from rules.model import Restriction
    from rules.parse import parse_stored
    from rules.services import intersected, subtracted

    known, source = inventory_of(session, [grant.tenant_id])
    platform = parse_stored([], known, source)[0].platform
    opens = platform.servers.get(grant.source, Restriction()).opens
    offers = platform.servers.get(grant.destination, Restriction()).offers
    wanted = subtracted(grants.services_of(grant.services), platform.forbidden)
    if not intersected(intersected(wanted, opens), offers):
        raise InputError(
            "cli.grant-forbidden", source=grant.source, destination=grant.destination, services=grant.services
        )


def _moment(written: str) -> "datetime":
    from zoneinfo import ZoneInfo

    from rules.validity import moment

    try:
        return moment(written.strip(), ZoneInfo("UTC"))
    except ValueError:
        raise InputError("cli.bad-moment", text=written[:40]) from None
