"""What the demo found, as data, and the page it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was to hold: what, whether it held, and what was measured."""

    what: str
    held: bool
    measured: str


def page(lines: Sequence[Line]) -> Table:
    """The table a person reads."""
    table = Table(title="Kyoten, the main job", title_justify="left", pad_edge=False, expand=False)
    table.add_column("", width=4)
    table.add_column("what")
    table.add_column("measured", overflow="fold")
    for line in lines:
        # What was measured can quote a program's words: never read as markup.
        table.add_row("[green]held[/]" if line.held else "[bold red]FELL[/]", line.what, escape(line.measured))
    return table


def print_page(console: Console, lines: Sequence[Line]) -> None:
    """The page and, below it, how it ended in one sentence."""
    console.print()
    console.print(page(lines))
    fallen = [line.what for line in lines if not line.held]
    if fallen:
        console.print(f"[bold red]{len(fallen)} of {len(lines)} did not hold:[/] {escape('; '.join(fallen))}")
    else:
        console.print(f"[green]All {len(lines)} held.[/]")
