"""The relay as a process that can be killed: the real command, or a copy forked from a process that has its modules.

Importing them takes a second; forked, hundreds of starts are a matter of minutes. Both run `service.run` from the same
configuration file, in a session of their own, so that whatever they start can be killed with them.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from lab.mail_proof.place import Place

_READY_S = 30.0
_LOOK_S = 0.01
_STOP_S = 20.0
#: What the process that is forked from has loaded.
_PRELOADED = [
    "lab.mail_proof.relay",
    "cloudside.mail.service",
    "uvloop",
    "cloudside.pki.published",
    "cloudside.logging",
]


class RelayError(Exception):
    """It did not come up or did not end; the text says what it logged last."""


class Relay:
    """One run after the other of the relay at ``place``. ``prepare`` runs first in those that are forked."""

    def __init__(self, place: Place, log: Path, *, prepare: Callable[[], None] | None = None) -> None:
        self._place = place
        self._log = log
        self._prepare = prepare
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(_PRELOADED)
        self._process: subprocess.Popen[bytes] | ForkServerProcess | None = None

    @property
    def pid(self) -> int:
        """The process id of the run. Raises RelayError: none is."""
        if self._process is None or self._process.pid is None:
            raise RelayError("the relay is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        match self._process:
            case None:
                return False
            case subprocess.Popen() as command:
                return command.poll() is None
            case forked:
                return forked.is_alive()

    def start(self, *, forked: bool = True, processes: int = 0) -> None:
        """Start it, with so many processes of its own that take mail; ``ready`` tells when it does."""
        configuration = self._place.with_processes(processes)
        if forked:
            process = self._forks.Process(
                target=_run, args=(str(configuration), str(self._log), self._prepare), daemon=True
            )
            process.start()
            self._process = process
            return
        argv = [sys.executable, "-m", "cloudside.cli.main", "--config", str(configuration), "relay"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until it takes mail. Raises RelayError."""
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._place.port), timeout=5) as probe:
                if probe.recv(4).startswith(b"220"):
                    return
            if time.monotonic() > deadline or not self.running:
                raise RelayError(f"the relay does not take mail:\n{self.words()}")
            time.sleep(_LOOK_S)

    def cut(self, *, alone: bool = False) -> float:
        """Kill it with all that it started (``alone``: itself only). When it was certainly dead, monotonic seconds."""
        if not alone:
            self.strike()
        with suppress(ProcessLookupError):  # forked a moment ago, it leads no group yet; or it is dead already
            os.kill(self.pid, signal.SIGKILL)
        self._wait(_STOP_S)
        return time.monotonic()

    def strike(self) -> None:
        """Kill it with all that it started, from any thread, and do not wait; ``cut`` is still to be called."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it politely. Raises RelayError: it does not end, or with a fault."""
        os.kill(self.pid, signal.SIGTERM)
        status = self._wait(_STOP_S)
        if status != 0:
            raise RelayError(f"the relay ended with {status}:\n{self.words()}")

    def close(self) -> None:
        """Whatever happened, it is gone after this."""
        if self.running:
            self.cut()

    def words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    def _wait(self, timeout_s: float) -> int:
        match self._process:
            case None:
                return 0
            case subprocess.Popen() as command:
                try:
                    status: int | None = command.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    status = None
            case forked:
                forked.join(timeout_s)
                status = forked.exitcode
        if status is None:
            raise RelayError(f"the relay does not end:\n{self.words()}")
        self._process = None
        return status


def _run(configuration: str, log: str, prepare: Callable[[], None] | None) -> None:
    """The forked process: as `kyoten relay` does it."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import uvloop

    from cloudside.config import load
    from cloudside.logging import configure
    from cloudside.mail import service
    from cloudside.pki import published

    if prepare is not None:
        prepare()
    configure()
    config = load(Path(configuration))
    files = published.endpoint_files(config)

    tls = service.TlsFiles(certificate=files.chain, key=files.key)
    service.prepare_process(config.relay)
    children = service.fork_intake(config, tls)

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await service.run(config, stop, tls=tls, children=children)

    uvloop.run(main())
