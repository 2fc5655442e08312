"""Releases that are wrong on purpose: what is done to the tree of each. All else about them is in order, and signed.

Nothing here knows how a trial works; whether the router comes back is the product's own doing.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from firmware.image.software import SITE

_UNITS = Path("etc/systemd/system")
#: Runs within the agent and nowhere else: its other commands, the guard among them, are in order.
_IN_AGENT = "import sys\nif sys.argv[1:2] == ['run']:\n"


class Fault(StrEnum):
    """What is wrong with a release."""

    #: The kernel panics while the system comes up.
    PANIC = "panic"
    #: The first process does nothing: nobody feeds the watchdog.
    HANGS = "hangs"
    #: The agent raises each time that it begins.
    AGENT_CRASHES = "agent-crashes"
    #: The agent begins, and stands still when its loop has gone round.
    AGENT_STUCK = "agent-stuck"
    #: charon ends as soon as it is started.
    NO_TUNNEL = "no-tunnel"
    #: What is sent to the LAN is dropped; the tunnel works.
    LAN_UNREACHABLE = "lan-unreachable"


def put_into(root: Path, fault: Fault | None) -> None:
    """Change a tree. None: to one that is as good, and not the same."""
    if fault is None:
        (root / "usr/lib/kyoten/changed").write_text("The lab's next release.\n")
        return
    _CHANGES[fault](root)


def _panic(root: Path) -> None:
    _unit(root, "sysinit.target", "ExecStart=/bin/sh -c 'echo c >/proc/sysrq-trigger'")


def _hangs(root: Path) -> None:
    _program(root / "usr/sbin/init", "echo 'kyoten: standing still'\nwhile :; do sleep 3600; done\n")


def _agent_crashes(root: Path) -> None:
    _agent(root, "    raise RuntimeError('this release is broken on purpose')\n")


def _agent_stuck(root: Path) -> None:
    # A handler runs in the main thread, between two of its instructions, and once the loop has gone round (updating.py)
    # this one does not return.
    _agent(
        root,
        "    import os, signal, time\n"
        "    def stand_still(*_):\n"
        "        while os.path.exists('/run/kyoten-agent/agent.alive'):\n"
        "            time.sleep(3600)\n"
        "    signal.signal(signal.SIGALRM, stand_still)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 1, 1)\n",
    )


def _no_tunnel(root: Path) -> None:
    _program(root / "usr/sbin/charon-systemd", "exit 1\n")


def _lan_unreachable(root: Path) -> None:
    drop = "tc qdisc replace dev lan0 clsact && tc filter replace dev lan0 egress matchall action drop"
    _unit(root, "multi-user.target", f"ExecStart=/bin/sh -c 'until {drop}; do sleep 2; done'", ordinary=True)


_CHANGES: Mapping[Fault, Callable[[Path], None]] = {
    Fault.PANIC: _panic,
    Fault.HANGS: _hangs,
    Fault.AGENT_CRASHES: _agent_crashes,
    Fault.AGENT_STUCK: _agent_stuck,
    Fault.NO_TUNNEL: _no_tunnel,
    Fault.LAN_UNREACHABLE: _lan_unreachable,
}


def _agent(root: Path, code: str) -> None:
    package = root / SITE / "router_agent/__init__.py"
    package.write_text(package.read_text() + _IN_AGENT + code)


def _program(path: Path, script: str) -> None:
    if not (path.exists() or path.is_symlink()):
        raise FileNotFoundError(path)
    path.unlink()
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def _unit(root: Path, target: str, command: str, *, ordinary: bool = False) -> None:
    (root / _UNITS / "lab-fault.service").write_text(
        f"[Unit]\nDefaultDependencies={'yes' if ordinary else 'no'}\n\n[Service]\nType=simple\n{command}\n"
    )
    wants = root / _UNITS / f"{target}.wants"
    wants.mkdir(exist_ok=True)
    (wants / "lab-fault.service").symlink_to("../lab-fault.service")
