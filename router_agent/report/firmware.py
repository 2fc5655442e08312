"""Firmware and modules in the protocol: what the router says of itself, and what the cloud offers it. Pure.

The schema's FirmwareState, ModuleState and FirmwareOffer. An offer is a wish: whether this router takes it is decided
here (router_agent/update/judge.py), and what it is made of is trusted by its signatures alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from router_agent.problems import Problem

#: The schema's limits.
TEXT_MAX_CHARS = 200
PERMIT_MAX_CHARS = 20_000
MODULES_MAX = 64

#: A release's target path. It becomes a part of a URL and of a path on disk.
_RELEASE = re.compile(r"releases/[a-z0-9][a-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}\.json\Z")


@dataclass(frozen=True, slots=True)
class FirmwareReport:
    """What runs, and how far the router is with what was offered. ``stage``: a value of update.machine.Stage.

    ``hardware`` empty: not one of our images. ``release``: the target path that ``stage`` speaks of, empty: none.
    ``progress_pct``: of what travels; ``bytes_fetched``: over the lines so far, for this release. ``since_s``: seconds
    in this stage. ``problem``: why it waits, was refused, or went back.
    """

    hardware: str
    version: str
    counter: int
    slot: str
    stage: str
    release: str = ""
    rollout: str = ""
    progress_pct: float | None = None
    bytes_fetched: int = 0
    since_s: float = 0.0
    problem: Problem | None = None

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "hardware": _short(self.hardware),
            "version": _short(self.version),
            "counter": self.counter,
            "slot": self.slot,
            "stage": self.stage,
            "release": _short(self.release),
            "rollout": _short(self.rollout),
            "progress_pct": None if self.progress_pct is None else round(self.progress_pct, 1),
            "bytes_fetched": self.bytes_fetched,
            "since_s": round(self.since_s, 1),
            "problem": None if self.problem is None else problem_document(self.problem),
        }


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One small signed module. ``stage``: a value of update.modules.ModuleStage; ``version``: the one it speaks of."""

    name: str
    version: str
    stage: str
    problem: Problem | None = None

    def document(self) -> dict[str, object]:
        """The JSON object."""
        problem = None if self.problem is None else problem_document(self.problem)
        return {"name": _short(self.name), "version": _short(self.version), "stage": self.stage, "problem": problem}


@dataclass(frozen=True, slots=True)
class FirmwareOffer:
    """The release this router shall run, on the schema's terms. No offer any more: what has not been installed yet is
    given up. ``rate_bytes_s`` 0: as fast as the line goes; ``budget_bytes`` None: what the site's settings say."""

    release: str
    counter: int
    rollout: str = ""
    consent: bool = False
    rate_bytes_s: int = 0
    budget_bytes: int | None = None
    permit: str | None = None
    window: str = ""
    visit_open: bool = False


def parse_offer(fields: Mapping[str, object]) -> FirmwareOffer:
    """An offer. Raises ValueError, TypeError, KeyError: it is not one of this protocol."""
    release = _text(fields["release"])
    if not _RELEASE.match(release) or ".." in release:
        raise ValueError("firmware.release")
    budget = fields.get("budget_bytes")
    permit = fields.get("permit")
    if permit is not None and (not isinstance(permit, str) or len(permit) > PERMIT_MAX_CHARS):
        raise TypeError("firmware.permit")
    return FirmwareOffer(
        release=release,
        counter=_count(fields["counter"]),
        rollout=_text(fields.get("rollout", "")),
        consent=fields.get("consent") is True,
        rate_bytes_s=_count(fields.get("rate_bytes_s", 0)),
        budget_bytes=None if budget is None else _count(budget),
        permit=permit,
        window=_text(fields.get("window", "")),
        visit_open=fields.get("visit_open") is True,
    )


def problem_document(problem: Problem) -> dict[str, object]:
    """A problem as the schema has it."""
    params = {name: _short(value) if isinstance(value, str) else value for name, value in problem.params.items()}
    return {"key": problem.key, "params": params}


def _short(text: str) -> str:
    return text[:TEXT_MAX_CHARS]


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX_CHARS:
        raise TypeError("not a short text")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("not a count")
    return value
