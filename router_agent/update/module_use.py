"""What the agent makes of modules that are in use: plugins run, the modem gets its table, plugins the authorities.

A plugin is a program of one file in Python. It runs every few minutes as nobody, in a process with little memory and
time, gets its source on standard input and says what it has found in JSON lines, ``{"text": "..."}``; each becomes a
problem in the heartbeat. It cannot reach the agent, its state or its keys.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware.module_content import parse_modems
from router_agent.problems import Problem

_log = logging.getLogger(__name__)

#: Between two runs of a plugin, and for one run, in seconds.
EVERY_S = 300.0
RUN_S = 30.0
#: For one run: memory and processor time (prlimit(1)).
MEMORY_BYTES = 256 << 20
PROCESSOR_S = 10
OUTPUT_MAX_BYTES = 64 * 1024

#: What one plugin may say.
TEXTS_MAX = 3
TEXT_MAX_CHARS = 150

#: nobody and nogroup in Debian.
_NOBODY, _NOGROUP = 65534, 65534

_AUTHORITIES, _MODEMS = "ca-bundle", "modem-table"


@dataclass(slots=True)
class _Run:
    process: "subprocess.Popen[bytes]"
    output: int
    until: float


def start_as_nobody(source: bytes, environment: Mapping[str, str], authorities: bytes) -> "subprocess.Popen[bytes]":
    """Run a plugin. Raises OSError. Source and authorities come by memory: nobody may read the agent's directories."""
    program = os.memfd_create("plugin")
    bundle = os.memfd_create("authorities")
    try:
        for descriptor, content in ((program, source), (bundle, authorities)):
            os.fchmod(descriptor, 0o444)
            _write_all(descriptor, content)
            os.lseek(descriptor, 0, os.SEEK_SET)
        limits = [f"--as={MEMORY_BYTES}", f"--cpu={PROCESSOR_S}", "--nofile=64", "--nproc=32", "--core=0"]
        return subprocess.Popen(
            ["prlimit", *limits, "--", sys.executable, "-I", "-"],
            stdin=program,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**environment, "SSL_CERT_FILE": f"/proc/self/fd/{bundle}", "PATH": "/usr/bin:/bin"},
            pass_fds=(bundle,),
            user=_NOBODY,
            group=_NOGROUP,
            extra_groups=(),
            start_new_session=True,
        )
    finally:
        os.close(program)
        os.close(bundle)


class ModuleUse:
    """Called with (kind, name, path) when a module's content is in use, or no more (path None). ``modems`` takes the
    table of commands by model."""

    def __init__(
        self,
        site: str,
        modems: Callable[[dict[str, tuple[str, ...]]], None],
        *,
        start: Callable[[bytes, Mapping[str, str], bytes], "subprocess.Popen[bytes]"] = start_as_nobody,
    ) -> None:
        self._site = site
        self._modems = modems
        self._start = start
        self._plugins: dict[str, Path] = {}
        self._authorities: Path | None = None
        self._due: dict[str, float] = {}
        self._runs: dict[str, _Run] = {}
        self._said: dict[str, tuple[Problem, ...]] = {}

    def __call__(self, kind: str, name: str, path: Path | None) -> None:
        """A module is in use from now on, or no more."""
        if kind == _AUTHORITIES:
            self._authorities = path
        if kind == _MODEMS:
            self._modems({} if path is None else parse_modems(path.read_bytes()))
        if kind == "plugin" and path is not None:
            self._plugins[name] = path
            self._due[name] = 0.0
        elif name in self._plugins:
            self._end(name)
            del self._plugins[name]
            self._said.pop(name, None)

    def step(self, now: float) -> None:
        """Run what is due, take in what has been said. Never waits."""
        for name, run in list(self._runs.items()):
            if run.process.poll() is not None:
                self._hear(name, run)
            elif now > run.until:
                _log.warning("plugin %s: not finished after %.0f s", name, RUN_S)
                self._end(name)
                self._said[name] = (Problem("agent.plugin-failed", {"plugin": name, "status": -1}),)
        for name, path in self._plugins.items():
            if name not in self._runs and now >= self._due[name]:
                self._due[name] = now + EVERY_S
                self._begin(name, path, now)

    def stop(self) -> None:
        """The agent ends."""
        for name in list(self._runs):
            self._end(name)

    def problems(self) -> tuple[Problem, ...]:
        """What plugins have found at their last run."""
        return tuple(problem for name in sorted(self._said) for problem in self._said[name])

    def _begin(self, name: str, path: Path, now: float) -> None:
        try:
            authorities = b"" if self._authorities is None else self._authorities.read_bytes()
            process = self._start(path.read_bytes(), {"KYOTEN_SITE": self._site}, authorities)
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("plugin %s: %s", name, error)
            return
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        os.set_blocking(process.stdout.fileno(), False)
        self._runs[name] = _Run(process, process.stdout.fileno(), now + RUN_S)

    def _hear(self, name: str, run: _Run) -> None:
        try:
            # What a pipe holds is all there is: a plugin that says more than 64 KiB waits, and is ended.
            said = os.read(run.output, OUTPUT_MAX_BYTES)
        except OSError:
            said = b""
        status = run.process.returncode
        self._end(name)
        if status != 0:
            _log.warning("plugin %s ended with %s", name, status)
            self._said[name] = (Problem("agent.plugin-failed", {"plugin": name, "status": status}),)
            return
        self._said[name] = tuple(
            Problem("agent.plugin-says", {"plugin": name, "text": text}) for text in texts(said)[:TEXTS_MAX]
        )

    def _end(self, name: str) -> None:
        run = self._runs.pop(name, None)
        if run is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(run.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(2)
        if run.process.stdout is not None:
            run.process.stdout.close()


def texts(said: bytes) -> list[str]:
    """The texts in a plugin's lines; what is none is left out."""
    found = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            text = json.loads(line)["text"]
            if isinstance(text, str) and text.isprintable():
                found.append(text[:TEXT_MAX_CHARS])
    return found


def _write_all(descriptor: int, content: bytes) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(content)
