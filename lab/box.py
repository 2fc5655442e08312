"""The box: a private corner of the machine that a world, or a whole test run, lives in.

A box is one `unshare`: its own mount, network, process-id, IPC and host-name namespaces, with a private /run. Network
namespaces made inside are seen only inside. When the box's first process ends, in whatever way, the kernel ends every
process in it and with them every namespace, rule, set and route: nothing can be left on the host. Only the directory on
disk has to be removed by name; a stale one (its owner is dead) is swept when the next box opens.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

#: Boxes keep their files here: a real disk, since the mail queue's promises are about fsync.
PARENT = Path("/var/tmp")
PREFIX = "kyoten-lab-"

#: Set inside a box: its directory.
DIRECTORY_VARIABLE = "KYOTEN_LAB_DIRECTORY"

#: Present once the box's program said that it stays (`keep`); holds its exit status so far.
_KEPT = "kept"
_PID = "pid"
#: Set inside a box that may be kept: a socket whose other end closes when its starter is gone.
_STARTER_VARIABLE = "KYOTEN_LAB_STARTER"
_PR_SET_PDEATHSIG = 1


class BoxError(Exception):
    """The box cannot be opened or found; the text says why and what to do."""


def inside() -> bool:
    """Whether this process runs in a box."""
    return DIRECTORY_VARIABLE in os.environ


def directory() -> Path:
    """The box's directory on disk."""
    try:
        return Path(os.environ[DIRECTORY_VARIABLE])
    except KeyError:
        raise BoxError("not inside a lab box: start this with `kyoten-lab box -- COMMAND`") from None


def run(argv: Sequence[str], *, keep: bool = False) -> int:
    """Run ``argv`` in a new box and return its exit status; the box is gone when this returns.

    With ``keep`` the program may call `stay`: then this returns while the box lives on, until `close_all`.
    Ctrl-C and SIGTERM end the box. Raises BoxError without root.
    """
    if os.geteuid() != 0:
        raise BoxError("root is needed to make network namespaces: run this as root")
    if shutil.which("unshare") is None:
        raise BoxError("the program `unshare` is missing: install Debian's util-linux")
    sweep()
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
    lock = (place / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    here, there = socket.socketpair()  # this process alone holds `here`
    # What outlives us must not hold our output open: `make demo KEEP=1 | tee log` would never end. So a box that may be
    # kept is handed it for the program alone, which lets go of it in `stay`.
    output = subprocess.DEVNULL if keep else None
    environment = {**os.environ, DIRECTORY_VARIABLE: str(place)}
    if keep:
        environment[_STARTER_VARIABLE] = str(there.fileno())
    box = subprocess.Popen(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc", "--",
         sys.executable, "-m", "lab.box", *argv],
        env=environment,
        preexec_fn=None if keep else _die_with_parent,
        start_new_session=keep,
        pass_fds=(lock.fileno(), there.fileno()),  # the box holds the lock too: a kept one stays marked as alive
        stdin=output,
        stdout=output,
        stderr=output,
    )  # fmt: skip
    there.close()
    if keep:
        socket.send_fds(here, [b"."], [0, 1, 2])
    (place / _PID).write_text(str(box.pid))
    ending: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        ending.append(number)
        _signal_children(box.pid, signal.SIGTERM)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    kept = False
    give_up_at = 0.0
    try:
        while box.poll() is None:
            if keep and not ending and (place / _KEPT).exists():
                kept = True
                box.returncode = 0  # it lives on and is not ours to wait for
                return int((place / _KEPT).read_text())
            if ending and not give_up_at:
                give_up_at = time.monotonic() + 5
            if give_up_at and time.monotonic() > give_up_at:
                box.kill()
            time.sleep(0.05)
        return 128 + ending[0] if ending else box.returncode
    finally:
        if not kept:
            box.kill()
            box.wait()
            shutil.rmtree(place, ignore_errors=True)
        lock.close()
        here.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def stay(status: int) -> None:
    """Inside a kept box: let the caller of `run` go on with this exit status, and wait here until the box is closed."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    kept = directory() / _KEPT
    temporary = kept.with_suffix(".new")
    temporary.write_text(str(status))
    temporary.rename(kept)
    while True:
        signal.pause()


def living() -> list[Path]:
    """Directories of boxes that are open now."""
    return [place for place in sorted(PARENT.glob(f"{PREFIX}*")) if _alive(place)]


def kept() -> list[Path]:
    """Directories of kept boxes only: not those of a demo or a test run that is still at work."""
    return [place for place in living() if (place / _KEPT).exists()]


def sweep() -> None:
    """Remove directories of boxes whose processes are gone."""
    for place in PARENT.glob(f"{PREFIX}*"):
        if not _alive(place):
            shutil.rmtree(place, ignore_errors=True)


def close_all() -> int:
    """End every kept box; returns how many there were. Whoever opened one that is at work ends it."""
    places = kept()
    for place in places:
        try:
            os.kill(int((place / _PID).read_text()), signal.SIGKILL)  # --kill-child takes the rest down
        except (OSError, ValueError):
            continue
    deadline = time.monotonic() + 10
    while kept() and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep()
    return len(places)


def enter_argv(place: Path, argv: Sequence[str]) -> list[str]:
    """An argv that runs ``argv`` inside the open box at ``place``, from outside."""
    children = _children(int((place / _PID).read_text()))
    if not children:
        raise BoxError(f"the box at {place} has ended")
    return ["nsenter", "-t", str(children[0]), "--mount", "--net", "--pid", "--uts", "--ipc", "--", *argv]


def _alive(place: Path) -> bool:
    try:
        with (place / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # Just made and not yet locked, or being removed: leave a young one alone.
        try:
            return time.time() - place.stat().st_mtime < 10
        except OSError:
            return False
    return False


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _signal_children(pid: int, number: signal.Signals) -> None:
    for child in _children(pid):
        try:
            os.kill(child, number)
        except ProcessLookupError:
            continue


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _first_process(argv: Sequence[str]) -> int:
    """Process 1 of the box: prepare it, run the program, reap orphans, pass signals on, end as the program ended."""
    for command in (
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        ["mkdir", "-p", "/run/netns", "/run/sshd", "/run/lock"],
        ["ip", "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    if _STARTER_VARIABLE in os.environ:
        starter = socket.socket(fileno=int(os.environ[_STARTER_VARIABLE]))
        _message, (stdin, stdout, stderr), _flags, _address = socket.recv_fds(starter, 1, 3)
        program = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr)
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        threading.Thread(target=_end_with_starter, args=(starter, program), daemon=True).start()
    else:
        program = subprocess.Popen(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: program.send_signal(received))
    while True:
        pid, status = os.wait()
        if pid == program.pid:
            program.returncode = os.waitstatus_to_exitcode(status)
            return program.returncode if program.returncode >= 0 else 128 - program.returncode


def _end_with_starter(starter: socket.socket, program: "subprocess.Popen[bytes]") -> None:
    """A box that may be kept outlives its starter on purpose, but not a starter that was killed before it was kept."""
    starter.recv(1)
    if not (directory() / _KEPT).exists():
        program.kill()


if __name__ == "__main__":
    sys.exit(_first_process(sys.argv[1:]))
