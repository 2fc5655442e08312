"""Marks that a trial leaves behind, ``<state>/update/trial.log``: one JSON line each, on the disk before the next act.

Whoever runs on a trial boot (the guard, the agent) says how far it got. The old slot's agent reads them when the trial
has come back, and tells why. No mark at all: the slot would not boot. Marks of other trials are ignored.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from linux.files import flush_directory

NAME = "trial.log"

#: The guard has begun; its time is up; it has not seen the agent move for a minute.
GUARD, DEADLINE, STILL = "guard", "deadline", "still"
#: The agent runs; what health still wants; the agent goes back.
AGENT, MISSING, RETURNING = "agent", "missing", "returning"

#: A trial writes some ten lines. One that goes on writing is a bug that must not fill the disk.
LOG_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Mark:
    """``what`` was reached ``at`` seconds after the boot."""

    what: str
    at: float
    params: Mapping[str, str] = field(default_factory=dict)


class TrialLog:
    """The marks in this state directory."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def leave(self, trial_id: str, what: str, *, at: float, **params: str) -> None:
        """See `leave`."""
        leave(self._state, trial_id, what, at=at, **params)

    def read(self, trial_id: str) -> tuple[Mark, ...]:
        """See `read`."""
        return read(self._state, trial_id)

    def clear(self) -> None:
        """See `clear`."""
        clear(self._state)


def leave(state: Path, trial_id: str, what: str, *, at: float, **params: str) -> None:
    """Append a mark. Raises OSError: the disk is full or read-only; the trial goes on without it."""
    path = state / "update" / NAME
    line = json.dumps({"trial_id": trial_id, "what": what, "at": round(at, 1), "params": params}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size + len(line) > LOG_MAX_BYTES:
            return
        # A line that a power cut has torn must not swallow this one: an empty line is no mark.
        os.write(descriptor, ("\n" if size else "").encode() + line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not size:
        flush_directory(path.parent)


def read(state: Path, trial_id: str) -> tuple[Mark, ...]:
    """The marks of this trial, in order; what is torn or strange is left out."""
    try:
        lines = (state / "update" / NAME).read_bytes()[: 2 * LOG_MAX_BYTES].splitlines()
    except OSError:
        return ()
    return tuple(mark for line in lines if (mark := _parse(line, trial_id)) is not None)


def clear(state: Path) -> None:
    """Forget all marks, before another trial begins. Raises OSError."""
    (state / "update" / NAME).unlink(missing_ok=True)


def _parse(line: bytes, trial_id: str) -> Mark | None:
    try:
        found = json.loads(line)
        if found["trial_id"] != trial_id:
            return None
        params = {str(name): str(value)[:500] for name, value in dict(found["params"]).items()}
        return Mark(str(found["what"]), float(found["at"]), params)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
