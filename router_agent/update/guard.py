"""The guard of a trial: feeds the hardware watchdog while the trial may go on, and not a moment longer.

On a trial systemd does not touch the watchdog (the boot loader tells it so), the initial RAM disk has started it, and
this process, begun before anything else, is the only one that feeds it. It stops when the deadline has passed without a
commit, or when the agent, having once run, stands still. Then it restarts the machine, and if even that hangs, the
watchdog does. The boot loader starts the old slot.

The guard trusts nothing that the new release may have broken: no agent, no network, no journal of the update, no clock
but the kernel's time since its start.
"""

import fcntl
import logging
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from router_agent.errors import StateError
from router_agent.update import marks, slots
from router_agent.update.bootstore import BootStore
from router_agent.update.slots import BootedTrial

STATE = Path("/var/lib/kyoten-agent")
#: Touched by the agent each time it has gone round.
ALIVE = Path("/run/kyoten-agent/agent.alive")
WATCHDOG = Path("/dev/watchdog")
SYSRQ = Path("/proc/sysrq-trigger")

#: Seconds between two looks, and until a watchdog that is not fed bites.
STEP_S = 5.0
WATCHDOG_S = 60
#: An agent that has not gone round for this long stands still. The slowest round that was seen took four seconds.
STILL_S = 60.0
#: What may be written to the disk before the restart, in seconds.
SYNC_S = 2.0

#: linux/watchdog.h: _IOWR('W', 6, int).
_WDIOC_SETTIMEOUT = 0xC0045706

_log = logging.getLogger(__name__)


class Verdict(Enum):
    """What the guard does next; the values are marks' words."""

    FEED = "feed"
    DEADLINE = "deadline"
    STILL = "still"


@dataclass(frozen=True, slots=True)
class Agent:
    """What was seen of the agent: its last sign, whatever it is, and when the guard saw it come."""

    sign: int | None = None
    seen_at: float = 0.0

    def look(self, sign: int | None, now: float) -> "Agent":
        """What is known after another look. A file's own time is no measure: the clock is set during a trial."""
        return self if sign is None or sign == self.sign else Agent(sign, now)


def judge(trial: BootedTrial, agent: Agent, *, committed: bool, now: float) -> Verdict:
    """Whether the watchdog is fed now. ``now``: seconds since the kernel's start."""
    if agent.sign is not None and now - agent.seen_at > STILL_S:
        return Verdict.STILL
    return Verdict.FEED if committed or now <= trial.seconds else Verdict.DEADLINE


class Machine(Protocol):
    """What the guard touches."""

    def now(self) -> float:
        """Seconds since the kernel's start."""
        ...

    def wait(self, seconds: float) -> None:
        """Do nothing."""
        ...

    def feed(self) -> None:
        """Tell the watchdog that all is well."""
        ...

    def sign(self) -> int | None:
        """The agent's last sign of life; None: none yet."""
        ...

    def committed(self) -> bool:
        """Whether the slot that runs is the primary by now."""
        ...

    def mark(self, what: str) -> None:
        """Leave a mark for the old slot."""
        ...

    def restart(self) -> None:
        """Restart without asking anybody."""
        ...


def run(trial: BootedTrial, machine: Machine) -> None:
    """Until the trial is over in one way or the other; after a commit the guard goes on feeding until the next boot."""
    agent, committed = Agent(), False
    machine.feed()
    machine.mark(marks.GUARD)
    while True:
        now = machine.now()
        agent = agent.look(machine.sign(), now)
        committed = committed or machine.committed()
        verdict = judge(trial, agent, committed=committed, now=now)
        if verdict is not Verdict.FEED:
            machine.mark(verdict.value)
            machine.restart()
            return
        machine.feed()
        machine.wait(STEP_S)


class LinuxMachine:
    """This machine."""

    def __init__(self, trial: BootedTrial, committed: Callable[[], bool]) -> None:
        self._trial_id = trial.id
        self._committed = committed
        self._watchdog = _open_watchdog()

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def feed(self) -> None:
        if self._watchdog is not None:
            # Never a "V": that would let the watchdog be switched off by whoever closes it.
            os.write(self._watchdog, b"\0")

    def sign(self) -> int | None:
        try:
            return ALIVE.stat().st_mtime_ns
        except OSError:
            return None

    def committed(self) -> bool:
        try:
            return self._committed()
        except StateError as error:
            _log.error("%s", error)
            return False

    def mark(self, what: str) -> None:
        try:
            marks.leave(STATE, self._trial_id, what, at=self.now())
        except OSError as error:
            _log.error("no mark %s: %s", what, error)

    def restart(self) -> None:
        _log.critical("the trial is over: restarting into the old slot")
        for order, wait_s in (("s", SYNC_S), ("b", 0.0)):
            # Emergency sync, then reset: neither waits for anything that hangs (kernel: admin-guide/sysrq.rst).
            SYSRQ.write_text(order)
            time.sleep(wait_s)


def _open_watchdog() -> int | None:
    try:
        descriptor = os.open(WATCHDOG, os.O_WRONLY | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, _WDIOC_SETTIMEOUT, struct.pack("i", WATCHDOG_S))
    except OSError as error:
        # Then nobody resets a machine that hangs; one that does not, the guard still takes back.
        _log.error("no watchdog: %s", error)
        return None
    return descriptor


def main(argv: Sequence[str] | None = None, *, command_line: Path = slots.COMMAND_LINE) -> int:
    """The program. Ends at once where there is no trial."""
    del argv
    logging.basicConfig(format="kyoten-trial-guard: %(message)s", level=logging.INFO)
    booted = slots.booted(command_line)
    if booted is None or booted.trial is None:
        return 0
    store = BootStore()

    def committed() -> bool:
        state = store.read()
        return state.primary is booted.slot and state.trial is None

    _log.info("trial %s: %d s from the kernel's start on", booted.trial.id, booted.trial.seconds)
    run(booted.trial, LinuxMachine(booted.trial, committed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
