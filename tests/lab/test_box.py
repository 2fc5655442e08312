"""The box leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import box
from lab.network import wait_until

#: What a box under test does: a namespace, a route, a daemon that detached itself, then it waits.
BUSY = (
    "set -e; ip netns add witness; ip link add w0 type veth peer name w1; "
    "setsid sleep {marker} & ip netns exec witness true; touch $KYOTEN_LAB_DIRECTORY/busy; sleep {marker}"
)


def processes_with(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[:2] == [b"sleep", marker.encode()]:
                found.append(int(entry.name))
    return found


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of our own for boxes, so that other boxes on the machine are not touched."""
    monkeypatch.setattr(box, "PARENT", tmp_path)
    return tmp_path


def start(parent: Path, marker: str, *, keep: bool = False) -> "subprocess.Popen[bytes]":
    code = (
        "import pathlib, sys; from lab import box; box.PARENT = pathlib.Path(sys.argv[1]);"
        f"sys.exit(box.run(['sh', '-c', sys.argv[2]], keep={keep}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(parent), BUSY.format(marker=marker)])
    wait_until("the box is busy", lambda: bool(list(parent.glob("*/busy"))), timeout_s=15)
    wait_until("both its processes run", lambda: len(processes_with(marker)) == 2, timeout_s=5)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_starter_ends_the_box(parent: Path, number: signal.Signals) -> None:
    marker = f"{9000 + number}.5"
    process = start(parent, marker)
    process.send_signal(number)
    process.wait(15)
    wait_until("its processes end", lambda: not processes_with(marker), timeout_s=8)
    assert "witness" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    if number == signal.SIGKILL:
        wait_until("the lock is free", lambda: not box.living(), timeout_s=8)
        for place in parent.glob(f"{box.PREFIX}*"):
            os.utime(place, (0, 0))
        box.sweep()
    assert list(parent.glob(f"{box.PREFIX}*")) == []


def test_the_exit_status_is_the_programs(parent: Path) -> None:
    assert box.run(["sh", "-c", "exit 7"]) == 7
    assert box.run(["true"]) == 0


def test_a_kept_box_stays_until_it_is_closed(parent: Path) -> None:
    code = "from lab import box; box.stay(3)"
    assert box.run([sys.executable, "-c", code], keep=True) == 3
    assert len(box.living()) == 1
    inside = subprocess.run(
        box.enter_argv(box.living()[0], ["ls", "/run/netns"]), capture_output=True, text=True, check=False
    )
    assert inside.returncode == 0
    assert box.close_all() == 1
    assert box.living() == []
    assert list(parent.glob(f"{box.PREFIX}*")) == []


def test_a_kept_box_does_not_hold_its_starters_output_open(parent: Path) -> None:
    code = (
        "import pathlib, sys; from lab import box; box.PARENT = pathlib.Path(sys.argv[1]);"
        "sys.exit(box.run([sys.executable, '-c', 'print(1 + 1); from lab import box; box.stay(0)'], keep=True))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(parent)], capture_output=True, text=True, check=True, timeout=15
    )
    assert shown.stdout == "2\n"
    assert box.close_all() == 1


def test_a_box_at_work_is_no_kept_one_and_is_left_alone(parent: Path) -> None:
    process = start(parent, "9020.5")
    assert box.kept() == []
    assert box.close_all() == 0
    assert process.poll() is None
    assert len(box.living()) == 1
    process.terminate()
    process.wait(15)


def test_a_starter_that_is_killed_before_its_box_is_kept_leaves_none(parent: Path) -> None:
    process = start(parent, "9021.5", keep=True)
    process.kill()
    process.wait(15)
    wait_until("its processes end", lambda: not processes_with("9021.5"), timeout_s=8)
    wait_until("the lock is free", lambda: not box.living(), timeout_s=8)


def test_the_box_is_private(parent: Path) -> None:
    name = f"private{time.monotonic_ns() % 100000}"
    assert (
        box.run(
            ["sh", "-c", f"ip netns add {name} && ip link add {name[:12]} type bridge && ip netns list | grep {name}"]
        )
        == 0
    )
    assert name not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
