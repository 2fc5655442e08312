"""Desired settings, from stored to confirmed or undone. Pure.

    stored --apply--> trying --confirm--> confirmed
                             --time-out, restart--> reverted (that version is never tried again)

Confirmed means: after the change a fresh probe crossed the tunnel, and after that a heartbeat went through it. A router
that is unsure goes back: it must be reachable before it is right.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from router_agent.problems import Problem
from router_agent.settings.keys import SettingsError, parse


class Stage(Enum):
    """Where a version of the settings is."""

    STORED = "stored"
    TRYING = "trying"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"


class Event(Enum):
    """What happened to it."""

    APPLY = "apply"
    CONFIRM = "confirm"
    UNDO = "undo"


#: Whatever is not in here is a bug.
TRANSITIONS = {
    (Stage.STORED, Event.APPLY): Stage.TRYING,
    (Stage.STORED, Event.UNDO): Stage.REVERTED,
    (Stage.TRYING, Event.CONFIRM): Stage.CONFIRMED,
    (Stage.TRYING, Event.UNDO): Stage.REVERTED,
}

#: However little time the cloud grants: a tunnel takes this long to come back, in seconds.
CONFIRM_LEAST_S = 5.0
CONFIRM_MOST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the settings, as the cloud numbers them. Version 0: nothing was ever set."""

    number: int
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SettingsState:
    """``current`` is confirmed; ``candidate`` is what ``stage`` speaks of, None: nothing new."""

    current: Version = field(default_factory=lambda: Version(0))
    candidate: Version | None = None
    stage: Stage = Stage.CONFIRMED
    confirm_s: float = 0.0
    problem: Problem | None = None

    @property
    def in_force(self) -> Version:
        """What the router shall act on now."""
        return self.candidate if self.stage is Stage.TRYING and self.candidate is not None else self.current

    @property
    def reverted(self) -> Version | None:
        """The version that was undone, until another one is confirmed."""
        return self.candidate if self.stage is Stage.REVERTED else None


def offer(state: SettingsState, version: Version, confirm_s: float) -> SettingsState:
    """The cloud wants this version. What is in force, on trial or was undone already changes nothing."""
    if state.stage is Stage.TRYING or version.number == state.current.number:
        return state
    if state.candidate is not None and version.number == state.candidate.number:
        return state
    stored = replace(
        state,
        candidate=version,
        stage=Stage.STORED,
        confirm_s=min(max(confirm_s, CONFIRM_LEAST_S), CONFIRM_MOST_S),
        problem=None,
    )
    try:
        parse(version.values)
    except SettingsError as error:
        names = ", ".join(error.names)[:200]
        return undo(stored, Problem("agent.settings-refused", {"version": version.number, "names": names}))
    return stored


def begin(state: SettingsState) -> SettingsState:
    """The candidate is about to be applied."""
    return replace(state, stage=TRANSITIONS[state.stage, Event.APPLY])


def confirm(state: SettingsState) -> SettingsState:
    """The cloud was reached with the candidate: it is the current version now."""
    assert state.candidate is not None  # noqa: S101 - holds in every stage that has a transition
    return SettingsState(state.candidate, None, TRANSITIONS[state.stage, Event.CONFIRM])


def undo(state: SettingsState, problem: Problem) -> SettingsState:
    """The candidate is out, for this reason."""
    return replace(state, stage=TRANSITIONS[state.stage, Event.UNDO], problem=problem)


def recover(state: SettingsState) -> SettingsState:
    """At the agent's start: a trial that was interrupted is undone, a version that only was stored is forgotten."""
    if state.stage is Stage.TRYING and state.candidate is not None:
        return undo(state, Problem("agent.settings-interrupted", {"version": state.candidate.number}))
    if state.stage is Stage.STORED:
        return SettingsState(state.current)
    return state


def cut_off(state: SettingsState) -> SettingsState:
    """The cloud was not reached in time with the candidate."""
    assert state.candidate is not None  # noqa: S101 - holds in every stage that has a transition
    params = {"version": state.candidate.number, "confirm_s": round(state.confirm_s)}
    return undo(state, Problem("agent.settings-cut-off", params))


def proven(*, applied_at: float, probed_at: float | None, heartbeat_began_at: float | None) -> bool:
    """Whether the settings in force are proven good: a probe after they were applied, a heartbeat through the tunnel
    that began after the change. Monotonic seconds; None: has not happened."""
    return (
        probed_at is not None
        and heartbeat_began_at is not None
        and probed_at > applied_at
        and heartbeat_began_at >= applied_at
    )
