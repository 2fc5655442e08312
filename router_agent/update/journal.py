"""The update's state on disk, ``<state>/update/journal.json``: written durably before each act.

Two agents read it: the one that tries a release and the one that it returns to. So its form does not change within a
FORMAT, and what a newer one has added is ignored. The guard of a trial reads ``trial_id``, ``target`` and
``deadline_s`` at its top.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from linux.files import write_durably
from router_agent.errors import Parameter, StateError
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer, parse_offer
from router_agent.update.machine import RESTING, ReleaseFacts, Stage, Trial, UpdateState

NAME = "journal.json"
FORMAT = 1

#: The guard of a trial gives the agent this long, in seconds, to go back by itself with a reason.
GUARD_SLACK_S = 60.0


class Journal:
    """Reads and writes the state; ``directory`` is the agent's state directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "update" / NAME

    def load(self) -> UpdateState:
        """The state as it was written last; that of a new router when there is none.

        Raises StateError: the file cannot be read or is damaged. What was under way is begun again then.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return UpdateState()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(getattr(error, "strerror", None) or "not text") from error
        try:
            return parse(json.loads(text))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._unreadable("damaged") from error

    def save(self, state: UpdateState) -> None:
        """Write the state. Raises StateError: the disk is full or read-only; the old state is whole then."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._path, json.dumps(document(state), indent=1).encode())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StateError("agent.state-unwritable", path=str(self._path.parent), reason=reason) from error

    def _unreadable(self, reason: str) -> StateError:
        return StateError("agent.state-unreadable", path=str(self._path), reason=reason)


def document(state: UpdateState) -> dict[str, object]:
    """The state as JSON has it."""
    problem, trial = state.problem, state.trial
    guarded = trial if state.stage is Stage.TRIAL else None
    return {
        "format": FORMAT,
        "trial_id": "" if guarded is None else guarded.trial_id,
        "target": "" if guarded is None else guarded.target,
        "deadline_s": 0.0 if guarded is None else guarded.deadline_s + GUARD_SLACK_S,
        "stage": state.stage.value,
        "offer": None if state.offer is None else asdict(state.offer),
        "facts": None if state.facts is None else asdict(state.facts),
        "trial": None if trial is None else asdict(trial),
        "problem": None if problem is None else {"key": problem.key, "params": dict(problem.params)},
        "entered_at": state.entered_at,
        "full_only": state.full_only,
        "failures": state.failures,
        "tries": state.tries,
        "fetched_bytes": state.fetched_bytes,
        "arrived_bytes": state.arrived_bytes,
        "metered_bytes": state.metered_bytes,
    }


def parse(document: object) -> UpdateState:
    found = _mapping(document)
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']}")
    state = UpdateState(
        stage=Stage(found["stage"]),
        offer=_offer(found["offer"]),
        facts=None if found["facts"] is None else parse_facts(found["facts"]),
        trial=None if found["trial"] is None else _trial(found["trial"]),
        problem=None if found["problem"] is None else parse_problem(found["problem"]),
        entered_at=_number(found["entered_at"]),
        full_only=found["full_only"] is True,
        failures=_count(found["failures"]),
        tries=_count(found["tries"]),
        fetched_bytes=_count(found["fetched_bytes"]),
        arrived_bytes=_count(found["arrived_bytes"]),
        # An agent before this one did not count it.
        metered_bytes=_count(found.get("metered_bytes", 0)),
    )
    if state.stage not in RESTING and state.offer is None:
        raise ValueError("no offer")
    if state.stage not in (*RESTING, Stage.OFFERED) and state.facts is None:
        raise ValueError("no facts")
    if state.stage is Stage.TRIAL and state.trial is None:
        raise ValueError("no trial")
    return state


def parse_facts(document: object) -> ReleaseFacts:
    """Facts of a release, as a step in another process tells them. Raises ValueError, KeyError, TypeError."""
    found = _mapping(document)
    return ReleaseFacts(
        version=_text(found["version"]),
        counter=_count(found["counter"]),
        hardware=_texts(found["hardware"]),
        minimum_from=_count(found["minimum_from"]),
        disk_mib=_count(found["disk_mib"]),
        mains_power=found["mains_power"] is True,
        bundle_bytes=_count(found["bundle_bytes"]),
        root_hash=_text(found["root_hash"]),
        full_bytes=_count(found["full_bytes"]),
        delta_bytes=None if found["delta_bytes"] is None else _count(found["delta_bytes"]),
        delta_memory_mib=_count(found["delta_memory_mib"]),
        document_sha256=_text(found["document_sha256"]),
        permitted=found["permitted"] is True,
    )


def parse_problem(document: object) -> Problem:
    """A problem as JSON has it. Raises ValueError, KeyError, TypeError."""
    found = _mapping(document)
    params: dict[str, Parameter] = {
        str(name): value for name, value in _mapping(found["params"]).items() if isinstance(value, str | int | float)
    }
    return Problem(str(found["key"]), params)


def _offer(document: object) -> FirmwareOffer | None:
    return None if document is None else parse_offer(_mapping(document))


def _trial(document: object) -> Trial:
    found = _mapping(document)
    return Trial(
        trial_id=_text(found["trial_id"]),
        target=_text(found["target"]),
        origin=_text(found["origin"]),
        origin_version=_text(found["origin_version"]),
        hold_s=_number(found["hold_s"]),
        deadline_s=_number(found["deadline_s"]),
        silent=_texts(found["silent"]),
        begun_in=_text(found["begun_in"]),
    )


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(_text(item) for item in value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("not a count")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("not a number")
    return float(value)
