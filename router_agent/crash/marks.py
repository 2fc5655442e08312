"""A mark on disk while the agent runs, ``<state>/running.json``. One that is found at the start was left behind by an
agent that had no time to take it away: it was killed, or the machine went down under it.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from linux.files import write_durably
from router_agent.report.requests import moment, read_moment

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """The boot and the process that ran, and since when."""

    boot: str
    pid: int
    started_at: datetime


class RunningMark:
    """All of it is best effort: a disk that is full must not keep an agent from running."""

    def __init__(self, state: Path) -> None:
        self._path = state / "running.json"

    def left_behind(self) -> Mark | None:
        """The mark of an agent before this one that did not stop by itself."""
        try:
            fields = json.loads(self._path.read_bytes())
            return Mark(str(fields["boot"]), int(fields["pid"]), read_moment(fields["started_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def set(self, mark: Mark) -> None:
        """This agent runs. Raises OSError."""
        document = {"format": FORMAT, "boot": mark.boot, "pid": mark.pid, "started_at": moment(mark.started_at)}
        write_durably(self._path, json.dumps(document).encode())

    def clear(self) -> None:
        """It stops, and knows why."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            pass
