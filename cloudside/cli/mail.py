"""`kyoten mail`: what waits in the relay's queue, and the life of one message. Reads only; the relay may run or not."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudside.config import DEFAULT_PATH, load
from cloudside.errors import KyotenError
from cloudside.mail import view
from cloudside.messages import text

app = typer.Typer(no_args_is_help=True, help="The mail relay's queue.")

ConfigOption = Annotated[Path, typer.Option("--config", envvar="KYOTEN_CONFIG", help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


@app.command()
def queue(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Mail that is accepted and not finished, oldest first."""
    try:
        directory = load(config).queue_directory
        entries, totals = view.waiting(directory), view.counts(directory)
    except KyotenError as error:
        raise _told(error, as_json) from error
    if as_json:
        _print_json({"waiting": [asdict(entry) for entry in entries], "totals": totals})
        return
    console = Console()
    if entries:
        console.print(_table("waiting", [_row(entry) for entry in entries], _COLUMNS))
    else:
        console.print(text("mail.table-empty"))
    if totals:
        shown = ", ".join(f"{state} {count}" for state, count in sorted(totals.items()))
        console.print(text("mail.table-totals", {"totals": shown}))


@app.command()
def trace(
    what: Annotated[str, typer.Argument(help="Message id, mail address, or site.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """The whole life of a message, or of the latest ones of an address or a site."""
    try:
        stories = view.trace(load(config).queue_directory, what)
    except KyotenError as error:
        raise _told(error, as_json) from error
    if as_json:
        _print_json([asdict(story) for story in stories])
        return
    console = Console()
    for story in stories:
        first = story.entries[0]
        console.print(Text(f"{first.message}  {first.subject}", style="bold"))
        console.print(_table(None, [_row(entry) for entry in story.entries], _COLUMNS))
        rows = [[_time(item.at), item.recipient, item.event, item.detail] for item in story.happenings]
        console.print(_table(None, rows, ("time", "recipient", "event", "detail")))


_COLUMNS = ("message", "origin", "sender", "recipient", "subject", "accepted", "state", "tries", "next", "reply")


def _row(entry: view.Entry) -> list[str]:
    return [
        *(entry.message, entry.origin or "-", entry.sender or "<>", entry.recipient, entry.subject),
        *(_time(entry.accepted_at), entry.state, str(entry.attempts)),
        *(_time(entry.next_attempt) if entry.next_attempt else "-", entry.reply),
    ]


def _table(title: str | None, rows: list[list[str]], columns: tuple[str, ...]) -> Table:
    table = Table(title=text(f"mail.table-{title}") if title else None)
    for name in columns:
        table.add_column(text(f"mail.column-{name}"), overflow="fold")
    for row in rows:
        # Text, not markup: a subject such as "[red]" is a stranger's and must not colour the terminal.
        table.add_row(*(Text(cell) for cell in row))
    return table


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, default=datetime.isoformat))


def _told(error: KyotenError, as_json: bool) -> typer.Exit:
    """Say what is wrong on standard error; programs get the key and the parameters."""
    if as_json:
        typer.echo(json.dumps({"error": error.key, "params": dict(error.params)}, ensure_ascii=False), err=True)
    else:
        typer.echo(text(error.key, error.params), err=True)
    return typer.Exit(error.exit_code)
