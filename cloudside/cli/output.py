"""Tables for people, JSON for programs, from the same rows: JSON has the values, a table shows them in words."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from cloudside.cli import errors
from cloudside.cli.context import Cli
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]

#: Characters a line of a table may have where no terminal says so: nothing is cut off in a pipe.
_PIPE_WIDTH = 220


def show_rows(cli: Cli, name: str, rows: Sequence[Row], columns: Iterable[str]) -> None:
    """``name`` is the key of the list in JSON; the headings are ``cli.column-<column>``; none: ``cli.no-<name>``."""
    if cli.as_json:
        print_json({name: [dict(row) for row in rows]})
    else:
        print_table(name, rows, columns)


def print_table(name: str, rows: Sequence[Row], columns: Iterable[str], *, title: str | None = None) -> None:
    """The table alone, for people."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print_text(text(f"cli.no-{name}"))
        return
    table = Table(title=title, title_justify="left")
    shown = list(columns)
    for column in shown:
        table.add_column(_heading(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(in_words(row.get(column))) for column in shown))  # Text: a name is never markup
    console().print(table)


def show_one(cli: Cli, document: Row) -> None:
    """One thing with its properties: a JSON object, or a line each."""
    if cli.as_json:
        print_json(dict(document))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in document.items():
        table.add_row(_heading(name), Text(in_words(value)))
    console().print(table)


def done(cli: Cli, document: Row, key: str, **params: str | int | float) -> None:
    """What a command did: one sentence for people, the thing itself for programs."""
    if cli.as_json:
        print_json(dict(document))
    else:
        print_text(text(key, params))


def confirm(cli: Cli, key: str, **params: str) -> None:
    """Ask, and end the command with status 130 unless the answer is yes; where nobody can answer, too."""
    try:
        agreed = typer.confirm(text(key, params), err=True)
    except typer.Abort:
        sys.stderr.write("\n")
        agreed = False
    if not agreed:
        errors.report(InputError("cli.not-confirmed"), as_json=cli.as_json)
        raise typer.Abort


def print_json(document: Any) -> None:
    """One line of JSON on standard output."""
    print_text(json.dumps(document, ensure_ascii=False, default=_plain))


def print_text(line: str) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def in_words(value: Any) -> str:
    """A value as a table shows it. Times are UTC."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return text("cli.yes" if value else "cli.no")
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list):
        return "\n".join(in_words(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={in_words(item)}" for name, item in value.items())
    return printable(str(value))


def printable(shown: str) -> str:
    """Without control characters: what routers and devices say must not drive a person's terminal."""
    return "".join(sign if (sign >= " " and sign != "\x7f") or sign in "\n\t" else "\ufffd" for sign in shown)


def _heading(column: str) -> str:
    return text(f"cli.column-{column.replace('_', '-')}")


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def console() -> "Console":
    """Where tables go: as wide as the terminal, and uncut in a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
