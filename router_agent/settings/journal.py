"""The settings' state on disk, ``<state>/settings.json``: written durably before the router is changed."""

import json
from collections.abc import Mapping
from pathlib import Path

from linux.files import write_durably
from router_agent.errors import Parameter, StateError
from router_agent.problems import Problem
from router_agent.settings.machine import SettingsState, Stage, Version

FORMAT = 1


class Journal:
    """Reads and writes the state."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "settings.json"

    def load(self) -> SettingsState:
        """The state as it was written last; the one of a new router when there is none.

        Raises StateError: the file cannot be read or is damaged. The router then runs with its bundle's settings.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return SettingsState()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(getattr(error, "strerror", None) or "not text") from error
        try:
            return _parse(json.loads(text))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._unreadable("damaged") from error

    def save(self, state: SettingsState) -> None:
        """Write the state. Raises StateError: the disk is full or read-only; the old state is whole then."""
        problem = state.problem
        document = {
            "format": FORMAT,
            "current": _version(state.current),
            "candidate": None if state.candidate is None else _version(state.candidate),
            "stage": state.stage.value,
            "confirm_s": state.confirm_s,
            "problem": None if problem is None else {"key": problem.key, "params": dict(problem.params)},
        }
        try:
            write_durably(self._path, json.dumps(document, indent=1).encode())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StateError("agent.state-unwritable", path=str(self._path.parent), reason=reason) from error

    def _unreadable(self, reason: str) -> StateError:
        return StateError("agent.state-unreadable", path=str(self._path), reason=reason)


def _version(version: Version) -> dict[str, object]:
    return {"version": version.number, "values": dict(version.values)}


def _parse(document: object) -> SettingsState:
    fields = _mapping(document)
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}")
    confirm_s = fields["confirm_s"]
    if not isinstance(confirm_s, int | float):
        raise TypeError("confirm_s")
    return SettingsState(
        current=_parse_version(fields["current"]),
        candidate=None if fields["candidate"] is None else _parse_version(fields["candidate"]),
        stage=Stage(fields["stage"]),
        confirm_s=confirm_s,
        problem=None if fields["problem"] is None else _parse_problem(fields["problem"]),
    )


def _parse_version(document: object) -> Version:
    fields = _mapping(document)
    number = fields["version"]
    if not isinstance(number, int):
        raise TypeError("version")
    return Version(number, _mapping(fields["values"]))


def _parse_problem(document: object) -> Problem:
    fields = _mapping(document)
    params: dict[str, Parameter] = {
        name: value for name, value in _mapping(fields["params"]).items() if isinstance(value, str | int | float)
    }
    return Problem(str(fields["key"]), params)


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value
