"""`kyoten site exec` and `kyoten site commands`: diagnostic commands on a site's router, and what came of them."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.moments import duration
from cloudside.cli.output import confirm, done, print_json, print_text, printable, show_one, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.tables import SiteCommand

LIST_COLUMNS = ("command", "requested", "requested_by", "name", "arguments", "reason", "state", "status")
KNOWN_COLUMNS = ("usage", "meaning", "disturbs")

#: Exit status of a command that the router did not take, or could not run; and of one that ended otherwise.
_REFUSED, _UNFINISHED = 3, 5
_EXIT = {"refused": _REFUSED, "failed": _REFUSED, "timed-out": _UNFINISHED}
_LISTED = 50


def register(app: typer.Typer) -> None:
    """Put the commands into the group of `kyoten site`."""
    app.command("exec")(exec_)
    app.command("commands")(commands)


def exec_(
    context: typer.Context,
    site: str,
    command: Annotated[str | None, typer.Argument(help="Which one; without it they are listed.")] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENT...", help="In order, or name=value.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log. Wanted.")] = None,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that it may take on the router.")] = 30,
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long a router that is away may take.")] = "10m",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for its result.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Run one of a few diagnostic commands on a site's router. It runs once; a router that is away expires it."""
    from cloudside.access import commands as asking
    from cloudside.access.refusal import check_line
    from cloudside.access.target import site_state
    from cloudside.fleet.diagnostics import DIAGNOSTICS
    from cloudside.registry import sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = sites.get(session, caller, site)
        if command is not None:
            check_line(site_state(session, caller, found))
    if command is None:
        rows = [
            {"usage": one.usage, "meaning": text(f"commands.about-{name}"), "disturbs": one.disturbs}
            for name, one in DIAGNOSTICS.items()
        ]
        show_rows(cli, "diagnostics", rows, KNOWN_COLUMNS)
        return
    if reason is None:
        raise InputError("commands.no-reason", site=site, command=command[:40])
    known = DIAGNOSTICS.get(command)
    if known is not None and known.disturbs and not yes and (cli.tenant is None):
        confirm(cli, "commands.confirm", site=site, command=command)
    with cli.write() as (session, caller):
        asked = asking.ask(
            session,
            caller,
            site,
            command,
            arguments or [],
            reason=reason,
            timeout_s=timeout,
            expires=duration(expires),
            person=cli.person,
            tenants_may=frozenset(cli.config.web.tenant_commands),
            now=cli.now,
        )
    if not wait:
        done(cli, row_of(asked), "commands.asked", site=site, command=asked.id)
        return
    # A restart is answered by the agent after it.
    patience_s = timeout + 2 * cli.config.web.heartbeat_mobile_s + (180 if known is not None and known.disturbs else 30)
    _show_result(cli, asking.wait(cli.database, cli.caller, asked.id, timeout_s=patience_s))


def commands(
    context: typer.Context,
    site: str,
    command: Annotated[str | None, typer.Argument(help="One of them, with its output.")] = None,
    _json: JsonFlag = False,
) -> None:
    """What was run on a site's router, by whom and why, and what came of it."""
    from cloudside.registry import site_commands

    cli = cli_of(context)
    with cli.read() as (session, caller):
        if command is None:
            found = site_commands.of_site(session, caller, site, most=_LISTED)
        else:
            found = [site_commands.get(session, caller, command)]
            if found[0].site_id != site:
                raise InputError("commands.unknown-id", command=command[:32])
    if command is None:
        show_rows(cli, "site-commands", [row_of(one, now=cli.now) for one in found], LIST_COLUMNS)
    elif cli.as_json:
        print_json({**row_of(found[0], now=cli.now), "output": found[0].output})
    else:
        shown = {name: value for name, value in row_of(found[0], now=cli.now).items() if name != "truncated"}
        show_one(cli, {**shown, "problem": _problem(found[0])})
        if found[0].output:
            print_text(printable(found[0].output).rstrip("\n"))


def row_of(one: "SiteCommand", *, now: datetime | None = None) -> dict[str, Any]:
    """A command without its output."""
    late = one.state == "waiting" and now is not None and one.expires_at <= now
    return {
        "command": one.id,
        "site": one.site_id,
        "name": one.name,
        "arguments": dict(one.arguments),
        "reason": one.reason,
        "requested_by": one.requested_by,
        "requested": one.requested_at,
        "expires": one.expires_at,
        "state": "expired" if late else one.state,
        "status": one.status,
        "answered": one.answered_at,
        "began": one.began_at,
        "duration_s": None if one.duration_ms is None else one.duration_ms / 1000,
        "truncated": one.truncated,
        "problem": one.problem,
    }


def _show_result(cli: Cli, one: "SiteCommand") -> None:
    if cli.as_json:
        print_json({**row_of(one), "output": one.output})
    else:
        if one.output:
            print_text(printable(one.output).rstrip("\n"))
        if one.truncated:
            sys.stderr.write(f"{text('commands.truncated')}\n")
        if one.state != "done":
            line = text(f"commands.ended-{one.state}", {"site": one.site_id, "command": one.name})
            sys.stderr.write(f"{text('cli.error')}: {printable(line)}\n")
            if one.problem is not None:
                sys.stderr.write(f"{printable(_problem(one) or '')}\n")
        elif one.status:
            params = {"site": one.site_id, "command": one.name, "status": one.status}
            sys.stderr.write(f"{text('commands.status', params)}\n")
    if one.state != "done":
        raise typer.Exit(_EXIT.get(one.state, _UNFINISHED))


def _problem(one: "SiteCommand") -> str | None:
    return None if one.problem is None else text(one.problem["key"], one.problem["params"])
