"""`kyoten site crashes`: what ended on a site's router and should not have."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import print_json, print_text, printable, show_one, show_rows
from cloudside.errors import InputError

if TYPE_CHECKING:
    from cloudside.registry.tables import CrashReport

COLUMNS = ("report", "last", "kind", "process", "count", "summary")
#: Digits of an id that people are shown; any beginning that fits one report is taken.
_ID_CHARS = 8


def register(app: typer.Typer) -> None:
    """Put the command into the group of `kyoten site`."""
    app.command("crashes")(crashes)


def crashes(
    context: typer.Context,
    site: str,
    show: Annotated[
        list[str] | None, typer.Argument(metavar="[show REPORT]", help="One of them, with its text.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Crashes of a site's router: exceptions, kills, resets, the kernel's faults, children that ended by themselves."""
    from cloudside.registry import crash_reports

    cli = cli_of(context)
    words = list(show or [])
    if words[:1] == ["show"]:
        words = words[1:]
        if not words:
            raise InputError("crashes.which", site=site)
    if len(words) > 1:
        raise InputError("crashes.which", site=site)
    with cli.read() as (session, caller):
        if words:
            found = crash_reports.get(session, caller, site, words[0])
        else:
            rows = [_row(one) for one in crash_reports.of_site(session, caller, site)]
    if not words:
        shown = rows if cli.as_json else [{**row, "report": row["report"][:_ID_CHARS]} for row in rows]
        show_rows(cli, "crashes", shown, COLUMNS)
    elif cli.as_json:
        print_json({**_row(found), "text": found.text})
    else:
        show_one(cli, _row(found))
        print_text(printable(found.text).rstrip("\n"))


def _row(one: "CrashReport") -> dict[str, Any]:
    return {
        "report": one.id,
        "site": one.site_id,
        "kind": one.kind,
        "process": one.process,
        "summary": one.summary,
        "first": one.first_at,
        "last": one.last_at,
        "count": one.count,
        "versions": dict(one.versions),
        "received": one.received_at,
    }
