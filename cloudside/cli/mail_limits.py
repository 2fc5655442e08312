"""`kyoten mail limits`: how many recipients a tenant, site or device may send to, and what happens beyond."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.moments import duration
from cloudside.cli.output import done, print_text, show_one, show_rows
from cloudside.errors import InputError
from cloudside.mail.model import Action, Scope
from cloudside.messages import text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from cloudside.registry.mail_limits import Defaults
    from cloudside.registry.tables import MailLimit

app = typer.Typer(no_args_is_help=True, help="How many recipients may be sent to in an hour and a day.")

COLUMNS = ("scope", "name", "tenant", "hourly", "daily", "action", "raised", "raised_until")
#: What a person writes for no limit.
_NONE = "none"

Site = Annotated[str | None, typer.Option("--site", help="Of this site, or of server/NAME.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Of all sites of this tenant together.")]
Device = Annotated[
    str | None, typer.Option("--device", help="Of this mail login, or of this overlay address if it has none.")
]
Count = Annotated[str | None, typer.Option(metavar="N", help="Recipients; 'none' is no limit. Left out: as it was.")]


@app.command()
def show(
    context: typer.Context, site: Site = None, tenant: Tenant = None, device: Device = None, _json: JsonFlag = False
) -> None:
    """All limits that were set, or the one that holds for one site, tenant or device."""
    from cloudside.registry import mail_limits

    cli = cli_of(context)
    if (site, tenant, device) == (None, None, None):
        with cli.read() as (session, caller):
            rows = [_row(row, cli.now) for row in mail_limits.every(session, caller)]
        show_rows(cli, "mail-limits", rows, COLUMNS)
        if not cli.as_json:
            usual = _defaults(cli)
            print_text(text("cli.mail-limits-default", {"hourly": usual.hourly, "daily": usual.daily}))
        return
    scope, name = _one(site, tenant, device)
    with cli.read() as (session, caller):
        document = _in_force(cli, session, caller, scope, name)
    show_one(cli, document)


@app.command("set")
def set_(
    context: typer.Context,
    site: Site = None,
    tenant: Tenant = None,
    device: Device = None,
    hourly: Count = None,
    daily: Count = None,
    action: Annotated[
        str | None,
        typer.Option(help="At the limit: notify staff, hold further mail, or refuse it for now (450)."),
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Set a limit. It holds at once; a raise of the one before ends."""
    from cloudside.registry import mail_limits

    cli = cli_of(context)
    scope, name = _one(site, tenant, device)
    if hourly is None and daily is None and action is None:
        raise InputError("cli.mail-limit-nothing")
    with cli.write("relay") as (session, caller):
        before = _in_force(cli, session, caller, scope, name)
        counts = {"hourly": before["hourly"], "daily": before["daily"]}
        counts |= {window: _count(word) for window, word in (("hourly", hourly), ("daily", daily)) if word is not None}
        if daily is None and not before["own"] and counts["hourly"] and counts["daily"]:
            counts["daily"] = max(counts["daily"], counts["hourly"])  # the relay's default follows
        row = mail_limits.set_limit(
            session,
            caller,
            scope=scope,
            name=name,
            hourly=counts["hourly"],
            daily=counts["daily"],
            action=action or before["action"],
        )
        document = _row(row, cli.now)
    done(cli, document, "cli.mail-limit-set", **_told(document))


@app.command("raise")
def raise_(
    context: typer.Context,
    site: Site = None,
    tenant: Tenant = None,
    device: Device = None,
    times: Annotated[int, typer.Option("--times", help="So many times as high.")] = 2,
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 2h, 1d; 7d at most.")] = "24h",
    _json: JsonFlag = False,
) -> None:
    """Make a limit higher for a while. It goes back by itself."""
    from cloudside.registry import mail_limits

    cli = cli_of(context)
    scope, name = _one(site, tenant, device)
    now = cli.now
    with cli.write("relay") as (session, caller):
        row = mail_limits.raise_limit(
            session,
            caller,
            scope=scope,
            name=name,
            times=times,
            until=now + duration(length),
            now=now,
            defaults=_defaults(cli),
        )
        document = _row(row, now)
    until = f"{document['raised_until']:%Y-%m-%d %H:%M} UTC"
    done(cli, document, "cli.mail-limit-raised", **_told(document, of="now"), until=until)


