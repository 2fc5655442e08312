"""RAUC writes the idle slot. It is run on a message bus of its own, so it lives no longer than the step that wants it.

RAUC does its work in a service that it reaches by D-Bus. A service of the system's would go on writing when the step is
killed, and anybody with the right to the system's bus could ask it. Here bus and service are children of the step, in
its process group. RAUC checks the bundle's signature and, while it reads, each block against the bundle's own tree.
Which slot boots is not RAUC's to say (``activate-installed=false``).
"""

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from router_agent.errors import AgentError
from router_agent.update import leash

#: Seconds for the bus and the service to come up; without a word from RAUC until it counts as hung. A slot of 400 MiB
#: on a slow flash takes two minutes, and RAUC says nothing meanwhile.
START_S = 20.0
SILENCE_S = 900.0

_PROGRESS = re.compile(rb"^\s*(\d{1,3})%")
_ERROR = re.compile(r"LastError: (.*)|Error(?: |: )(.*)")

#: What is kept of RAUC's words for a complaint.
_TAIL_LINES = 30

_BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class InstallError(AgentError):
    """RAUC has not installed the bundle."""


@dataclass(frozen=True, slots=True)
class Programs:
    """What is run; ``configuration``: RAUC's own."""

    bus: str = "dbus-daemon"
    rauc: str = "rauc"
    configuration: Path = Path("/etc/rauc/system.conf")


def install(bundle: Path, runtime: Path, *, report: Callable[[float], None], programs: Programs | None = None) -> None:
    """Write the bundle's slot image into the slot that does not run. ``report``: per cent. ``runtime``: for the bus.

    Raises InstallError: RAUC says no, hangs, or cannot be run.
    """
    chosen = programs or Programs()
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket, configuration = runtime / "rauc-bus", runtime / "rauc-bus.conf"
    configuration.write_text(_BUS_CONFIGURATION.format(path=socket))
    socket.unlink(missing_ok=True)
    # "session": RAUC takes the bus that it is told, and not the system's.
    environment = {
        **os.environ,
        "DBUS_STARTER_BUS_TYPE": "session",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={socket}",
        "LC_ALL": "C",
    }
    rauc = [chosen.rauc, f"--conf={chosen.configuration}"]
    with (
        _child([chosen.bus, "--nofork", "--nopidfile", f"--config-file={configuration}"], os.environ) as bus,
        _until(socket.exists, bus, "dbus-daemon"),
        _child([*rauc, "service"], environment) as service,
    ):
        deadline = time.monotonic() + START_S
        while True:
            if service.poll() is not None:
                raise InstallError("agent.update-install-failed", reason="rauc service ended")
            with _child([*rauc, "install", str(bundle)], environment, read=True) as asked:
                reason = _follow(asked, report)
            if reason is None:
                return
            # The service has a name on the bus some moments after its start.
            if not reason.startswith("D-Bus error") or time.monotonic() > deadline:
                raise InstallError("agent.update-install-failed", reason=reason)
            time.sleep(0.2)


def _follow(asked: "subprocess.Popen[bytes]", report: Callable[[float], None]) -> str | None:
    """Read what ``rauc install`` says until its end; None: it has done it, else why not."""
    assert asked.stdout is not None  # noqa: S101 - started with read=True
    tail: list[str] = []
    rest = b""
    while True:
        readable, _, _ = select.select([asked.stdout], [], [], SILENCE_S)
        if not readable:
            raise InstallError("agent.update-install-hung", seconds=round(SILENCE_S))
        piece = os.read(asked.stdout.fileno(), 65536)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if found := _PROGRESS.match(line):
                report(min(100.0, float(found[1])))
            tail = [*tail, line.decode("utf-8", "replace").strip()][-_TAIL_LINES:]
    said = [*tail, rest.decode("utf-8", "replace")]
    return None if asked.wait(SILENCE_S) == 0 else complaint(said)


def complaint(lines: Sequence[str]) -> str:
    """What RAUC complains of: its last error if it names one, else its last words."""
    for line in reversed(lines):
        if found := _ERROR.search(line):
            return (found[1] or found[2]).strip()[-150:]
    said = [line for line in lines if line.strip()]
    return said[-1].strip()[-150:] if said else "no reason given"


@contextmanager
def _child(
    argv: Sequence[str], environment: Mapping[str, str], *, read: bool = False
) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that is gone afterwards. Its complaints go where ours go."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if read else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if read else None,
            env=environment,
            # Killed with the step, at once: RAUC must not write on while the next agent begins anew. The step has one
            # thread, so this is safe between fork and exec.
            preexec_fn=leash.die_with_parent,
        )
    except OSError as error:
        reason = f"{argv[0]}: {error.strerror or type(error).__name__}"
        raise InstallError("agent.update-install-failed", reason=reason) from error
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def _until(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", name: str) -> Iterator[None]:
    """Wait until a child is ready."""
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise InstallError("agent.update-install-failed", reason=f"{name} did not start")
        time.sleep(0.05)
    yield
