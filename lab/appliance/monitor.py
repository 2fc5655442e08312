"""QEMU's machine protocol (QMP, docs/interop/qmp-spec.rst): one socket, JSON by lines, events between the answers."""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class MonitorError(Exception):
    """The emulator does not answer, or says no; the text says to what."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the machine: RESET, SHUTDOWN, WATCHDOG, ..."""

    name: str
    data: Mapping[str, object]


class Monitor:
    """A connection to one emulator. Events are kept from the beginning."""

    def __init__(self, path: Path, *, timeout_s: float = 20.0) -> None:
        self._socket = _connected(path, timeout_s)
        self._rest = b""
        self._events: list[Event] = []
        self._next_line(time.monotonic() + timeout_s)  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 20.0) -> object:
        """What the emulator answers. Raises MonitorError."""
        request = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while True:
                line = self._next_line(deadline)
                if "return" in line:
                    return line["return"]
                if "error" in line:
                    raise MonitorError(f"{command}: {line['error']}")
                self._keep(line)
        except OSError as error:
            raise MonitorError(f"{command}: {error}") from error

    def events(self) -> tuple[Event, ...]:
        """Everything that has happened so far."""
        while True:
            try:
                self._keep(self._next_line(time.monotonic()))
            except (OSError, MonitorError):
                return tuple(self._events)

    def close(self) -> None:
        """Leave; the machine runs on."""
        self._socket.close()

    def _keep(self, line: Mapping[str, object]) -> None:
        if "event" in line:
            data = line.get("data")
            self._events.append(Event(str(line["event"]), data if isinstance(data, dict) else {}))

    def _next_line(self, deadline: float) -> dict[str, object]:
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            piece = self._socket.recv(65536)
            if not piece:
                raise MonitorError("the emulator has ended")
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        found = json.loads(line)
        if not isinstance(found, dict):
            raise MonitorError(f"not an object: {line[:100]!r}")
        return found


def _connected(path: Path, timeout_s: float) -> socket.socket:
    """The emulator makes its socket when it has begun."""
    deadline = time.monotonic() + timeout_s
    while True:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(str(path))
        except OSError as error:
            made.close()
            if time.monotonic() > deadline:
                raise MonitorError(f"no monitor at {path}: {error}") from error
            time.sleep(0.05)
        else:
            return made
