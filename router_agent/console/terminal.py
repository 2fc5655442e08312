"""The door itself: what is written on the serial line and read from it, the shell behind it, and its end.

The process is the leader of the line's session (systemd gave it the tty). Whatever happens, it ends: the service is
then started anew with a clean line, and what the shell left running ends with the service.
"""

import os
import select
import signal
import sys
import syslog
import termios
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm

from firmware import console
from router_agent import identity
from router_agent.console import keys, login
from router_agent.console.ledger import Ledger, Login
from router_agent.console.login import Door, Verdict
from router_agent.errors import AgentError
from router_agent.exec.orders import boot_id
from router_agent.messages import text

#: Seconds without a key pressed until a session is ended, and how often that is looked at. The kernel notes the time of
#: the last key to within eight seconds.
IDLE_S = 900.0
LOOK_S = 10.0
#: A line as somebody types it is shorter.
_LINE_MAX_BYTES = 200
#: Between being told to end and being made to.
_GRACE_S = 3.0

#: Between two renames of the agent there is less.
_EXCHANGE_S = 2.0

#: What keys of the line send: they end nothing before the shell is there.
_KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)

SHELL = ("/usr/bin/busybox", "ash", "-l")
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "vt102",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/usr/lib/kyoten/site",
}


def run(state: Path, *, shell: tuple[str, ...] = SHELL, idle_s: float = IDLE_S) -> int:
    """One visitor, from the challenge to the end of the shell; the exit status."""
    syslog.openlog("kyoten-console", syslog.LOG_PID, syslog.LOG_AUTH)
    for number in _KEYS:
        signal.signal(number, signal.SIG_IGN)
    if not identity.is_installed(state):
        _say("agent-cli.console-not-enrolled", release=_release())
        return 0
    if not (state / "identity").is_dir():
        # The agent may be exchanging it this very moment; `load` mends what a power cut has left.
        time.sleep(_EXCHANGE_S)
    try:
        who = identity.load(state)
        found = keys.read(who)
    except (AgentError, UnsupportedAlgorithm) as error:
        shown = text(error.key, error.params) if isinstance(error, AgentError) else str(error)
        _say("agent-cli.console-damaged", reason=shown)
        return 1
    if found is None:
        _say("agent-cli.console-no-key", site=who.enrolment.site)
        return 0
    ledger = Ledger(state)
    door = _answered(found, ledger)
    if door is None:
        return 0
    return _session(door, ledger, shell, idle_s)


