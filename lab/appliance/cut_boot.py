"""A cut disk, booted: which slot really starts, as what, and what its agent really makes of what it finds.

The machine has no network: the agent recovers without. What it has seen stands in its log, which is read from the disk
as after one more power cut: the machine is halted for a moment and its data partition copied. Its kernel is told, by a
credential of systemd's, to write what is new within a second: else each boot would wait half a minute for it.
"""

import re
import time
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from firmware import layout
from firmware.layout import DATA, MIB
from lab.appliance import data_on_disk
from lab.appliance.data_on_disk import DataFound
from lab.appliance.judge import Verdict
from lab.appliance.machine import Appliance
from lab.network import LabError
from lab.power_cut.disk import copy_part
from router_agent.settings import machine as settings_machine
from router_agent.update.machine import Stage

#: Longest time from power-on to an agent that has looked around, and between two looks at it, in seconds.
BOOT_S = 600.0
LOOK_S = 5.0
#: systemd.system-credentials(7), SMBIOS OEM strings: in hundredths of a second (kernel: admin-guide/sysctl/vm.rst).
_AT_ONCE = "vm.dirty_expire_centisecs=100\nvm.dirty_writeback_centisecs=100\n"

_INITRD = re.compile(r"kyoten: slot ([AB]), (\S+) \((\w+)(?: \S+)?\)")
_STARTED = re.compile(r"agent started: site (\S+),")
_RECOVERED = re.compile(r"update: (\w+), was \w+: (?:None|Problem\(key='([\w.-]+)')")
#: Where an agent without a line gets by itself.
_ONWARD = {
    Stage.JUDGED: {Stage.FETCHING},
    Stage.FETCHING: {Stage.ASSEMBLED, Stage.INSTALLING},
    Stage.ASSEMBLED: {Stage.INSTALLING, Stage.INSTALLED},
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a booted machine showed. ``starts``: slot and why of each kernel that ran, with the slot's version.

    ``recovered``: the stage that the agent changed the update to at its start, empty: it left it; ``problem``: the
    reason it gave. ``stage``, ``site``, ``version``: on the disk afterwards.
    """

    starts: tuple[tuple[str, str, str], ...]
    recovered: str
    problem: str
    stage: str
    site: str
    version: int
    seconds: float


def boot(disk: Path, directory: Path) -> Seen:
    """Power on, and off again as soon as the agent has looked around. Changes the disk. Raises LabError."""
    before = _read(disk, directory / "look")
    # Two processors would spin for each other while another machine has this one's second core.
    machine = _Watched(directory / "machine", disk, processors=1)
    begun = time.monotonic()
    machine.start()
    try:
        machine.wait_for("kyoten: slot", timeout_s=BOOT_S)
        while True:
            found = _look(machine, directory / "look")
            said = _new(before.log, found.log)
            if _STARTED.search(said):
                break
            if not machine.running or time.monotonic() - begun > BOOT_S:
                raise LabError(f"no agent; the console ends with: {machine.console()[-1500:]}")
            time.sleep(LOOK_S)
    finally:
        machine.power_cut()
    return seen(machine.console(), said, found, seconds=round(time.monotonic() - begun, 1))


def seen(console: str, said: str, found: DataFound, *, seconds: float) -> Seen:
    """What console, the agent's new log lines and the disk say. Pure."""
    # Before it says that it has started, the agent says what it has made of the update.
    start = _STARTED.search(said)
    changed = _RECOVERED.search(said[: start.start()] if start else said)
    return Seen(
        starts=tuple((slot, why, version) for slot, version, why in _INITRD.findall(console)),
        recovered="" if changed is None else changed[1],
        problem="" if changed is None else changed[2] or "",
        stage="" if found.update is None else found.update.stage.value,
        site=found.site,
        version=0 if found.settings is None else settings_machine.recover(found.settings).in_force.number,
        seconds=seconds,
    )


def differences(verdict: Verdict, real: Seen) -> list[str]:
    """What the machine did otherwise than was predicted; nothing: they agree. Pure."""
    found = []
    wanted = tuple((slot.value, why.value) for slot, why in verdict.starts)
    if tuple(one[:2] for one in real.starts) != wanted:
        found.append(f"it starts {real.starts}, predicted {wanted}")
    changed = "" if verdict.after is verdict.before else verdict.after.value
    if (real.recovered, real.problem) != (changed, verdict.problem):
        found.append(f"its agent recovers to {real.recovered} {real.problem}, predicted {changed} {verdict.problem}")
    if real.stage not in {stage.value for stage in (verdict.after, *_ONWARD.get(verdict.after, ()))}:
        found.append(f"its update stands at {real.stage}, predicted {verdict.after.value}")
    if (real.site, real.version) != (verdict.site, verdict.version):
        found.append(f"it is {real.site} with settings {real.version}, predicted {verdict.site}, {verdict.version}")
    return found


class _Watched(Appliance):
    """A machine whose kernel keeps nothing to itself for long."""

    def _argv(self, socket: Path) -> list[str]:
        told = b64encode(_AT_ONCE.encode()).decode()
        return [*super()._argv(socket), "-smbios", f"type=11,value=io.systemd.credential.binary:sysctl.extra={told}"]


def _look(machine: Appliance, directory: Path) -> DataFound:
    """The data partition as it would be found if the power failed now."""
    machine.monitor.ask("stop")
    try:
        return _read(machine.disk, directory)
    finally:
        machine.monitor.ask("cont")


def _read(disk: Path, directory: Path) -> DataFound:
    first, size = layout.offset_mib(DATA), layout.size_mib(DATA, disk.stat().st_size // MIB)
    with data_on_disk.place(directory) as (image, files):
        copy_part(disk, image, first * MIB, size * MIB)
        return data_on_disk.read(image, files)


def _new(before: str, after: str) -> str:
    """The lines of a log that were not there before; all of it when it was turned over."""
    return after.removeprefix(before)
