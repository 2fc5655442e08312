"""A step in a process of its own, ``kyoten-agent update-step STEP``: what it needs of memory goes when it ends.

It has a process group of its own, so that it goes with everything it has started; it ends itself when the agent dies
(step.py). The step's own log is ``<state>/update/step.log``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from router_agent.update import work
from router_agent.update.work import Done, Event, Failed, Progress, Step

LOG = "step.log"
LOG_MAX_BYTES = 256 * 1024

#: Where this agent's packages lie: in the image the command adds that place by itself, and a child has to be told.
_PACKAGES = Path(__file__).parents[2]

#: For a process that was killed to be gone. It may hang in the kernel while a disk writes.
_GONE_S = 5.0


class ChildProcess:
    """One step that runs."""

    def __init__(self, argv: Sequence[str], request: Mapping[str, object], log: Path) -> None:
        """Raises OSError: it cannot be started."""
        with _log(log) as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(_PACKAGES)},
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - both are pipes
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._rest = b""
        self._ended = False
        with contextlib.suppress(OSError):  # it has died already: that shows in events()
            # A request fits into the pipe (64 KiB): nothing waits here.
            self._process.stdin.write(json.dumps(request).encode())
            self._process.stdin.close()

    def events(self) -> Sequence[Event]:
        """What it has said since the last call."""
        if self._ended:
            return ()
        found: list[Event] = []
        over = self._process.poll() is not None  # before reading: what was written before the end is read
        while True:
            try:
                piece = self._output.read(65536)
            except OSError:
                piece = b""
            if not piece:  # None: nothing now; empty: closed
                break
            *lines, self._rest = (self._rest + piece).split(b"\n")
            found += [event for line in lines if (event := work.parse(line)) is not None]
            self._rest = self._rest[-work.LINE_MAX_BYTES :]
        ending = next((event for event in found if isinstance(event, Done | Failed)), None)
        found = [event for event in found if isinstance(event, Progress)]
        if ending is None and over:
            ending = work.CRASHED
        if ending is not None:
            self.kill()
            found.append(ending)
        return found

    def kill(self) -> None:
        """End it and everything it has started."""
        self._ended = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_S)
        self._output.close()


class ChildProcesses:
    """Starts steps for the agent whose state directory this is."""

    def __init__(self, state: Path, arguments: Sequence[str]) -> None:
        """``arguments``: what each step is told on its command line besides its name; nothing secret."""
        self._state = state
        self._arguments = tuple(arguments)

    def start(self, step: Step, request: Mapping[str, object]) -> ChildProcess:
        """Begin a step. Raises OSError."""
        argv = [sys.executable, "-s", "-m", "router_agent.cli", "update-step", step.value, *self._arguments]
        directory = self._state / "update"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ChildProcess(argv, request, directory / LOG)


def _log(path: Path) -> IO[bytes]:
    """Where a step's complaints go; what is too long is begun anew."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_MAX_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")
