"""Runs one sshd with its own configuration; starts it again when it dies, with pauses; adopts one that runs."""

import logging
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

from linux.files import write_durably
from router_agent.backoff import Backoff
from router_agent.bundle import Address
from router_agent.identity import Identity
from router_agent.problems import Problem
from router_agent.remote.configuration import sshd_config

_log = logging.getLogger(__name__)

PROGRAM = Path("/usr/sbin/sshd")
#: sshd wants this directory for its unprivileged half; Debian's unit makes it, here nobody does.
PRIVILEGE_SEPARATION = Path("/run/sshd")

_AGAIN = Backoff(1, 60)
#: An sshd that ran this long was healthy: its death is not counted with earlier ones. Seconds.
_SETTLED_S = 30.0


class SshKeeper:
    """The router's sshd. Its files are in ``runtime``."""

    def __init__(self, identity: Identity, address: Address, runtime: Path) -> None:
        self._identity = identity
        self._address = address
        self._runtime = runtime
        self._child: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started_at = 0.0
        self._start_at = 0.0
        self._trouble: Problem | None = None

    @property
    def _configuration(self) -> Path:
        return self._runtime / "sshd_config"

    @property
    def pid(self) -> int | None:
        """The listening sshd's process id, or None."""
        if self._child is not None:
            self._child.poll()
        try:
            pid = int((self._runtime / "sshd.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        except (OSError, ValueError):
            # Between its start and its pid file it is known by our handle only.
            return self._child.pid if self._child is not None and self._child.returncode is None else None
        return pid if str(self._configuration) in command else None

    @property
    def visited(self) -> bool:
        """Whether somebody is logged in, or forwards a connection: each has a process of sshd's own (proc(5))."""
        pid = self.pid
        if pid is None:
            return False
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return False
        return any(_is_session(child) for child in children)

    def ensure(self, now: float, roll: float) -> Problem | None:
        """Start sshd unless it runs; what stands in the way."""
        if self.pid is not None:
            if now - self._started_at > _SETTLED_S:
                self._failures = 0
                self._trouble = None
            return self._trouble
        if now < self._start_at:
            return self._trouble
        if self._started_at:
            self._failures += 1
            self._trouble = Problem("agent.sshd-down", {"failures": self._failures})
            _log.warning("sshd is not there (%d times): starting it", self._failures)
        self._start_at = now + _AGAIN.delay_s(self._failures + 1, roll)
        self._started_at = now
        try:
            self._start()
        except OSError as error:
            self._trouble = Problem("agent.sshd-down", {"failures": self._failures + 1})
            _log.error("sshd cannot be started: %s", error)
        return self._trouble

    def stop(self, wait_s: float = 3.0) -> None:
        """End sshd and wait for it. Sessions that are open go on until they end by themselves or with the tunnel."""
        pid = self.pid
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + wait_s
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)

    def _start(self) -> None:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        keys = self._identity.path("authorized_keys")
        place = unsafe(keys)
        if place is not None:
            raise PermissionError(f"{place} can be changed by others than root")
        text = sshd_config(
            self._address,
            host_key=self._identity.path("ssh_host_ed25519_key"),
            authorized_keys=keys,
            pid_file=self._runtime / "sshd.pid",
        )
        write_durably(self._configuration, text.encode())
        (self._runtime / "sshd.pid").unlink(missing_ok=True)
        with (self._runtime / "sshd.log").open("wb") as log:
            self._child = subprocess.Popen(
                [str(PROGRAM), "-D", "-e", "-f", str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _log.info("sshd started on %s", self._address)


def _is_session(pid: str) -> bool:
    """By its title: "sshd: root@pts/0", "sshd: root"; one who has not proven who he is has brackets in his."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    except OSError:
        return False
    return title.startswith(b"sshd: ") and b"[" not in title


def unsafe(path: Path) -> Path | None:
    """The first directory above ``path``, or it itself, whose content others than root could exchange.

    As sshd's StrictModes, but a sticky directory is safe: nobody there can rename what is root's.
    """
    for place in (path, *path.absolute().parents):
        mode = place.stat()
        if mode.st_uid != 0 or (mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode.st_mode & stat.S_ISVTX):
            return place
    return None