@app.command()
def remove(
    context: typer.Context, site: Site = None, tenant: Tenant = None, device: Device = None, _json: JsonFlag = False
) -> None:
    """Take a limit away. A site then has the relay's default again, a tenant or device none."""
    from cloudside.registry import mail_limits

    cli = cli_of(context)
    scope, name = _one(site, tenant, device)
    with cli.write("relay") as (session, caller):
        row = mail_limits.remove(session, caller, scope=scope, name=name)
    document = {"scope": row.scope, "name": row.name, "removed": True}
    done(cli, document, "cli.mail-limit-removed", scope=row.scope, name=row.name)


def _one(site: str | None, tenant: str | None, device: str | None) -> tuple[Scope, str]:
    """Whose limit. Raises InputError: none or several were named."""
    named = [
        (scope, name)
        for scope, name in ((Scope.SITE, site), (Scope.TENANT, tenant), (Scope.DEVICE, device))
        if name is not None
    ]
    if len(named) != 1:
        raise InputError("cli.mail-limit-whose")
    return named[0]


def _count(word: str) -> int | None:
    if word.strip().lower() == _NONE:
        return None
    if not word.strip().isascii() or not word.strip().isdecimal() or len(word) > 12:
        raise InputError("cli.bad-mail-count", text=word[:40])
    return int(word)


def _defaults(cli: Cli) -> "Defaults":
    from cloudside.registry.mail_limits import Defaults

    relay = cli.config.relay
    return Defaults(hourly=relay.hourly_limit_per_site, daily=relay.daily_limit_per_site)


def _in_force(cli: Cli, session: "Session", caller: "Caller", scope: Scope, name: str) -> dict[str, Any]:
    """The limit of somebody, and whether it is its own. Raises InputError: unknown."""
    from cloudside.registry import mail_limits, mail_scopes

    subject = mail_scopes.subject(session, caller, scope, name)
    row = mail_limits.find(session, caller, scope=scope, name=name)
    if row is not None:
        return {**_row(row, cli.now), "own": True}
    hourly, daily = None, None
    if scope is Scope.SITE:
        usual = _defaults(cli)
        hourly = mail_limits.default_hourly(session, caller, subject.name, usual)
        daily = max(hourly, usual.daily)
    return {
        "scope": subject.scope.value,
        "name": subject.name,
        "tenant": subject.tenant,
        "hourly": hourly,
        "daily": daily,
        "action": Action.NOTIFY.value,
        "raised": 1,
        "raised_until": None,
        "hourly_now": hourly,
        "daily_now": daily,
        "own": False,
    }


def _row(row: "MailLimit", now: "datetime") -> dict[str, Any]:
    """A limit as JSON and tables have it; a raise that is over is none."""
    from cloudside.registry import mail_limits

    raised = row.raised_until is not None and now < row.raised_until
    counts = mail_limits.in_force(row, now)
    return {
        "scope": row.scope,
        "name": row.name,
        "tenant": row.tenant_id,
        "hourly": row.hourly,
        "daily": row.daily,
        "action": row.action,
        "raised": row.raised if raised else 1,
        "raised_until": row.raised_until if raised else None,
        "hourly_now": counts["hourly"],
        "daily_now": counts["daily"],
    }


def _told(document: dict[str, Any], *, of: str = "") -> dict[str, str]:
    """Parameters of a sentence about a limit."""
    end = f"_{of}" if of else ""
    none = text("cli.mail-no-limit")
    return {
        "scope": document["scope"],
        "name": document["name"],
        "hourly": none if document[f"hourly{end}"] is None else str(document[f"hourly{end}"]),
        "daily": none if document[f"daily{end}"] is None else str(document[f"daily{end}"]),
        "action": document["action"],
    }
