"""A router in memory: a disk with two slots, boot blocks read as GRUB reads them, a guard, an agent, a cloud.

The driver under test runs on it unchanged. What a slot's content does after it has booted is said by its Release; the
power can be cut at any act on the disk, before it or after it. The simulation holds what must never happen against
every step (`_watch`), whatever a test does.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from firmware import bootstate
from firmware.bootstate import BootState, Why
from firmware.layout import Slot
from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer
from router_agent.update import journal
from router_agent.update.driver import UpdateDriver
from router_agent.update.health import GRACE_S
from router_agent.update.journal import Journal
from router_agent.update.judge import Device
from router_agent.update.machine import RESTING, BootSight, ReleaseFacts, Stage, UpdateState
from router_agent.update.marks import GUARD, Mark
from router_agent.update.ports import Running, Scene
from router_agent.update.settings import UpdateSettings
from router_agent.update.work import Done, Event, Failed, Fault, Progress, Step

MIB = 1 << 20
HARDWARE = "generic-x86-64"
HEALTH_S, REACH_S = 60.0, 120.0
SETTINGS = UpdateSettings(health_s=HEALTH_S, reach_s=REACH_S)
EPOCH = datetime(2026, 11, 22, 3, 0, tzinfo=UTC).timestamp()
HEARTBEAT_S = 30.0
#: A guard that sees no sign of the agent for this long, or a kernel that does not feed the watchdog, is reset.
HANG_S = 60.0
#: A journal that a failing disk has left.
DAMAGED = "{"
PLC, METER = "192.168.1.20", "192.168.1.30"


class PowerCut(Exception):
    """Everything that is not on the disk is gone."""


@dataclass(frozen=True)
class Release:
    """What a slot holds, and what it does once it has booted: ``ill`` is one of the ways to be bad."""

    counter: int
    ill: str = ""  # kernel, panic, agent, tunnel, device, hang, crash, unsettled

    @property
    def path(self) -> str:
        return f"releases/{HARDWARE}/1.{self.counter}.json"


@dataclass
class SimulatedChild:
    """A step that takes some ticks; then ``end`` says what came of it."""

    ticks: int
    end: Callable[[], Event]
    total: int = 100
    killed: bool = False
    said: bool = False

    def events(self) -> Sequence[Event]:
        if self.killed or self.said:
            return ()
        self.ticks -= 1
        if self.ticks > 0:
            return (Progress(self.total // 2, self.total, self.total // 2),)
        self.said = True
        return (self.end(),)

    def kill(self) -> None:
        self.killed = True


@dataclass
class SimulatedRouter:
    """``cut_at``: acts on the disk until the power fails; ``cut_before``: before or after that act's effect."""

    slots: dict[Slot, Release | None] = field(default_factory=lambda: {Slot.A: Release(1), Slot.B: None})
    releases: dict[str, Release] = field(default_factory=dict)
    steps: dict[Step, list[Failed]] = field(default_factory=dict)
    journal_text: str | None = None
    marks: list[tuple[str, Mark]] = field(default_factory=list)
    copies: list[bytes] = field(
        default_factory=lambda: [bootstate.render(BootState(1, Slot.A, None, frozenset({Slot.A}))), b""]
    )
    attempt: bytes = field(default_factory=lambda: bootstate.render_attempt(bootstate.Attempt()))
    fetched: set[int] = field(default_factory=set)
    assembled: set[int] = field(default_factory=set)
    installed_whole: set[Slot] = field(default_factory=set)
    offer: FirmwareOffer | None = None
    #: Slots that cannot be loaded any more, whatever they hold.
    rotten: set[Slot] = field(default_factory=set)
    online: bool = True
    #: One of the essential devices; all of them, as at night.
    devices_dead: bool = False
    site_dark: bool = False
    visitors: bool = False
    clock: datetime = field(default_factory=lambda: datetime.fromtimestamp(EPOCH, UTC))
    metered: bool = False
    month_left_bytes: int | None = None
    mains: bool | None = True
    settings: UpdateSettings = SETTINGS
    settings_trial: bool = False
    disk_full: bool = False
    free_bytes: int = 4096 * MIB
    cut_at: int | None = None
    cut_before: bool = True
    acts: int = 0
    boots: int = 0
    cause: str = ""
    why: Why = Why.PRIMARY
    slot: Slot = Slot.A
    guard_s: float | None = None
    now: float = 0.0
    healthy_since: float | None = None
    driver: UpdateDriver | None = None
    heartbeat_at: float | None = None
    heard_at: float | None = None
    next_heartbeat: float = 0.0
    alive_at: float = 0.0
    reboot_wanted: bool = False
    tokens: int = 0
    commits: list[int] = field(default_factory=list)
    child: SimulatedChild | None = None

    # The disk

    def act(self, effect: Callable[[], None]) -> None:
        """One write that is on the disk afterwards, or a power cut."""
        self.acts += 1
        cut = self.cut_at is not None and self.acts >= self.cut_at
        if cut:
            self.cut_at = None
        if not (cut and self.cut_before):
            effect()
        if cut:
            raise PowerCut

    def state(self) -> BootState:
        return bootstate.newest(self.copies)[1]

    def _write_state(self, change: Callable[[BootState], BootState]) -> None:
        number, old = bootstate.newest(self.copies)
        new = replace(change(old), seq=old.seq + 1)

        def effect() -> None:
            self.copies[1 - number] = bootstate.render(new)

        self.act(effect)

    # Booting

    def boot(self) -> None:
        """From power on to an agent that runs, or to the next reset."""
        for _ in range(20):
            if self._boot_once():
                return
        raise AssertionError("bricked: no boot of twenty came up")

    def _boot_once(self) -> bool:
        self.boots += 1
        self.now, self.heartbeat_at, self.heard_at, self.healthy_since = 20.0, None, None, None
        self.reboot_wanted, self.driver, self.child = False, None, None
        choice = bootstate.choose(self.copies, self.attempt)
        if choice.note is not None:
            self.attempt = bootstate.render_attempt(choice.note)
        slot, self.why = next(
            (slot, why)
            for slot, why in choice.order
            if (release := self.slots[slot]) is not None and release.ill != "kernel" and slot not in self.rotten
        )
        self.slot = slot
        on_trial = self.why is Why.TRIAL
        trial = self.state().trial
        self.guard_s = trial.seconds if on_trial and trial is not None else None
        if on_trial:
            assert self.guard_s, "a trial without a guard"
            if self.journal_text != DAMAGED:
                assert journal_of(self).stage is Stage.TRIAL, "a trial that the journal knows nothing of"
        release = self.slots[slot]
        assert release is not None
        if release.ill == "panic":
            self.cause = "panic"
            return False
        if on_trial and trial is not None:
            self.marks.append((trial.id, Mark(GUARD, 15.0)))
        if release.ill == "agent":
            self.cause = ""
            return False  # nobody feeds the guard for long: it resets at its deadline
        self._start_agent()
        return True

    def _start_agent(self) -> None:
        release = self.slots[self.slot]
        assert release is not None
        self.driver = UpdateDriver(
            Running(HARDWARE, f"1.{release.counter}", release.counter, self.slot.value),
            "tokyo-1",
            _MemoryJournal(self),
            boot=_Boot(self),
            machine_port=_Machine(self),
            workshop=_Workshop(self),
            neighbours=_Neighbours(self),
            left=_Marks(self),
            token=self._token,
        )
        self.alive_at = self.now
        self.next_heartbeat = self.now + 5
        self.driver.start(self.now, self.clock.timestamp())
        self.cause = ""

    def _token(self) -> str:
        self.tokens += 1
        return f"t{self.tokens}"

    # Running

    def run(self, seconds: float, *, tick_s: float = 4.0) -> None:
        """Let time pass; power cuts and restarts are lived through."""
        end = self.clock.timestamp() + seconds
        while self.clock.timestamp() < end:
            self.tick(tick_s)

    def tick(self, tick_s: float = 4.0) -> None:
        try:
            if self.driver is None:
                self.boot()
            self._tick(tick_s)
        except PowerCut:
            self.power_cut()
        self._watch()

    def power_cut(self) -> None:
        """It comes back at once: nothing but the disk is left."""
        self.driver, self.cause = None, ""

    def restart_agent(self) -> None:
        """Only the agent ends, in good order."""
        if self.driver is not None:
            self.driver.stop()
            self._start_agent()

    def _tick(self, tick_s: float) -> None:
        self.now += tick_s
        self.clock = datetime.fromtimestamp(self.clock.timestamp() + tick_s, UTC)
        release, driver = self.slots[self.slot], self.driver
        assert release is not None and driver is not None
        if release.ill == "crash" and int(self.now) % 20 == 0:
            self.restart_agent()
            driver = self.driver
        if not (release.ill == "hang" and self.now > 40):
            self.alive_at = self.now
            self._agent_tick(driver, release)
        if self.reboot_wanted:
            self.driver, self.cause = None, ""
        elif self._guard_bites():
            self.driver, self.cause = None, "watchdog"

    def _guard_bites(self) -> bool:
        if self.guard_s is None or self.state().primary is self.slot:
            return False
        return self.now > self.guard_s or self.now - self.alive_at > HANG_S

    def _agent_tick(self, driver: UpdateDriver, release: Release) -> None:
        tunnel = self.online and self.now > 30 and release.ill != "tunnel"
        whole = tunnel and self.heartbeat_at is not None and release.ill not in ("unsettled", "device")
        self.healthy_since = (self.healthy_since if self.healthy_since is not None else self.now) if whole else None
        if tunnel and self.now >= self.next_heartbeat:
            self.next_heartbeat = self.now + HEARTBEAT_S
            self.heartbeat_at, self.heard_at = self.now - 1, self.now
            driver.heard(self.offer, self.now)
        driver.step(self.now, self.scene(tunnel, release), 0.5)

    def scene(self, tunnel: bool, release: Release) -> Scene:
        return Scene(
            clock=self.clock,
            timezone="Asia/Tokyo",
            settings=self.settings,
            metered=self.metered,
            month_left_bytes=self.month_left_bytes,
            tunnel_up=tunnel,
            tunnel_down_s=0.0 if tunnel else self.now,
            heartbeat_at=self.heartbeat_at,
            heard_at=self.heard_at,
            heartbeat_s=HEARTBEAT_S,
            configured=release.ill != "unsettled",
            settings_trial=self.settings_trial,
            certificate_trial=False,
            visitors=self.visitors,
        )

    def _silent(self) -> frozenset[str]:
        release = self.slots[self.slot]
        if self.site_dark:
            return frozenset({PLC, METER})
        dead = self.devices_dead or (release is not None and release.ill == "device")
        return frozenset({PLC}) if dead else frozenset()

    # What must never happen

    def _watch(self) -> None:
        state = self.state()
        primary = self.slots[state.primary]
        assert primary is not None, "the first slot is empty"
        assert state.primary in state.good, "the first slot was never committed"
        assert not primary.ill or primary.counter == 1, f"a release that is ill ({primary.ill}) was committed"
        if self.guard_s is None and self.driver is not None and self.why is Why.PRIMARY:
            assert self.slot is state.primary

    def on_commit(self, slot: Slot) -> None:
        if slot is not self.state().primary:
            assert slot is self.slot, "a slot was committed that does not run"
            assert self.healthy_since is not None, "committed without health"
            assert self.now - self.healthy_since >= HEALTH_S - GRACE_S, "committed too early"
            release = self.slots[slot]
            assert release is not None
            self.commits.append(release.counter)

    # A cloud

    def publish(self, counter: int, ill: str = "") -> FirmwareOffer:
        release = Release(counter, ill)
        self.releases[release.path] = release
        return FirmwareOffer(release.path, counter, rollout=f"r{counter}")

    @property
    def now_state(self) -> UpdateState:
        assert self.driver is not None
        return self.driver.state

    def settled(self) -> bool:
        """At rest, in the slot that is the first, with nothing set up."""
        return (
            self.driver is not None
            and self.driver.state.stage in RESTING
            and self.state().trial is None
            and not self.reboot_wanted
        )


