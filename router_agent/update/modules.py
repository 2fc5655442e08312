"""Which small signed modules a router shall have, and whether it may take one. Pure.

A module is a target ``modules/<name>/<version>.json``. Of each name the newest counts (by its counter) that was not
taken back, did not fail here before, and is for this hardware and this agent. Its kind says what it is:

    ca-bundle     certificates of authorities (PEM), for plugins
    modem-table   what modems need that the agent does not know yet (JSON), see firmware/module_content.py
    plugin        a program of one file, run beside the agent with few rights, see module_use.py

None of them becomes part of the agent's own process, so none can stop it by being loaded. One whose use makes the agent
end all the same is taken back by the agent that starts for the third time with it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from firmware.listing import Listed
from firmware.module_content import MODULE_MAX_BYTES
from firmware.release import MODULE_KINDS, Module
from router_agent.problems import Problem


class ModuleStage(Enum):
    """Where a module is; the values are the report's words."""

    #: In use, and the agent has not run for long with it.
    INSTALLED = "installed"
    ACTIVE = "active"
    #: The newest one is not for this router; what was there before stays.
    REFUSED = "refused"
    #: The agent did not come up with it: the one before is in use again.
    RETURNED = "returned"
    #: Taken back by its publisher, and nothing in its place.
    REMOVED = "removed"


#: Kinds this agent knows what to do with.
KINDS = frozenset(MODULE_KINDS)

#: Starts with a module that was never proven before it is taken back.
STARTS_MAX = 2
#: An agent that has run so long with it, and was heard by the cloud, has come up with it. Seconds.
PROVEN_S = 60.0

#: Versions remembered as not good here.
FAILED_MAX = 8

#: What the content itself is refused with.
DAMAGED = "agent.module-damaged"

_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class ModuleState:
    """``version`` is what ``stage`` speaks of; ``current`` is in use, ``previous`` was before it; empty: none.

    ``failed``: versions with which the agent did not come up. ``starts``: of the agent, since it is in use.
    """

    name: str
    kind: str
    version: str
    stage: ModuleStage
    current: str = ""
    previous: str = ""
    failed: tuple[str, ...] = ()
    starts: int = 0
    problem: Problem | None = None


def candidates(listed: Iterable[Listed], name: str, *, yanked: frozenset[str], failed: Sequence[str]) -> list[Listed]:
    """The versions of a module that may be in use here, the best first. ``yanked``: paths that were taken back."""
    fitting = [
        one
        for one in listed
        if one.kind == "modules" and one.name == name and one.path not in yanked and one.version not in failed
    ]
    return sorted(fitting, key=lambda one: one.counter, reverse=True)


def judge(module: Module, *, hardware: str, agent: str) -> Problem | None:
    """Why this router does not take it; None: it does."""
    about: dict[str, str | int | float] = {"module": module.name, "version": module.version}
    wanted = module.applicability
    if module.kind not in KINDS:
        return Problem("agent.module-unknown-kind", {**about, "kind": module.kind})
    if wanted.hardware and hardware not in wanted.hardware:
        return Problem("agent.module-wrong-hardware", {**about, "hardware": hardware})
    if (wanted.agent_from and _key(agent) < _key(wanted.agent_from)) or (
        wanted.agent_below and _key(agent) >= _key(wanted.agent_below)
    ):
        return Problem("agent.module-other-agent", {**about, "agent": agent})
    if module.file.size > MODULE_MAX_BYTES:
        return Problem("agent.module-too-large", {**about, "mib": MODULE_MAX_BYTES >> 20})
    return None


def installed(before: ModuleState | None, module: Module) -> ModuleState:
    """It is in use from now on, and has yet to prove itself."""
    previous = before.current if before is not None else ""
    return ModuleState(
        module.name,
        module.kind,
        module.version,
        ModuleStage.INSTALLED,
        current=module.version,
        previous=previous if previous != module.version else "",
        failed=before.failed if before is not None else (),
    )


def refused(before: ModuleState | None, module: Module, problem: Problem) -> ModuleState:
    """This version is not for this router; what is in use stays in use."""
    base = before or ModuleState(module.name, module.kind, module.version, ModuleStage.REFUSED)
    failed = base.failed
    if problem.key == DAMAGED and module.version not in failed:
        failed = (*failed, module.version)[-FAILED_MAX:]  # it is not fetched again each day
    return replace(base, version=module.version, stage=ModuleStage.REFUSED, problem=problem, failed=failed)


def removed(before: ModuleState) -> ModuleState:
    """It was taken back, and nothing is in its place."""
    return replace(
        before, version=before.current, stage=ModuleStage.REMOVED, current="", previous="", starts=0, problem=None
    )


def started(state: ModuleState) -> ModuleState:
    """The agent starts with it."""
    if not state.current or state.stage is not ModuleStage.INSTALLED:
        return state
    if state.starts < STARTS_MAX:
        return replace(state, starts=state.starts + 1)
    problem = Problem("agent.module-returned", {"module": state.name, "version": state.current})
    return replace(
        state,
        version=state.current,
        stage=ModuleStage.RETURNED,
        current=state.previous,
        previous="",
        failed=(*state.failed, state.current)[-FAILED_MAX:],
        starts=0,
        problem=problem,
    )


def proven(state: ModuleState) -> ModuleState:
    """The agent has come up with it."""
    if state.stage is not ModuleStage.INSTALLED:
        return state
    return replace(state, stage=ModuleStage.ACTIVE, starts=0)


def _key(version: str) -> tuple[int, ...]:
    """Versions in order by their numbers; what is not known (no number) is before all."""
    return tuple(int(number) for number in _NUMBERS.findall(version)[:6])
