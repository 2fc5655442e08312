"""A benchmark in parts: each is a process of its own, whose last line is a JSON object of figures."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from firmware.image import places
from linux.files import write_durably

Figures = dict[str, object]
#: Figure -> (limit, whether more is better).
Bars = Mapping[str, tuple[float, bool]]
#: Part -> module and arguments.
Parts = Mapping[str, tuple[object, ...]]

#: Where figures of parts are kept, a file a benchmark.
KEPT = Path("/var/cache/kyoten-lab/bench")
#: What figures depend on.
_MEASURED = (
    "cloudside", "firmware", "images", "lab", "linux", "router_agent", "rules", "tests/bench", "constraints.txt",
)  # fmt: skip


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
    """Measure all parts, print the table, then the JSON line. 1: a bar is missed, or a part failed.

    ``--only PART``: that one. ``--resume``: not again what was measured of this state of the checkout. A part that
    fails does not end the others: some take an hour.
    """
    told = _told(parts)
    kept = Kept(KEPT / f"{title.split()[-1]}.json", _state(), anew=not (told.resume or told.only))
    figures: Figures = {}
    failed = []
    for name, (module, *arguments) in parts.items():
        if told.only not in ("", name):
            continue
        if told.resume and name in kept.parts:
            sys.stderr.write(f"... {name}: measured {kept.parts[name]['at']}\n")
        else:
            try:
                kept.keep(name, part(str(module), *arguments))
            except SystemExit as error:
                sys.stderr.write(f"{error}\n")
                failed.append(name)
                continue
        figures |= kept.figures(name)
    show(title, figures, bars)
    bad = missed(figures, bars)
    if bad:
        sys.stdout.write(f"bars missed: {', '.join(bad)}\n")
    if failed:
        sys.stdout.write(f"parts that failed: {', '.join(failed)}; mend them, then --resume\n")
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    sys.stdout.write(json.dumps(rounded) + "\n")
    sys.stdout.flush()
    return 1 if bad or failed else 0


class Kept:
    """What parts found, in a file: a benchmark of hours goes on where it was ended.

    It is of one state of the checkout; figures of another one are not mixed in.
    """

    def __init__(self, path: Path, state: str, *, anew: bool = False) -> None:
        self._path, self._state = path, state
        found = json.loads(path.read_text()) if path.exists() and not anew else {}
        self.parts: dict[str, Figures] = found["parts"] if found.get("state") == state else {}

    def figures(self, name: str) -> Figures:
        """What a part found."""
        figures = self.parts[name]["figures"]
        assert isinstance(figures, dict)
        return figures

    def keep(self, name: str, figures: Figures) -> None:
        """Remember it, also over a power cut."""
        at = datetime.now(UTC).isoformat(sep=" ", timespec="minutes")
        self.parts[name] = {"at": at, "figures": figures}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps({"state": self._state, "parts": self.parts}).encode(), mode=0o644)


def _told(parts: Parts) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="PART", default="", choices=["", *parts], help=", ".join(parts))
    parser.add_argument("--resume", action="store_true", help="not again what was measured of this checkout")
    return parser.parse_args()


def _state() -> str:
    return places.digest(places.ROOT / name for name in _MEASURED)