def journal_of(router: SimulatedRouter) -> UpdateState:
    """What is in the journal, whoever reads it."""
    return UpdateState() if router.journal_text is None else journal.parse(json.loads(router.journal_text))


class _MemoryJournal(Journal):
    def __init__(self, router: SimulatedRouter) -> None:
        self._router = router

    def load(self) -> UpdateState:
        try:
            return journal_of(self._router)
        except (ValueError, KeyError, TypeError):
            raise StateError("agent.state-unreadable", path="journal.json", reason="damaged") from None

    def save(self, state: UpdateState) -> None:
        router = self._router
        if router.disk_full:
            raise StateError("agent.state-unwritable", path="update", reason="No space left on device")
        text = json.dumps(journal.document(state))

        def effect() -> None:
            router.journal_text = text

        router.act(effect)


class _Boot:
    def __init__(self, router: SimulatedRouter) -> None:
        self._router = router
        self._boot_id = f"boot-{router.boots}"

    def sight(self) -> BootSight:
        state = self._router.state()
        trial = state.trial
        noted = bootstate.parse_attempt(self._router.attempt).trial_id
        return BootSight(
            running=self._router.slot.value,
            primary=state.primary.value,
            trial="" if trial is None else trial.slot.value,
            trial_id="" if trial is None else trial.id,
            attempted=trial is not None and noted == trial.id,
            boot_id=self._boot_id,
        )

    def reset_cause(self) -> str:
        return self._router.cause

    def spoil(self, slot: str) -> None:
        assert slot != self._router.slot.value, "the slot that runs is written"
        assert Slot(slot) is not self._router.state().primary, "the first slot is written"
        self._router._write_state(lambda state: state.marked(Slot(slot), good=False))

    def begin_trial(self, slot: str, trial_id: str, seconds: float) -> None:
        trial = bootstate.Trial(Slot(slot), trial_id, round(seconds))
        assert Slot(slot) in self._router.installed_whole, "a slot is tried that was not verified"
        self._router._write_state(lambda state: state.with_trial(trial))

    def commit(self, slot: str) -> None:
        self._router.on_commit(Slot(slot))
        self._router._write_state(lambda state: state.committed(Slot(slot)))

    def abandon(self) -> None:
        self._router._write_state(lambda state: state.abandoned())


