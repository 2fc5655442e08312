"""What the update needs of the machine: the boot state, the device, the LAN's devices. Small Protocols, ours."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from router_agent.update.judge import Device
from router_agent.update.machine import BootSight
from router_agent.update.marks import Mark
from router_agent.update.settings import UpdateSettings


@dataclass(frozen=True, slots=True)
class Running:
    """The release that runs, as its release file has it, and the slot that it was booted from."""

    hardware: str
    version: str
    counter: int
    slot: str


class Boot(Protocol):
    """The boot state and how this boot came to be. All raise StateError: it cannot be read or written."""

    def sight(self) -> BootSight:
        """What is set up now."""
        ...

    def reset_cause(self) -> str:
        """Why the machine was reset before this boot, as far as it is known (returned.WATCHDOG, PANIC)."""
        ...

    def spoil(self, slot: str) -> None:
        """The slot's content is about to be replaced: nothing boots it."""
        ...

    def begin_trial(self, slot: str, trial_id: str, seconds: float) -> None:
        """The next boot tries the slot, once, guarded for so many seconds after the boot."""
        ...

    def commit(self, slot: str) -> None:
        """This slot from now on."""
        ...

    def abandon(self) -> None:
        """No trial any more."""
        ...


class Machine(Protocol):
    """The machine itself."""

    def device(self) -> Device:
        """What it has now. Raises OSError."""
        ...

    def clear_payload(self) -> None:
        """Give the space back that payload and bundle took. Raises OSError."""
        ...

    def reboot(self, hard: bool) -> None:
        """Restart; ``hard``: without asking anybody, after having asked in vain. Raises LinuxError."""
        ...


class Marks(Protocol):
    """What a trial leaves behind (marks.py). All but `read` raise OSError."""

    def leave(self, trial_id: str, what: str, *, at: float, **params: str) -> None:
        """Append one."""
        ...

    def read(self, trial_id: str) -> tuple[Mark, ...]:
        """Those of this trial."""
        ...

    def clear(self) -> None:
        """Forget all."""
        ...


class Neighbours(Protocol):
    """The LAN's essential devices."""

    def step(self, now: float) -> None:
        """Ask them when it is time."""
        ...

    def rest(self) -> None:
        """Nobody wants to know for now."""
        ...

    def silent(self, now: float) -> frozenset[str]:
        """Those that do not answer."""
        ...

    def all_silent(self, now: float) -> bool:
        """Whether there are some, and none of them answers."""
        ...

    def known(self, now: float) -> bool:
        """Whether they have been asked long enough for `silent` to mean something."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """What the rest of the agent knows at this tick. Seconds are monotonic, which is since the boot.

    ``heartbeat_at``: when the last heartbeat that was answered through the tunnel was written; ``heard_at``: the last
    answer, whichever way. ``month_left_bytes``: of the mobile data budget, None: there is none. ``skew_s``: how far
    the clock is ahead of the cloud's, None: it was not heard since the start. ``visitors``: somebody is logged in on
    the router, over the tunnel or at its serial line.
    """

    clock: datetime
    timezone: str
    settings: UpdateSettings
    metered: bool
    month_left_bytes: int | None
    tunnel_up: bool
    tunnel_down_s: float
    heartbeat_at: float | None
    heard_at: float | None
    heartbeat_s: float
    configured: bool
    settings_trial: bool
    certificate_trial: bool
    skew_s: float | None = None
    visitors: bool = False


def listed(names: Iterable[str]) -> str:
    """Names as one parameter of a text."""
    return ", ".join(sorted(names))[:150]
