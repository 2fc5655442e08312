"""The logs that the cloud may ask for, by unit: which lines of which files. Reads; keeps nothing.

agent   the agent's own log, all of it          modem   of these the lines of the modem's drivers, and pppd's log
ike     charon's log                            update  of these the updater's lines, and its child's log
kernel  the kernel's

charon's and pppd's lie in memory; `keeping` has them on the disk. A line begins with its time in UTC, to the second at
least; one without a time belongs to the line before it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router_agent.logs import writer

AGENT, IKE, KERNEL, MODEM, UPDATE = UNITS = ("agent", "ike", "kernel", "modem", "update")

PPPD_LOG, CHARON_LOG = "pppd.log", "charon.log"

#: Where `keeping` keeps those two: a directory of the agent's state, with a log a unit and so many older ones.
KEPT = "kept"
KEPT_OLD_FILES = 3

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
        agent = _turned_over(self.state / writer.NAME, writer.OLD_FILES)
        match unit:
            case "agent":
                return (agent,)
            case "ike":
                return (self.kept(IKE),)
            case "modem":
                return (agent, self.kept(MODEM))
            case "update":
                return (agent, _turned_over(self.state / "update" / "step.log", 1))
            case _:
                return ()

    def live(self, unit: str) -> tuple[tuple[Path, ...], ...]:
        """The same, where lines come first: for whoever follows a log."""
        match unit:
            case "ike":
                return (_turned_over(self.runtime / CHARON_LOG, 1),)
            case "modem":
                return (self.files(AGENT)[0], _turned_over(self.runtime / PPPD_LOG, 1))
            case _:
                return self.files(unit)

    def kept(self, unit: str) -> tuple[Path, ...]:
        """The log of charon (ike) or pppd (modem) as it is on the disk."""
        return _turned_over(self.state / KEPT / f"{unit}.log", KEPT_OLD_FILES)


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
    """The lines of one log that are the unit's, each with its time. A file that is not there has no lines."""
    lines = (line for path in paths for line in _lines(path))
    yield from stamped(unit, lines, chosen, agents=paths[-1].name == writer.NAME)


def stamped(unit: str, lines: Iterable[str], chosen: Sequence[str], *, agents: bool = False) -> Iterator[Stamped]:
    """Lines with their times. ``agents``: they are the agent's own log."""
    latest, taken = "", unit == AGENT or not agents
    for line in lines:
        found = _TIME.match(line)
        if found:
            latest = found.group()
            taken = not agents or takes(unit, line, chosen=chosen)
        if taken:
            yield latest, unit, line[:LINE_MAX_CHARS]


def _turned_over(path: Path, old: int) -> tuple[Path, ...]:
    return (*(path.with_name(f"{path.name}.{number}") for number in range(old, 0, -1)), path)


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