class _Machine:
    def __init__(self, router: SimulatedRouter) -> None:
        self._router = router

    def device(self) -> Device:
        router = self._router
        release = router.slots[router.slot]
        assert release is not None
        return Device(HARDWARE, release.counter, router.free_bytes, 0, 1024, router.mains)

    def clear_payload(self) -> None:
        self._router.fetched.clear()
        self._router.assembled.clear()

    def reboot(self, hard: bool) -> None:
        self._router.reboot_wanted = True


class _Neighbours:
    def __init__(self, router: SimulatedRouter) -> None:
        self._router = router
        self._since: float | None = None

    def step(self, now: float) -> None:
        self._since = now if self._since is None else self._since

    def rest(self) -> None:
        self._since = None

    def silent(self, now: float) -> frozenset[str]:
        return self._router._silent()

    def all_silent(self, now: float) -> bool:
        return self._router._silent() == {PLC, METER}

    def known(self, now: float) -> bool:
        return self._since is not None and now - self._since > 20


class _Marks:
    def __init__(self, router: SimulatedRouter) -> None:
        self._router = router

    def leave(self, trial_id: str, what: str, *, at: float, **params: str) -> None:
        self._router.act(lambda: self._router.marks.append((trial_id, Mark(what, at, params))))

    def read(self, trial_id: str) -> tuple[Mark, ...]:
        return tuple(mark for found, mark in self._router.marks if found == trial_id)

    def clear(self) -> None:
        self._router.act(self._router.marks.clear)


