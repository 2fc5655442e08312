"""A benchmark in parts: each is a process of its own, whose last line is a JSON object of figures."""

import json
import subprocess
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

Figures = dict[str, object]
#: Figure -> (limit, whether more is better).
Bars = Mapping[str, tuple[float, bool]]
#: Part -> module and arguments.
Parts = Mapping[str, tuple[object, ...]]


def part(module: str, *arguments: object, core: int | None = None) -> Figures:
    """Run a part; its figures. What it says on standard error is shown."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    argv = [*pinned, sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
    sys.stderr.write(f"... {module} {' '.join(map(str, arguments))}\n")
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{module} {arguments} ended with {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def show(title: str, figures: Figures, bars: Bars) -> None:
    """The table for people."""
    table = Table(title=title, title_justify="left")
    for column in ("figure", "value", "bar"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, value in figures.items():
        if isinstance(value, int | float):
            bar, more = bars.get(name, (None, False))
            table.add_row(name, f"{value:.4g}", "" if bar is None else f"{'>=' if more else '<='} {bar:g}")
    Console(width=100).print(table)


def missed(figures: Figures, bars: Bars) -> list[str]:
    """The bars that are not reached, of what was measured."""
    found = []
    for name, (bar, more) in bars.items():
        value = figures.get(name)
        if isinstance(value, int | float) and (value < bar if more else value > bar):
            found.append(name)
    return found


def measure(title: str, bars: Bars, parts: Parts) -> int:
    """Measure all parts, or the one after ``--only``; print the table, then the JSON line. 1: a bar is missed."""
    only = sys.argv[2] if sys.argv[1:2] == ["--only"] else ""
    if only and only not in parts:
        raise SystemExit(f"no part named {only}; there are: {', '.join(parts)}")
    figures: Figures = {}
    for name, (module, *arguments) in parts.items():
        if only in ("", name):
            figures |= part(str(module), *arguments)
    show(title, figures, bars)
    bad = missed(figures, bars)
    if bad:
        sys.stdout.write(f"bars missed: {', '.join(bad)}\n")
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    sys.stdout.write(json.dumps(rounded) + "\n")
    sys.stdout.flush()
    return 1 if bad else 0
