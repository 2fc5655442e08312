"""The logs that the cloud may ask for, by unit: which lines of which files. Reads; keeps nothing.

agent   the agent's own log, all of it          modem   of these the lines of the modem's drivers, and pppd's log
ike     charon's log                            update  of these the updater's lines, and its child's log
kernel  the kernel's

A line begins with its time in UTC, to the second at least; one without a time belongs to the line before it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from router_agent.logs import writer

AGENT, IKE, KERNEL, MODEM, UPDATE = UNITS = ("agent", "ike", "kernel", "modem", "update")

PPPD_LOG = "pppd.log"

#: Characters of a line that are kept.
LINE_MAX_CHARS = 4_000

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_LOGGER = re.compile(r"\S+ \S+ ([a-z_.]+): ")
#: Loggers of the units that are a part of the agent's log.
_LOGGERS = {MODEM: "router_agent.modem", UPDATE: "router_agent.update"}

#: (time to the second, or "" before any was seen; unit; line)
Stamped = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Places:
    """Where logs lie."""

    state: Path
    runtime: Path

    def files(self, unit: str) -> tuple[tuple[Path, ...], ...]:
        """The files of a unit: each log's own, oldest first."""
        own = tuple(self.state / f"{writer.NAME}.{number}" for number in range(writer.OLD_FILES, 0, -1))
        agent = (*own, self.state / writer.NAME)
        match unit:
            case "agent":
                return (agent,)
            case "ike":
                return ((self.runtime / "charon.log.1", self.runtime / "charon.log"),)
            case "modem":
                return (agent, (self.runtime / PPPD_LOG,))
            case "update":
                return (agent, (self.state / "update" / "step.log.1", self.state / "update" / "step.log"))
            case _:
                return ()


def wanted(units: Sequence[str]) -> tuple[str, ...]:
    """The units of a request: all when none is named. Those that this agent does not know are left out."""
    return tuple(unit for unit in UNITS if not units or unit in units)


def takes(unit: str, line: str, *, chosen: Sequence[str]) -> bool:
    """Whether a line of the agent's log is the unit's, and not shown by another one of those chosen already."""
    if unit == AGENT:
        return True
    found = _LOGGER.match(line)
    return AGENT not in chosen and found is not None and found[1].startswith(_LOGGERS[unit])


def of_file(unit: str, paths: Sequence[Path], chosen: Sequence[str]) -> Iterator[Stamped]:
    """The lines of one log that are the unit's, each with its time. A file that is not there has no lines.

    pppd writes no times: its lines count as written when its file was changed last.
    """
    lines = (line for path in paths for line in _lines(path))
    yield from stamped(unit, lines, chosen, agents=paths[-1].name == writer.NAME, begin=_changed_at(paths[-1]))


def stamped(
    unit: str, lines: Iterable[str], chosen: Sequence[str], *, agents: bool = False, begin: str = ""
) -> Iterator[Stamped]:
    """Lines with their times. ``agents``: they are the agent's own log. ``begin``: the time of those before the first
    that has one."""
    latest, taken = begin, unit == AGENT or not agents
    for line in lines:
        found = _TIME.match(line)
        if found:
            latest = found.group()
            taken = not agents or takes(unit, line, chosen=chosen)
        if taken:
            yield latest, unit, line[:LINE_MAX_CHARS]


def _changed_at(path: Path) -> str:
    if path.name != PPPD_LOG:
        return ""
    try:
        return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%S}"
    except OSError:
        return ""


def _lines(path: Path) -> Iterator[str]:
    try:
        stream = path.open("rb")
    except OSError:
        return
    with stream:
        while raw := stream.readline(LINE_MAX_CHARS * 4):
            yield raw.decode("utf-8", "replace").rstrip("\r\n")


#: Reads the kernel's log: its lines. Raises OSError.
ReadKernel = Callable[[], list[str]]
