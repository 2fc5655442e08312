"""What a router would do with a disk that was cut: which slot starts, with which settings, and how its update goes on.

Read as the machine reads it: the boot loader by `firmware.bootstate.choose` and its own sums, the initial RAM disk by
the slot block and e2fsck, the agent by its own code. A verdict says what must be seen when that disk is booted; `cuts`
boots some of them and holds them against it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from firmware import bootstate, layout
from firmware.bootstate import BootState, DamagedError, Why
from firmware.layout import ATTEMPT_SECTOR, BOOTSTATE, MIB, SECTOR_BYTES, STATE_BYTES, STATE_COPY_SECTORS, Slot
from lab.appliance import data_on_disk
from lab.appliance.data_on_disk import DataFound
from lab.appliance.slot_on_disk import SlotFound, SlotOnDisk
from lab.power_cut.disk import Disk
from router_agent.settings import machine as settings_machine
from router_agent.settings.machine import Version
from router_agent.update import machine, returned
from router_agent.update.machine import BootSight, Stage, UpdateState

#: Starts of a machine until it runs something. Three of one slot that does not come up, then the other.
STARTS_MAX = 6

#: The one that this power cut ends was another boot: no boot has this id.
_BOOT_ID = "after the cut"

Start = tuple[Slot, Why]


@dataclass(frozen=True, slots=True)
class Promised:
    """What the router has once written down for good: it must never be without it again."""

    site: str = ""
    settings: Version | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One cut disk, judged.

    ``starts``: what the boot loader jumps into, in order; the last one runs, unless ``slot`` is None. ``whole``: these
    and all others that it may start are what their verity trees say. ``before``: the update's stage on the disk, None
    if that cannot be read; ``after``: from where the agent goes on; ``problem``: the reason that it gives for having
    changed it. ``tidies``: it takes away a trial that was set up. ``version``: of the settings that are in force then.
    ``mended``: the data partition needed more than its journal. ``wrong``: everything that must not be.
    """

    starts: tuple[Start, ...]
    slot: Slot | None
    whole: bool
    site: str
    site_kept: bool
    version: int
    settings_kept: bool
    before: Stage | None
    after: Stage
    problem: str
    tidies: bool
    mended: bool
    wrong: tuple[str, ...]

    @property
    def bricked(self) -> bool:
        """Somebody has to drive there, or may have to when the next thing fails."""
        return self.slot is None or not self.whole or not self.site_kept

    @property
    def why(self) -> Why | None:
        """Why the slot that runs was started."""
        return self.starts[-1][1] if self.slot is not None else None


def document(verdict: Verdict) -> dict[str, object]:
    """A verdict as JSON has it."""
    return asdict(verdict) | {
        "before": None if verdict.before is None else verdict.before.value,
        "after": verdict.after.value,
    }


def parse(document: object) -> Verdict:
    """The verdict that `document` has made this of. Raises ValueError, KeyError, TypeError: none."""
    if not isinstance(document, dict):
        raise TypeError("not an object")
    found = dict(document)
    found["starts"] = tuple((Slot(slot), Why(why)) for slot, why in found["starts"])
    found["slot"] = None if found["slot"] is None else Slot(found["slot"])
    found["before"] = None if found["before"] is None else Stage(found["before"])
    found["after"] = Stage(found["after"])
    found["wrong"] = tuple(found["wrong"])
    return Verdict(**found)


