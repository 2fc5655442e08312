"""``kyoten-lab``: run the demo, look around in a kept world, run a command in a box."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lab import box, preflight
from lab.vm import machine
from lab.vm.cache import VmError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A whole Kyoten world on one machine.")


def main() -> None:
    """Entry point; a lab error is one sentence and exit status 2."""
    try:
        app()
    except (box.BoxError, VmError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(sentence: str) -> None:
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(2)


def _require_machine() -> None:
    problems = preflight.missing()
    if problems:
        _fail("; ".join(problems))


def _require_root() -> None:
    # Worlds are root's alone: anybody else would see none and believe that there is none.
    if os.geteuid() != 0:
        _fail("root is needed to see a world: run this as root")


@app.command("preflight")
def check_machine() -> None:
    """Say what this machine lacks for a world; exit status 2 if anything."""
    _require_machine()


@app.command()
def demo(keep: Annotated[bool, typer.Option("--keep", help="Leave the world up afterwards.")] = False) -> None:
    """Build the demo's world, run the main job in it, show what was measured."""
    _require_machine()
    if keep and box.kept():
        _fail("a world is up already: look around in it, or remove it with `make demo-down`")
    argv = [sys.executable, "-m", "lab.demo", *(["--keep"] if keep else [])]
    status = box.run(argv, keep=keep)
    sys.exit(status)


@app.command()
def down() -> None:
    """Remove every kept world."""
    _require_root()
    count = box.close_all()
    sys.stdout.write(f"removed {count} world{'s' if count != 1 else ''}\n")


@app.command("list")
def list_worlds() -> None:
    """Kept worlds and their hosts."""
    _require_root()
    for place in box.kept():
        sys.stdout.write(f"{place}\n")
        for host in sorted(path.name for path in place.glob("*/*") if path.is_dir()):
            sys.stdout.write(f"  {host}\n")


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    host: Annotated[str, typer.Argument(help="A host of the kept world, such as gateway or tokyo-1.")],
    command: Annotated[list[str], typer.Argument(help="What to run there.")],
) -> None:
    """Run a command on a host of the kept world."""
    _require_root()
    places = box.kept()
    if not places:
        _fail("no world is up: `make demo KEEP=1` makes one that stays")
    found = [path for place in places for path in place.glob(f"*/{host}") if path.is_dir()]
    if not found:
        _fail(f"no host named {host!r}: `kyoten-lab list` shows them")
    namespace = f"{found[0].parent.name}-{host}"
    environment = [f"KYOTEN_CONFIG={path}" for path in found[0].parent.glob("kyoten.toml")]
    binaries = Path(sys.executable).parent
    inner = [
        "ip",
        "netns",
        "exec",
        namespace,
        "env",
        f"PATH={binaries}:/usr/sbin:/usr/bin:/sbin:/bin",
        *environment,
        *command,
    ]

    argv = box.enter_argv(found[0].parents[1], inner)
    os.execvp(argv[0], argv)  # noqa: S606 - an argv, no shell


@app.command("box", context_settings={"ignore_unknown_options": True})
def run_in_box(command: Annotated[list[str], typer.Argument(help="What to run.")]) -> None:
    """Run a command in a box of its own: namespaces, processes and routes in it end with it."""
    sys.exit(box.run(command))


@app.command("vm", context_settings={"ignore_unknown_options": True})
def run_in_vm(
    command: Annotated[list[str], typer.Argument(help="What to run.")],
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds it may take, boot not counted.")] = (
        machine.TIMEOUT_S
    ),
) -> None:
    """Run a command as root in a virtual machine with Debian's whole kernel (ESP, IPVS, PPP, netem ...).

    It sees this machine's files at the same paths, read-only, and has no network but what it makes.
    """
    ended = machine.run(command, timeout_s=timeout_s, relay=True)
    if ended.timed_out:
        sys.stderr.write(f"error: not done after {timeout_s:g} s, ended: give it more time with --timeout\n")
    sys.exit(ended.status)