class _Workshop:
    def __init__(self, router: SimulatedRouter) -> None:
        self._router = router

    def start(self, step: Step, request: Mapping[str, object]) -> SimulatedChild:
        router = self._router
        assert router.child is None or router.child.killed or router.child.said, "two children at once"
        release = router.releases[str(request["release"])]
        if step is Step.INSTALL:
            target = Slot(str(request["target"]))
            assert target is not router.slot and target is not router.state().primary
            router.installed_whole.discard(target)
            router.slots[target] = None  # from here on it is half written
        failures = router.steps.get(step, [])

        def end() -> Event:
            if failures:
                return failures.pop(0)
            return _outcome(router, step, release, request)

        router.child = SimulatedChild(3, end)
        return router.child


def _outcome(router: SimulatedRouter, step: Step, release: Release, request: Mapping[str, object]) -> Event:
    lost = Failed(Fault.LOST, Problem("agent.update-step-crashed", {}))
    match step:
        case Step.REFRESH:
            return Done(json.loads(json.dumps({"facts": asdict(facts(release))})))
        case Step.FETCH:
            router.act(lambda: router.fetched.add(release.counter))
            return Done()
        case Step.ASSEMBLE:
            if release.counter not in router.fetched:
                return lost
            router.act(lambda: router.assembled.add(release.counter))
            return Done()
        case Step.INSTALL:
            if release.counter not in router.assembled:
                return lost
            target = Slot(str(request["target"]))
            router.act(lambda: router.slots.__setitem__(target, release))
            router.rotten.discard(target)
            return Done()
        case _:
            target = Slot(str(request["target"]))
            if router.slots[target] != release:
                return lost
            router.installed_whole.add(target)
            return Done()


def facts(release: Release, **changes: object) -> ReleaseFacts:
    """A release document's facts; a delta applies to it."""
    values: dict[str, object] = {
        "version": f"1.{release.counter}",
        "counter": release.counter,
        "hardware": (HARDWARE,),
        "minimum_from": 0,
        "disk_mib": 64,
        "mains_power": True,
        "bundle_bytes": 400 * MIB,
        "root_hash": "ab" * 32,
        "full_bytes": 110 * MIB,
        "delta_bytes": 4 * MIB,
        "delta_memory_mib": 400,
        "document_sha256": "cd" * 32,
        **changes,
    }
    return ReleaseFacts(**values)  # type: ignore[arg-type]
