"""The child that brings modules up to date: what is published now, against what is here. One after the other.

A module is in use only after its file's hash, its kind's own form and its directory on the disk are right. What goes
wrong with one does not keep the others back.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from firmware import zstd
from firmware.errors import FirmwareError
from firmware.listing import Listed
from firmware.module_content import CONTENT_MAX_BYTES
from firmware.release import File, Module, render_module
from router_agent.errors import AgentError, CloudUnreachableError, StateError
from router_agent.problems import Problem
from router_agent.update import fetch, module_kinds, modules
from router_agent.update.fetch import PayloadSource
from router_agent.update.module_store import ModuleStore
from router_agent.update.modules import ModuleStage, ModuleState

_log = logging.getLogger(__name__)

#: A module that does not come at this pace waits for another day, in seconds without a byte.
_PATIENCE_S = 120.0


class Believed(Protocol):
    """The repository as it is believed now: `firmware.trust.Trust` after a refresh."""

    def listing(self) -> tuple[Listed, ...]:
        """What is published."""
        ...

    def module(self, path: str) -> Module:
        """A document. Raises FirmwareError."""
        ...

    def yanked(self, path: str) -> str | None:
        """Why it was taken back."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """This router. ``rate_bytes_s`` 0: no limit."""

    hardware: str
    agent: str
    rate_bytes_s: float


def run(believed: Believed, store: ModuleStore, here: Here, bring: Callable[[File], bytes]) -> tuple[str, ...]:
    """Bring all modules up to date; the names of those that changed. Raises AgentError: the line, the disk."""
    states = store.states()
    listed = [one for one in believed.listing() if one.kind == "modules"]
    yanked = frozenset(one.path for one in listed if believed.yanked(one.path) is not None)
    names = sorted({one.name for one in listed} | set(states))
    changed = []
    trouble: AgentError | None = None
    for name in names:
        before = states.get(name)
        try:
            after = _bring_up_to_date(name, before, listed, yanked, believed, store, here, bring)
        except (CloudUnreachableError, StateError) as error:
            trouble = error
            continue
        except (AgentError, FirmwareError) as error:
            _log.warning("module %s: %s", name, error)
            continue
        if after is not None and after != before:
            _log.info("module %s %s: %s", name, after.version, after.stage.value)
            changed.append(name)
    if trouble is not None:
        raise trouble
    return tuple(changed)


def _bring_up_to_date(
    name: str,
    before: ModuleState | None,
    listed: Iterable[Listed],
    yanked: frozenset[str],
    believed: Believed,
    store: ModuleStore,
    here: Here,
    bring: Callable[[File], bytes],
) -> ModuleState | None:
    failed = () if before is None else before.failed
    refusal: tuple[Module, Problem] | None = None
    for one in modules.candidates(listed, name, yanked=yanked, failed=failed):
        if before is not None and before.current == one.version:
            return _refused(before, refusal, store)  # what is in use is the best that may be
        module = believed.module(one.path)
        problem = modules.judge(module, hardware=here.hardware, agent=here.agent)
        if problem is None:
            content = bring(module.file)
            problem = module_kinds.wrong(module.kind, content, name=name, version=module.version)
        if problem is not None:
            _log.warning("module %s: %s", name, problem)
            refusal = refusal or (module, problem)
            continue
        after = modules.installed(before, module)
        store.install(name, module.version, content, render_module(module))
        store.use(after)
        return after
    if before is not None and before.current:
        after = modules.removed(before)
        store.use(after)
        return after
    return _refused(before, refusal, store)


def _refused(
    before: ModuleState | None, refusal: tuple[Module, Problem] | None, store: ModuleStore
) -> ModuleState | None:
    """The newest is not for this router: that is reported, and nothing else changes."""
    if refusal is None:
        return before
    after = modules.refused(before, *refusal)
    if after != before and not (before is not None and before.stage is ModuleStage.INSTALLED):
        store.keep(after)
        return after
    return before


def bringer(source: PayloadSource, directory: Path, here: Here) -> Callable[[File], bytes]:
    """Fetches by content into ``directory``, resumed as payloads are."""

    def bring(file: File) -> bytes:
        payload = fetch.fetch(
            file,
            source,
            directory,
            now=time.monotonic,
            sleep=time.sleep,
            report=lambda _progress: None,
            rate_bytes_s=here.rate_bytes_s,
            patience_s=_PATIENCE_S,
        )
        path = directory / fetch.DIRECTORY / payload.file.name
        try:
            if not file.name.endswith(".zst"):
                return path.read_bytes()
            return b"".join(zstd.decompress_file(path, most_bytes=CONTENT_MAX_BYTES))
        except (OSError, zstd.ZstdError, zstd.DamagedError) as error:
            raise AgentError("agent.module-unreadable", file=file.name, reason=str(error)[:150]) from error

    return bring
