"""Builds the demo's world in this box, runs the steps with progress, prints the page; exits 0 only if all held."""

import sys
import time
import traceback

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lab import box, topology
from lab.demo.report import Line, print_page
from lab.demo.steps import STEPS, Step, start
from lab.world import World, build


def _attempt(name: str, step: Step, world: World) -> list[Line]:
    """A step that breaks is a line that did not hold, and the steps after it still run."""
    try:
        return step(world)
    except Exception as error:
        sys.stderr.write(traceback.format_exc())
        return [Line(name, False, f"{type(error).__name__}: {error}")]


def _main(keep: bool) -> int:
    console = Console(width=None if sys.stdout.isatty() else 150, log_path=False)
    started = time.monotonic()
    lines: list[Line] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("building the world", total=len(STEPS) + 2)
        world = build(topology.DEMO)
        world.console = console
        progress.update(task, advance=1, description="starting the daemons")
        lines += _attempt("every tunnel up", start, world)
        _log(console, lines)
        progress.advance(task)
        if lines[-1].held:
            for name, step in STEPS:
                progress.update(task, description=name)
                lines += (found := _attempt(name, step, world))
                _log(console, found)
                progress.advance(task)
    print_page(console, lines)
    console.print(f"{time.monotonic() - started:.0f} s in all.")
    status = 0 if all(line.held for line in lines) else 1
    if not all(line.held for line in lines):
        _print_logs(world, console)
    if keep:
        _print_guide(world, console)
        box.stay(status)
    return status


def _log(console: Console, lines: list[Line]) -> None:
    for line in lines:
        console.log(f"{'[green]held[/]' if line.held else '[bold red]FELL[/]'} {line.what}")


def _print_logs(world: World, console: Console) -> None:
    """What the cloud's daemons said last: the first place to look."""
    for process in world.gateway.processes.values():
        console.print(f"--- {process.name} ---", process.tail(8), sep="\n", markup=False)


def _print_guide(world: World, console: Console) -> None:
    hosts = ", ".join(world.ground.network.hosts)
    console.print(
        "\nThe world stays up. Look around:\n"
        "  .venv/bin/kyoten-lab exec gateway kyoten status\n"
        "  .venv/bin/kyoten-lab exec gateway kyoten why tokyo-1/plc web tcp/80\n"
        "  .venv/bin/kyoten-lab exec tokyo-1 ip route show table all\n"
        "  .venv/bin/kyoten-lab exec tokyo-1-plc ping -c 3 10.255.0.10\n"
        f"Hosts: {hosts}\n"
        f"Files and logs: {world.ground.network.directory}\n"
        "Remove it with: make demo-down",
        markup=False,
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(_main("--keep" in sys.argv[1:]))
