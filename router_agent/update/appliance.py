"""This machine as the update sees it: what runs, what it has, how it boots. The only place that touches it for that."""

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from firmware.layout import Slot
from linux.runner import Runner
from router_agent.crash import kernel
from router_agent.errors import StateError
from router_agent.update import slots
from router_agent.update.bootstore import BootStore
from router_agent.update.judge import Device
from router_agent.update.machine import BootSight
from router_agent.update.ports import Running
from router_agent.update.slots import Booted

_log = logging.getLogger(__name__)

#: Which release runs: JSON with hardware, version, counter, created (seconds since 1970), in the image.
RELEASE = Path("/usr/lib/kyoten/release.json")
#: The root of trust that came with the image.
TRUSTED_ROOT = Path("/usr/lib/kyoten/trust/root.json")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Why the last boot ended, written by the initial RAM disk: "watchdog". Left away where nothing is known.
_BOOT_STATUS = Path("/run/kyoten/boot-status")
_POWER = Path("/sys/class/power_supply")
_MEMINFO = Path("/proc/meminfo")

#: Memory that putting a delta together leaves to everything else, in MiB.
_MEMORY_RESERVE_MIB = 64


def running(release: Path = RELEASE) -> tuple[Running, Booted] | None:
    """What runs here; None: not an image of ours, or one that does not know what it is: nothing is updated then."""
    booted = slots.booted()
    if booted is None:
        return None
    try:
        found = json.loads(release.read_text(encoding="utf-8"))
        counter = found["counter"]
        if not isinstance(counter, int):
            raise TypeError("counter")
        return Running(str(found["hardware"]), str(found["version"]), counter, booted.slot.value), booted
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.error("%s: %s", release, error)
        return None


def built_at(release: Path = RELEASE) -> datetime:
    """When the image was built. Raises OSError, ValueError."""
    try:
        return datetime.fromtimestamp(int(json.loads(release.read_text(encoding="utf-8"))["created"]), UTC)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


class LinuxBoot:
    """The boot state on its partition, and how the kernel was started."""

    def __init__(self, booted: Booted, store: BootStore, *, records: tuple[Path, ...] = kernel.PSTORE) -> None:
        """``records``: where a kernel that fell may have left some, for crash reports to take away soon."""
        self._booted = booted
        self._store = store
        self._reset_cause = "panic" if any(True for _ in kernel.leftovers(records)) else _text(_BOOT_STATUS)

    def sight(self) -> BootSight:
        """What is set up now. A note of the boot loader that is damaged counts as: it has begun the trial."""
        state = self._store.read()
        noted = self._store.attempted()
        trial = state.trial
        return BootSight(
            running=self._booted.slot.value,
            primary=state.primary.value,
            trial="" if trial is None else trial.slot.value,
            trial_id="" if trial is None else trial.id,
            attempted=trial is not None and noted in (trial.id, None),
            boot_id=_text(_BOOT_ID),
        )

    def reset_cause(self) -> str:
        """``panic``, ``watchdog``, or empty: as it was when this was made."""
        return self._reset_cause

    def spoil(self, slot: str) -> None:
        """Nothing boots it from now on."""
        self._store.mark(Slot(slot), good=False)

    def begin_trial(self, slot: str, trial_id: str, seconds: float) -> None:
        """The next boot tries it."""
        try:
            self._store.begin_trial(Slot(slot), trial_id, seconds)
        except ValueError as error:
            raise StateError("agent.boot-state-unwritable", path=str(slot), reason=str(error)) from error

    def commit(self, slot: str) -> None:
        """This slot from now on."""
        self._store.commit(Slot(slot))

    def abandon(self) -> None:
        """No trial any more."""
        self._store.abandon()


class LinuxMachine:
    """``state``: the agent's state directory; ``reboot_program`` instead of systemd's."""

    def __init__(self, running: Running, state: Path, runner: Runner, reboot_program: Path | None) -> None:
        self._running = running
        self._directory = state / "update"
        self._runner = runner
        self._reboot_program = reboot_program

    def device(self) -> Device:
        """What it has now. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = os.statvfs(self._directory)
        return Device(
            hardware=self._running.hardware,
            counter=self._running.counter,
            free_bytes=room.f_bavail * room.f_frsize,
            have_bytes=_stored_bytes(self._directory),
            memory_mib=max(0, _memory_mib() - _MEMORY_RESERVE_MIB),
            mains=_mains(_POWER),
        )

    def clear_payload(self) -> None:
        """Remove payload and bundle. Raises OSError."""
        from router_agent.update import assemble  # once an update; what it needs takes a while to load

        assemble.clear(self._directory)

    def reboot(self, hard: bool) -> None:
        """Restart. Raises LinuxError."""
        if self._reboot_program is not None and not hard:
            self._runner.run([str(self._reboot_program)])
        else:
            # --force --force: nothing is asked and nothing stopped (systemctl(1)); file systems are flushed first.
            self._runner.run(["systemctl", "reboot", *(["--force", "--force"] if hard else ["--no-block"])])


def _stored_bytes(directory: Path) -> int:
    """What payload and bundle take on the disk. Files grow meanwhile: holes are not counted."""
    total = 0
    for place in (directory / "payload", directory):
        with suppress(OSError):
            for found in os.scandir(place):
                with suppress(OSError):
                    if found.is_file(follow_symlinks=False):
                        total += found.stat().st_blocks * 512
    return total


def _memory_mib() -> int:
    """MemAvailable (proc(5))."""
    for line in _text(_MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _mains(power: Path) -> bool | None:
    """Whether mains power is there (kernel: sysfs-class-power, type and online); None: the machine does not say."""
    known = []
    with suppress(OSError):
        for supply in power.iterdir():
            if _text(supply / "type") in ("Mains", "USB"):
                known.append(_text(supply / "online") == "1")
    return any(known) if known else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
