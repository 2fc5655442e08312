"""What the agent's loop and the processes that work for it say to each other. Pure.

A step gets one JSON object on standard input and writes JSON lines: ``{"event": "progress", ...}`` as often as it
likes, and one ``done`` or ``failed`` at its end. Whoever ends without either was killed, crashed, or ran out of memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from router_agent.problems import Problem
from router_agent.update.journal import parse_problem


class Step(Enum):
    """What a process of its own does; the values are words of ``kyoten-agent update-step``."""

    REFRESH = "refresh"
    FETCH = "fetch"
    ASSEMBLE = "assemble"
    INSTALL = "install"
    VERIFY = "verify"
    MODULES = "modules"


class Fault(Enum):
    """What a failure means for the update."""

    #: The line, the cloud, the disk: later again.
    LATER = "later"
    #: This release is not for this router, or is no more.
    REFUSED = "refused"
    #: What was made before is not there or not whole: from the start, with what is still good.
    LOST = "lost"
    #: The delta did not do: the whole image then.
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` bytes are there; ``travelled``: what has come over the line in this step, in bytes."""

    done: int
    total: int
    travelled: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The step has done what it was for."""

    result: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """It has not, because of ``problem``."""

    fault: Fault
    problem: Problem


Event = Progress | Done | Failed


class Child(Protocol):
    """A step that runs."""

    def events(self) -> Sequence[Event]:
        """What it has said since the last call; never waits. After its end exactly one Done or Failed has come."""
        ...

    def kill(self) -> None:
        """End it and everything it has started, and wait until they are gone."""
        ...


class Workshop(Protocol):
    """Starts steps."""

    def start(self, step: Step, request: Mapping[str, object]) -> Child:
        """Begin a step. Raises OSError: it cannot be started now."""
        ...


#: A line longer than this is not ours.
LINE_MAX_BYTES = 1 << 20

CRASHED = Failed(Fault.LATER, Problem("agent.update-step-crashed", {}))


def render(event: Event) -> str:
    """The line of an event."""
    match event:
        case Progress(done, total, travelled):
            said: dict[str, object] = {"event": "progress", "done": done, "total": total, "travelled": travelled}
        case Done(result):
            said = {"event": "done", "result": dict(result)}
        case Failed(fault, problem):
            params = {name: value[:200] if isinstance(value, str) else value for name, value in problem.params.items()}
            said = {"event": "failed", "fault": fault.value, "problem": {"key": problem.key, "params": params}}
    return json.dumps(said)


def parse(line: str | bytes) -> Event | None:
    """The event of a line; None: it is none."""
    try:
        said = json.loads(line)
        match said["event"]:
            case "progress":
                return Progress(int(said["done"]), int(said["total"]), int(said["travelled"]))
            case "done":
                return Done(dict(said["result"]))
            case "failed":
                return Failed(Fault(said["fault"]), parse_problem(said["problem"]))
            case _:
                return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
