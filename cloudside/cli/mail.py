"""`kyoten mail`: what waits in the relay's queue, and the life of one message. Reads only; the relay may run or not."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import console, print_json, print_text, printable
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from rich.table import Table

    from cloudside.mail.store.view import Entry

app = typer.Typer(no_args_is_help=True, help="The mail relay's queue: waiting mail, the life of one message.")

#: What is read of the queue before other tenants' mail is left out.
_READ_FOR_TENANT = 100_000
#: As many stories as an operator is shown.
_SHOWN_TO_TENANT = 20


@app.command()
def queue(context: typer.Context, _json: JsonFlag = False) -> None:
    """Mail that is accepted and not finished, oldest first. A tenant sees no totals: they are of everybody's mail."""
    from cloudside.mail.store import view

    cli = cli_of(context)
    directory, own = cli.config.queue_directory, _sites_seen(cli)
    if own is None:
        entries, totals = view.waiting(directory), view.counts(directory)
    else:
        entries = [entry for entry in view.waiting(directory, limit=_READ_FOR_TENANT) if entry.origin in own]
        totals = {}
    if cli.as_json:
        print_json({"waiting": [asdict(entry) for entry in entries], "totals": totals})
        return
    if entries:
        console().print(_table("waiting", [_row(entry) for entry in entries], _COLUMNS))
    else:
        print_text(text("mail.table-empty"))
    if totals:
        shown = ", ".join(f"{state} {count}" for state, count in sorted(totals.items()))
        print_text(text("mail.table-totals", {"totals": shown}))


@app.command()
def trace(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="Message id, mail address, or site.")],
    _json: JsonFlag = False,
) -> None:
    """The whole life of a message, or of the latest ones of an address or a site."""
    from rich.text import Text

    from cloudside.mail.store import view

    cli = cli_of(context)
    directory, own = cli.config.queue_directory, _sites_seen(cli)
    if own is None:
        stories = view.trace(directory, what)
    else:
        found = view.trace(directory, what, limit=_READ_FOR_TENANT)
        stories = [story for story in found if story.entries[0].origin in own][:_SHOWN_TO_TENANT]
        if not stories:  # in the words for what nobody has
            raise InputError("mail.nothing-found", what=what)
    if cli.as_json:
        print_json([asdict(story) for story in stories])
        return
    screen = console()
    for story in stories:
        first = story.entries[0]
        screen.print(Text(printable(f"{first.message}  {first.subject}"), style="bold"))
        screen.print(_table(None, [_row(entry) for entry in story.entries], _COLUMNS))
        rows = [[_time(item.at), item.recipient, item.event, item.detail] for item in story.happenings]
        screen.print(_table(None, rows, ("time", "recipient", "event", "detail")))


def _sites_seen(cli: Cli) -> set[str] | None:
    """Whose mail is shown: that of these sites; None: everybody's, for which the registry is not needed."""
    from cloudside.registry import sites

    if cli.tenant is None:
        return None
    with cli.read() as (session, caller):
        return {site.id for site in sites.every(session, caller)}


_COLUMNS = ("message", "origin", "sender", "recipient", "subject", "accepted", "state", "tries", "next", "reply")


def _row(entry: "Entry") -> list[str]:
    return [
        *(entry.message, entry.origin or "-", entry.sender or "<>", entry.recipient, entry.subject),
        *(_time(entry.accepted_at), entry.state, str(entry.attempts)),
        *(_time(entry.next_attempt) if entry.next_attempt else "-", entry.reply),
    ]


def _table(title: str | None, rows: list[list[str]], columns: tuple[str, ...]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=text(f"mail.table-{title}") if title else None)
    for name in columns:
        table.add_column(text(f"mail.column-{name}"), overflow="fold")
    for row in rows:
        # Text, not markup: a subject such as "[red]" is a stranger's and must not colour the terminal.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