class Judge:
    """Judges one disk after the other, each a cut of the same run. ``directory``: for what is read; emptied by nobody
    else, on a fast disk."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._slots = {slot: SlotOnDisk(disk, slot) for slot in Slot}
        self._promised = Promised()
        first = layout.offset_mib(layout.DATA)
        self._data = (first * MIB, layout.size_mib(layout.DATA, disk.size // MIB) * MIB)

    def judge(self, *, safe: bool) -> Verdict:
        """The disk as it is now. ``safe``: all of it was flushed, so what it promises holds from here on."""
        changed = self._disk.take_changed()
        for slot in self._slots.values():
            slot.forget(changed)
        found = self._read_data()
        verdict = judged(self._copies(), self._attempt(), self._look, found, self._promised)
        if safe and found.settings is not None and verdict.site:
            self._promised = Promised(verdict.site, found.settings.current)
        return verdict

    def slot(self, slot: Slot) -> SlotFound:
        """What is in a slot now."""
        return self._look(slot)

    def _look(self, slot: Slot) -> SlotFound:
        return self._slots[slot].look()

    def _read_data(self) -> DataFound:
        with data_on_disk.place(self._directory) as (image, files):
            self._disk.save(image, *self._data)
            return data_on_disk.read(image, files)

    def _copies(self) -> tuple[bytes, ...]:
        return tuple(self._block(sector) for sector in STATE_COPY_SECTORS)

    def _attempt(self) -> bytes:
        return self._block(ATTEMPT_SECTOR)

    def _block(self, sector: int) -> bytes:
        return self._disk.read(layout.offset_mib(BOOTSTATE) * MIB + sector * SECTOR_BYTES, STATE_BYTES)


def judged(
    copies: Sequence[bytes], attempt: bytes, look: Callable[[Slot], SlotFound], data: DataFound, promised: Promised
) -> Verdict:
    """What becomes of these boot blocks, slots and data."""
    starts, slot, attempt = _starts(copies, attempt, look)
    state = _state(copies, slot)
    before = UpdateState() if data.update is None else data.update
    after, tidies = before, False
    wrong = list(data.damage)
    if slot is None:
        wrong.append("no slot starts")
    else:
        sight = _sight(state, attempt, slot)
        after = _recovered(before, sight, data, look(slot))
        tidies = machine.leftover(after, sight)
        wrong += _unbacked(after, state, slot, look)
    torn = [one for one in sorted(_startable(state) | {one for one, _why in starts}) if not look(one).whole]
    wrong += [f"slot {one} may start and is not whole: {look(one).damage}" for one in torn]
    settings = data.settings
    kept = settings is not None and _follows(settings.current, promised.settings)
    site_kept = data.usable and data.site == (promised.site or data.site)
    if not kept:
        wrong.append(f"settings that were promised: {promised.settings}")
    if not site_kept:
        wrong.append(f"the identity of {promised.site} was promised")
    if data.usable and not data.sound:
        wrong.append("the data partition is mended and not sound")
    return Verdict(
        starts=starts,
        slot=slot,
        whole=not torn,
        site=data.site,
        site_kept=site_kept,
        version=0 if settings is None else settings_machine.recover(settings).in_force.number,
        settings_kept=kept,
        before=None if data.update is None else before.stage,
        after=after.stage,
        problem="" if after is before or after.problem is None else after.problem.key,
        tidies=tidies,
        mended=data.mended,
        wrong=tuple(wrong),
    )


def _starts(
    copies: Sequence[bytes], attempt: bytes, look: Callable[[Slot], SlotFound]
) -> tuple[tuple[Start, ...], Slot | None, bytes]:
    """What is started until something runs, what that is, and the boot loader's note then."""
    starts: list[Start] = []
    for _ in range(STARTS_MAX):
        choice = bootstate.choose(copies, attempt)
        if choice.note is not None:
            attempt = bootstate.render_attempt(choice.note)
        loaded = next((one for one in choice.order if look(one[0]).loadable), None)
        if loaded is None:
            break
        starts.append(loaded)
        # A block that is not what was signed restarts the machine, sooner or later.
        if look(loaded[0]).whole:
            return tuple(starts), loaded[0], attempt
    return tuple(starts), None, attempt


def _state(copies: Sequence[bytes], running: Slot | None) -> BootState:
    """The state that counts; where none can be read, the one that `BootStore.booted_ok` makes."""
    try:
        return bootstate.newest(copies)[1]
    except DamagedError:
        slot = running or Slot.A
        return BootState(1, slot, None, frozenset({slot}))


def _startable(state: BootState) -> set[Slot]:
    """Slots that the boot loader would start as more than a last resort."""
    return {state.primary, *state.good, *([] if state.trial is None else [state.trial.slot])}


def _sight(state: BootState, attempt: bytes, running: Slot) -> BootSight:
    """What the agent sees of this start (`appliance.LinuxBoot.sight`)."""
    trial = state.trial
    try:
        noted: str | None = bootstate.parse_attempt(attempt).trial_id
    except DamagedError:
        noted = None
    return BootSight(
        running=running.value,
        primary=state.primary.value,
        trial="" if trial is None else trial.slot.value,
        trial_id="" if trial is None else trial.id,
        attempted=trial is not None and noted in (trial.id, None),
        boot_id=_BOOT_ID,
    )


def _recovered(before: UpdateState, sight: BootSight, data: DataFound, running: SlotFound) -> UpdateState:
    """What the agent makes of it at its start (`UpdateDriver.start`)."""
    trial = before.trial if before.stage is Stage.TRIAL else None
    version = "" if before.facts is None else before.facts.version
    why = returned.why(trial, data.marks, "", version)
    return machine.recover(before, sight, why, running_counter=running.counter, at=before.entered_at)


def _unbacked(after: UpdateState, state: BootState, running: Slot, look: Callable[[Slot], SlotFound]) -> list[str]:
    """What the agent believes of its update and the disk does not bear out."""
    facts = after.facts
    match after.stage:
        case Stage.INSTALLED | Stage.TRIAL:
            target = running.other if after.trial is None else Slot(after.trial.target)
            found = look(target)
            if facts is None or (found.whole, found.root_hash) != (True, facts.root_hash):
                return [f"{after.stage.value}, and slot {target} does not hold the release: {found.damage}"]
        case Stage.COMMITTED:
            if state.primary is not running or (facts is not None and look(running).counter != facts.counter):
                return [f"committed, and slot {running} runs counter {look(running).counter}"]
        case _:
            pass
    return []


def _follows(found: Version, promised: Version | None) -> bool:
    """Whether these settings are the promised ones, or newer."""
    return promised is None or found == promised or found.number > promised.number