def _answered(found: login.Keys, ledger: Ledger) -> Door | None:
    """Wait, show a challenge, take answers; the door once it is open. None: the challenge is void."""
    wrong = ledger.wrong()
    _wait(login.wait_s(wrong))
    nonce = int.from_bytes(os.urandom(console.NONCE_BITS // 8), "big")
    door = login.open_door(found, nonce=nonce, wrong=wrong, now=_now())
    shown, minutes = door.challenge.text, round(login.CHALLENGE_S / 60)
    _say("agent-cli.console-challenge", release=_release(), site=door.site, challenge=shown, minutes=minutes)
    while True:
        answer = _line(door.ends_at, text("agent-cli.console-prompt"))
        if answer is None:
            _say("agent-cli.console-late")
            return None
        if not answer.strip():
            continue
        seen = login.look_at(door, answer, _now())
        if seen is None:
            door = door.counted()
            if not ledger.keep_wrong(door.wrong):
                # What is not on the disk is forgotten with the power: then each answer costs a wait.
                _wait(login.WAIT_S, "agent-cli.console-slow")
            seen = login.judge(door, answer)
        if seen is Verdict.OPEN:
            ledger.keep_wrong(0)
            return door
        if seen in (Verdict.WRONG, Verdict.SHUT):
            syslog.syslog(syslog.LOG_WARNING, f"wrong response to {door.challenge.text}, {door.wrong} in a row")
        _say(f"agent-cli.console-{seen.value}", tries=door.tries_left, seconds=round(login.wait_s(door.wrong)))
        if seen in (Verdict.SHUT, Verdict.LATE):
            return None


def _session(door: Door, ledger: Ledger, shell: tuple[str, ...], idle_s: float) -> int:
    made = Login(
        id=f"{time.time_ns():020d}",
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        challenge=door.challenge.text,
        boot=boot_id(),
    )
    try:
        ledger.write(made)
    except OSError as error:
        # A disk that cannot be written is what somebody came for.
        syslog.syslog(syslog.LOG_ERR, f"login is not kept for the cloud: {error}")
    syslog.syslog(syslog.LOG_WARNING, f"login at the console of {door.site} with challenge {door.challenge.text}")
    _say("agent-cli.console-open", site=door.site, minutes=round(idle_s / 60))
    status = _shell(shell, idle_s)
    syslog.syslog(syslog.LOG_WARNING, f"login with challenge {door.challenge.text} has ended")
    try:
        ledger.write(replace(made, ended=True))
    except OSError as error:
        syslog.syslog(syslog.LOG_ERR, f"the login's end is not kept for the cloud: {error}")
    return status


def _shell(argv: tuple[str, ...], idle_s: float) -> int:
    """Run the shell as the line's foreground until it ends or nobody has pressed a key for so long."""
    # Handing the line over from the background stops a process that does not ignore this.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        _become(argv)
    _foreground(child)
    pressed, since, status = _pressed(), _now(), None
    while status is None:
        status = _ended(child, min(LOOK_S, idle_s / 4))
        # Whether the time of the last key has changed: what it says moves with the clock.
        if (seen := _pressed()) != pressed:
            pressed, since = seen, _now()
        if status is None and _now() - since >= idle_s:
            _foreground(os.getpgrp())
            _say("agent-cli.console-idle", minutes=round(idle_s / 60))
            os.kill(child, signal.SIGHUP)
            if (status := _ended(child, _GRACE_S)) is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                status = 1
    _foreground(os.getpgrp())
    return status


def _become(argv: tuple[str, ...]) -> None:
    """In the child: the shell, or nothing."""
    try:
        os.setpgid(0, 0)
        _foreground(os.getpid())
        for number in (*_KEYS, signal.SIGTTOU, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        os.execve(argv[0], list(argv), dict(ENVIRONMENT))  # noqa: S606 - a shell is what it is for
    finally:
        os._exit(127)


def _ended(child: int, within_s: float) -> int | None:
    """The child's exit status; None: it runs on."""
    until = _now() + within_s
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if _now() >= until:
            return None
        time.sleep(0.2)


def _foreground(group: int) -> None:
    try:
        os.tcsetpgrp(sys.stdin.fileno(), group)
    except OSError as error:  # a line that is none, in tests; or gone
        syslog.syslog(syslog.LOG_DEBUG, f"foreground: {error}")


def _pressed() -> tuple[int, int]:
    """When a key was read last, by the router's clock: from the line, and from its other name (pagers read there)."""
    return os.fstat(sys.stdin.fileno()).st_atime_ns, Path("/dev/tty").stat().st_atime_ns


def _line(until: float, prompt: str) -> str | None:
    """A line from whoever is there; None: nothing came in time, or the line is gone."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    descriptor, taken = sys.stdin.fileno(), b""
    while (left := until - _now()) > 0:
        ready, _, _ = select.select([descriptor], [], [], left)
        if not ready:
            break
        read = os.read(descriptor, _LINE_MAX_BYTES)
        if not read:
            return None
        taken = (taken + read)[-_LINE_MAX_BYTES:]
        if taken.endswith((b"\n", b"\r")):
            return taken.decode("utf-8", "replace")
    return None


def _wait(seconds: float, why: str = "agent-cli.console-wait") -> None:
    if seconds > 0:
        _say(why, seconds=round(seconds))
        time.sleep(seconds)
        _drop_input()


def _drop_input() -> None:
    """What was typed meanwhile answers nothing."""
    try:
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    except termios.error:
        return


def _now() -> float:
    """Seconds since the start of the machine, sleep included: nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _release() -> str:
    """What runs here."""
    from router_agent.update import appliance

    found = appliance.running()
    return "-" if found is None else found[0].version


def _say(key: str, **params: str | int | float) -> None:
    sys.stdout.write(text(key, params) + "\n")
    sys.stdout.flush()
