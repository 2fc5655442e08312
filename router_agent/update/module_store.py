"""Modules on the disk: ``<state>/modules/<name>/{<version>/content, <version>/module.json, current, state.json}``.

``current`` is a symbolic link that is exchanged in one step; a version's directory gets its name when all that is in it
is on the disk. So a power cut leaves the old module or the new one in use, never a part of one.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from linux.files import flush_directory, write_durably
from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.update.journal import parse_problem
from router_agent.update.modules import ModuleStage, ModuleState

CONTENT, DOCUMENT, CURRENT, STATE = "content", "module.json", "current", "state.json"
FORMAT = 1


class ModuleStore:
    """``directory``: all modules'. Everything that writes raises StateError: the disk is full or read-only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def states(self) -> dict[str, ModuleState]:
        """What is known of each module; one whose state is damaged is known by its link alone."""
        found = {}
        with suppress(OSError):
            for place in sorted(self._directory.iterdir()):
                if place.is_dir() and not place.name.startswith("."):
                    found[place.name] = self._state(place)
        return found

    def content(self, name: str) -> Path | None:
        """What is in use of a module."""
        path = self._directory / name / CURRENT / CONTENT
        return path if path.is_file() else None

    def install(self, name: str, version: str, content: bytes, document: bytes) -> None:
        """Put a version beside those that are there. Nothing is in use by that."""
        place = self._directory / name
        made = place / f".{version}.new"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            flush_directory(self._directory)
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(mode=0o755)
            # Readable by those whom plugins run as; nothing in a module is secret.
            write_durably(made / CONTENT, content, mode=0o644)
            write_durably(made / DOCUMENT, document, mode=0o644)
            if (place / version).exists():
                shutil.rmtree(place / version)
            made.rename(place / version)
            flush_directory(place)
        except OSError as error:
            raise self._unwritable(error) from error

    def use(self, state: ModuleState) -> None:
        """Make ``state.current`` the one in use, and keep the state. Versions that nobody needs go."""
        place = self._directory / state.name
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep(state)
            self._link(place, state.current)
            for found in place.iterdir():
                kept = found.name in (state.current, state.previous, CURRENT, STATE)
                if found.is_dir() and not found.is_symlink() and not kept:
                    shutil.rmtree(found, ignore_errors=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def keep(self, state: ModuleState) -> None:
        """Keep the state; what is in use does not change."""
        try:
            (self._directory / state.name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep(state)
        except OSError as error:
            raise self._unwritable(error) from error

    def mend(self) -> None:
        """A power cut between state and link: the state says what is to be in use."""
        for state in self.states().values():
            place = self._directory / state.name
            if _target(place) != state.current and (not state.current or (place / state.current / CONTENT).is_file()):
                self.use(state)

    def _keep(self, state: ModuleState) -> None:
        problem = state.problem
        document = {
            "format": FORMAT,
            "kind": state.kind,
            "version": state.version,
            "stage": state.stage.value,
            "current": state.current,
            "previous": state.previous,
            "failed": list(state.failed),
            "starts": state.starts,
            "problem": None if problem is None else {"key": problem.key, "params": dict(problem.params)},
        }
        write_durably(self._directory / state.name / STATE, json.dumps(document, indent=1).encode())

    def _link(self, place: Path, version: str) -> None:
        if _target(place) == version:
            return
        if not version:
            (place / CURRENT).unlink(missing_ok=True)
        else:
            fresh = place / ".current.new"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(version)
            fresh.rename(place / CURRENT)
        flush_directory(place)

    def _state(self, place: Path) -> ModuleState:
        try:
            return _parse(place.name, json.loads((place / STATE).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            current = _target(place)
            return ModuleState(place.name, "", current, ModuleStage.INSTALLED, current=current)

    def _unwritable(self, error: OSError) -> StateError:
        reason = error.strerror or type(error).__name__
        return StateError("agent.state-unwritable", path=str(self._directory), reason=reason)


def _parse(name: str, found: Mapping[str, object]) -> ModuleState:
    if found["format"] != FORMAT or not isinstance(found["failed"], list) or not isinstance(found["starts"], int):
        raise ValueError("format")
    problem: Problem | None = None if found["problem"] is None else parse_problem(found["problem"])
    return ModuleState(
        name,
        str(found["kind"]),
        str(found["version"]),
        ModuleStage(found["stage"]),
        current=str(found["current"]),
        previous=str(found["previous"]),
        failed=tuple(str(version) for version in found["failed"]),
        starts=found["starts"],
        problem=problem,
    )


def _target(place: Path) -> str:
    try:
        return str((place / CURRENT).readlink())
    except OSError:
        return ""
