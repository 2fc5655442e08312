"""What people ask of this router, and what it answers: log pulls, commands; and crash reports. Pure.

The schema's LogPull, PieceAnswer, LogPullState, Command, CommandResult and CrashReport.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from router_agent.errors import CloudRefusedError
from router_agent.problems import Problem
from router_agent.report.firmware import problem_document

#: What this agent can do beyond the first version of the protocol; the cloud asks an older one for nothing else.
FEATURES = ("log-pulls", "commands", "crashes")

#: The schema's limits.
TEXT_MAX_CHARS = 200
OUTPUT_MAX_CHARS = 65_536
CRASH_MAX_CHARS = 32_768
PIECE_MAX_BYTES = 262_144

#: Requests that one answer may hold; more is a cloud gone wrong.
REQUESTS_MAX = 64
COMMAND_LIMITS_S = (1.0, 300.0)


@dataclass(frozen=True, slots=True)
class LogPull:
    """Hand over a range of the logs; the schema's LogPull. ``since``, ``until``: aware, None: no bound."""

    id: str
    units: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    lines: int
    follow: bool
    received: int
    max_bytes: int
    mobile_max_bytes: int
    mobile_rate_bytes_s: int

    def limit_bytes(self, *, mobile: bool) -> int:
        """The most that the gzip may have on this kind of line."""
        return self.mobile_max_bytes if mobile else self.max_bytes

    def rate_bytes_s(self, *, mobile: bool) -> int:
        """How fast it may travel; 0: as fast as the line goes."""
        return self.mobile_rate_bytes_s if mobile else 0


@dataclass(frozen=True, slots=True)
class PieceAnswer:
    """How much of a pull the cloud has, and whether it wants more."""

    received: int
    wanted: bool


@dataclass(frozen=True, slots=True)
class Command:
    """Run a diagnostic command once; the schema's Command. ``arguments`` are not yet read."""

    id: str
    name: str
    arguments: Mapping[str, str | int]
    timeout_s: float
    expires_s: float


@dataclass(frozen=True, slots=True)
class CommandReport:
    """What became of a command; ``state`` as the schema has it. ``began_at`` None: it was not begun."""

    state: str
    status: int | None = None
    output: str = ""
    truncated: bool = False
    began_at: datetime | None = None
    duration_s: float = 0.0
    problem: Problem | None = None

    def document(self) -> dict[str, object]:
        """The JSON object. The end of an output that is too long is left out."""
        return {
            "state": self.state,
            "status": self.status,
            "output": self.output[:OUTPUT_MAX_CHARS],
            "truncated": self.truncated or len(self.output) > OUTPUT_MAX_CHARS,
            "began_at": "" if self.began_at is None else moment(self.began_at),
            "duration_s": round(self.duration_s, 3),
            "problem": None if self.problem is None else problem_document(self.problem),
        }


@dataclass(frozen=True, slots=True)
class CrashReport:
    """Something that ended and should not have; the schema's CrashReport."""

    id: str
    kind: str
    process: str
    summary: str
    first_at: datetime
    last_at: datetime
    count: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "id": self.id,
            "kind": self.kind,
            "process": self.process[:TEXT_MAX_CHARS],
            "summary": self.summary[:TEXT_MAX_CHARS],
            "first_at": moment(self.first_at),
            "last_at": moment(self.last_at),
            "count": self.count,
            "versions": {name: version[:TEXT_MAX_CHARS] for name, version in self.versions.items()},
            "text": self.text[:CRASH_MAX_CHARS],
        }


def moment(at: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_moment(text: str) -> datetime:
    """The time in such a text. Raises ValueError: it is none, or has no zone."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without its zone")
    return found.astimezone(UTC)


def parse_pulls(value: object) -> tuple[LogPull, ...]:
    """Log pulls. Raises ValueError, TypeError, KeyError: they are not of this protocol."""
    return tuple(_pull(fields) for fields in _objects(value, "log_pulls"))


def parse_commands(value: object) -> tuple[Command, ...]:
    """Commands. Raises as parse_pulls does."""
    return tuple(_command(fields) for fields in _objects(value, "commands"))


def parse_piece_answer(body: bytes) -> PieceAnswer:
    """The answer to a piece. Raises CloudRefusedError: it is none."""
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise TypeError("not an object")
        return PieceAnswer(_count(fields["received"]), fields["wanted"] is True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CloudRefusedError("agent.cloud-answer-unknown", reason=str(error)[:TEXT_MAX_CHARS]) from error


def _pull(fields: Mapping[str, object]) -> LogPull:
    units = fields.get("units", [])
    if not isinstance(units, list):
        raise TypeError("log_pulls.units")
    since, until = _text(fields.get("since", "")), _text(fields.get("until", ""))
    return LogPull(
        id=_identifier(fields["id"]),
        units=tuple(_text(unit) for unit in units),
        since=read_moment(since) if since else None,
        until=read_moment(until) if until else None,
        lines=_count(fields.get("lines", 0)),
        follow=fields.get("follow") is True,
        received=_count(fields.get("received", 0)),
        max_bytes=_count(fields["max_bytes"]),
        mobile_max_bytes=_count(fields["mobile_max_bytes"]),
        mobile_rate_bytes_s=_count(fields.get("mobile_rate_bytes_s", 0)),
    )


def _command(fields: Mapping[str, object]) -> Command:
    arguments = fields.get("arguments", {})
    if not isinstance(arguments, dict):
        raise TypeError("commands.arguments")
    known: dict[str, str | int] = {}
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError("commands.arguments")
        known[_text(name)] = _text(value) if isinstance(value, str) else value
    low, high = COMMAND_LIMITS_S
    timeout_s = min(max(_seconds(fields["timeout_s"]), low), high)
    return Command(_identifier(fields["id"]), _text(fields["name"]), known, timeout_s, _seconds(fields["expires_s"]))


def _objects(value: object, name: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or len(value) > REQUESTS_MAX or not all(isinstance(item, dict) for item in value):
        raise TypeError(name)
    return value


def _identifier(value: object) -> str:
    # It becomes a part of a path.
    text = _text(value)
    if not text or not text.isascii() or not all(character.isalnum() or character in "-_" for character in text):
        raise ValueError("id")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX_CHARS:
        raise TypeError("not a short text")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("not a count")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("not a number of seconds")
    return float(value)
