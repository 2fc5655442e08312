"""Small signed modules: which one is in use, what is refused, what is taken back, and that it happens in one step."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from simulated_router import HARDWARE, SimulatedRouter

from firmware.errors import TrustError
from firmware.listing import Listed
from firmware.release import File, Module, ModuleApplicability
from router_agent.errors import CloudUnreachableError, StateError
from router_agent.problems import Problem
from router_agent.update import module_kinds, module_step, modules
from router_agent.update.module_keeper import ModuleKeeper
from router_agent.update.module_step import Here
from router_agent.update.module_store import ModuleStore
from router_agent.update.module_use import ModuleUse, texts
from router_agent.update.modules import ModuleStage
from router_agent.update.work import Done, Event, Failed, Fault, Step

TABLE = b'{"modems": {"EC25": {"init": ["AT+QCFG=\\"nwscanmode\\",0"]}}}'
HERE = Here(HARDWARE, "0.2.0", 0.0)
#: The scene that any running agent sees.
SCENE = SimulatedRouter()


def module(name: str = "modems", counter: int = 1, kind: str = "modem-table", **wanted: object) -> Module:
    applicability = ModuleApplicability(**{"hardware": (), "agent_from": "", "agent_below": "", **wanted})  # type: ignore[arg-type]
    digest = hashlib.sha256(f"{name} {counter}".encode()).hexdigest()
    file = File(f"{digest}.bin", 100, digest, 4096, (digest,))
    return Module(name, f"1.{counter}", counter, "2026-11-22T09:30:00Z", kind, applicability, file, "")


@dataclass
class Repository:
    """What is published: modules with their content."""

    published: dict[str, tuple[Module, bytes]] = field(default_factory=dict)
    taken_back: dict[str, str] = field(default_factory=dict)
    brought: list[str] = field(default_factory=list)
    unreachable: bool = False

    def publish(self, made: Module, content: bytes = TABLE) -> None:
        self.published[f"modules/{made.name}/{made.version}.json"] = (made, content)

    def listing(self) -> tuple[Listed, ...]:
        return tuple(
            Listed(path, "modules", made.name, made.version, made.counter, 0, made.kind)
            for path, (made, _) in self.published.items()
        )

    def module(self, path: str) -> Module:
        if path not in self.published:
            raise TrustError("firmware.not-published", path=path)
        return self.published[path][0]

    def yanked(self, path: str) -> str | None:
        return self.taken_back.get(path)

    def bring(self, file: File) -> bytes:
        if self.unreachable:
            raise CloudUnreachableError("agent.cloud-unreachable", endpoint="x", reason="y")
        self.brought.append(file.name)
        return next(content for made, content in self.published.values() if made.file == file)

    def run(self, store: ModuleStore) -> tuple[str, ...]:
        return module_step.run(self, store, HERE, self.bring)


@pytest.fixture
def store(tmp_path: Path) -> ModuleStore:
    return ModuleStore(tmp_path / "modules")


def in_use(store: ModuleStore, name: str = "modems") -> bytes | None:
    path = store.content(name)
    return None if path is None else path.read_bytes()


def test_a_published_module_is_in_use_and_a_newer_one_takes_its_place(store: ModuleStore) -> None:
    repository = Repository()
    repository.publish(module())
    assert repository.run(store) == ("modems",)
    assert in_use(store) == TABLE
    newer = TABLE.replace(b"EC25", b"EC21")
    repository.publish(module(counter=2), newer)
    assert repository.run(store) == ("modems",)
    assert in_use(store) == newer
    state = store.states()["modems"]
    assert (state.current, state.previous, state.stage) == ("1.2", "1.1", ModuleStage.INSTALLED)
    assert repository.run(store) == () and len(repository.brought) == 2, "nothing is fetched twice"


def test_what_was_taken_back_gives_way_to_the_one_before_or_to_nothing(store: ModuleStore) -> None:
    repository = Repository()
    repository.publish(module())
    repository.publish(module(counter=2), TABLE + b" ")
    repository.run(store)
    assert in_use(store) == TABLE + b" "
    repository.taken_back["modules/modems/1.2.json"] = "wrong"
    repository.run(store)
    assert in_use(store) == TABLE
    repository.published.clear()
    assert repository.run(store) == ("modems",)
    assert in_use(store) is None
    assert store.states()["modems"].stage is ModuleStage.REMOVED


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (module(kind="kernel"), "unknown-kind"),
        (module(hardware=("generic-arm64",)), "wrong-hardware"),
        (module(agent_from="0.3"), "other-agent"),
        (module(agent_below="0.2.0"), "other-agent"),
        (replace(module(), file=replace(module().file, size=modules.MODULE_MAX_BYTES + 1)), "too-large"),
    ],
)
def test_a_module_that_is_not_for_this_router_is_refused_before_it_travels(
    store: ModuleStore, made: Module, key: str
) -> None:
    repository = Repository()
    repository.publish(made)
    repository.run(store)
    state = store.states()["modems"]
    assert state.stage is ModuleStage.REFUSED and in_use(store) is None and repository.brought == []
    assert state.problem is not None and state.problem.key == f"agent.module-{key}"


def test_the_newest_that_fits_is_in_use_and_the_newer_ones_refusal_is_told(store: ModuleStore) -> None:
    repository = Repository()
    repository.publish(module())
    repository.publish(module(counter=2, agent_from="9"))
    repository.run(store)
    assert in_use(store) == TABLE
    store.use(modules.proven(store.states()["modems"]))
    repository.run(store)
    state = store.states()["modems"]
    assert (state.current, state.version, state.stage) == ("1.1", "1.2", ModuleStage.REFUSED)
    assert in_use(store) == TABLE


def test_bounds_of_the_agents_version_are_compared_as_numbers() -> None:
    made = module(agent_from="0.2", agent_below="0.10")
    for agent, fits in (("0.2.0", True), ("0.9.9", True), ("0.10.0", False), ("0.1", False), ("unknown", False)):
        assert (modules.judge(made, hardware=HARDWARE, agent=agent) is None) is fits, agent


def test_content_that_is_not_its_kind_is_refused_once_and_not_fetched_again(store: ModuleStore) -> None:
    repository = Repository()
    repository.publish(module(), b"no table")
    repository.run(store)
    repository.run(store)
    assert store.states()["modems"].stage is ModuleStage.REFUSED
    assert len(repository.brought) == 1


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("modem-table", b'{"modems": {"X": {"init": ["rm -rf /"]}}}'),
        ("modem-table", b'{"modems": []}'),
        ("modem-table", b"\xff"),
        *(
            ("modem-table", json.dumps({"modems": {"X": {"init": [command]}}}).encode())
            for command in (
                "AT+CFUN=4",
                "AT+COPS=2",
                "AT&W",
                "ATZ",
                "ATE0;+CFUN=0",
                "AT+CPIN=1",
                "ATD*99#",
                "AT+IPR=300",
            )
        ),
        ("ca-bundle", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("ca-bundle", b""),
        ("plugin", b"def f(:\n"),
        ("plugin", b"\0"),
    ],
)
def test_each_kind_has_its_form(kind: str, content: bytes) -> None:
    problem = module_kinds.wrong(kind, content, name="x", version="1.1")
    assert problem is not None and problem.key == "agent.module-damaged"


def test_one_that_does_not_come_keeps_no_other_back(store: ModuleStore) -> None:
    repository = Repository()
    repository.publish(module())
    repository.publish(module("probe", kind="plugin"), b"print(1)")
    repository.published["modules/zzz/1.json"] = (module("zzz"), b"junk")
    repository.run(store)
    assert in_use(store) == TABLE and in_use(store, "probe") == b"print(1)"
    repository.unreachable = True
    repository.publish(module(counter=2))
    with pytest.raises(CloudUnreachableError):
        repository.run(store)
    assert in_use(store) == TABLE


def test_a_power_cut_between_state_and_link_is_mended(store: ModuleStore, tmp_path: Path) -> None:
    repository = Repository()
    repository.publish(module())
    repository.run(store)
    repository.publish(module(counter=2), TABLE + b" ")
    repository.run(store)
    link = tmp_path / "modules" / "modems" / "current"
    link.unlink()
    link.symlink_to("1.1")
    store.mend()
    assert in_use(store) == TABLE + b" "
    (tmp_path / "modules" / "modems" / "state.json").write_text("{")
    assert store.states()["modems"].current == "1.2", "known by its link"


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "modules").write_text("in the way")
    with pytest.raises(StateError):
        ModuleStore(tmp_path / "modules").install("modems", "1.1", TABLE, b"{}")


class FakeChild:
    """A step that has ended already."""

    def __init__(self, event: Event) -> None:
        self._events = [event]

    def events(self) -> Sequence[Event]:
        said, self._events = self._events, []
        return said

    def kill(self) -> None:
        self._events = []


class FakeWorkshop:
    """Runs the modules' step here and now."""

    def __init__(self, repository: Repository, store: ModuleStore) -> None:
        self.repository, self.store, self.started = repository, store, 0
        self.running_yanked: str | None = None

    def start(self, step: Step, request: Mapping[str, object]) -> FakeChild:
        assert step is Step.MODULES and request["agent"] == "0.2.0"
        self.started += 1
        if self.repository.unreachable:
            return FakeChild(Failed(Fault.LATER, Problem("agent.cloud-unreachable", {})))
        changed = self.repository.run(self.store)
        return FakeChild(Done({"changed": list(changed), "running_yanked": self.running_yanked}))


@dataclass
class Life:
    """One run of the agent with its modules."""

    workshop: FakeWorkshop
    began: float
    used: dict[str, bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def use(_kind: str, name: str, path: Path | None) -> None:
            self.used[name] = None if path is None else path.read_bytes()

        store = self.workshop.store
        self.keeper = ModuleKeeper(store, self.workshop, use, agent="0.2.0", release="1.1", now=self.began)
        self.keeper.start()

    def run(self, seconds: int) -> None:
        for passed in range(seconds):
            now = self.began + passed
            scene = SCENE.scene(True, SCENE.slots[SCENE.slot])  # type: ignore[arg-type]
            self.keeper.step(now, replace(scene, heard_at=now), 0.5, free=True)


@pytest.fixture
def workshop(store: ModuleStore) -> FakeWorkshop:
    repository = Repository()
    repository.publish(module())
    return FakeWorkshop(repository, store)


def test_a_module_is_noticed_used_and_proven_without_anyones_action(workshop: FakeWorkshop) -> None:
    life = Life(workshop, 1000.0)
    life.keeper.heard(7, 1000.0)
    life.run(50)
    assert life.used == {"modems": TABLE}
    assert [report.stage for report in life.keeper.reports()] == ["installed"]
    life.run(200)
    assert [(one.name, one.version, one.stage) for one in life.keeper.reports()] == [("modems", "1.1", "active")]
    assert workshop.started == 1
    life.keeper.heard(7, 1200.0)
    life.run(300)
    assert workshop.started == 1, "the repository has not changed"
    workshop.repository.publish(module(counter=2), TABLE + b" ")
    life.keeper.heard(8, 1300.0)
    life.run(400)
    assert life.used == {"modems": TABLE + b" "}


def test_a_module_with_which_the_agent_does_not_come_up_twice_is_taken_back(workshop: FakeWorkshop) -> None:
    life = Life(workshop, 0.0)
    life.run(300)
    workshop.repository.publish(module(counter=2), TABLE + b" ")
    life.keeper.heard(2, 300.0)
    life.run(305)
    assert life.used == {"modems": TABLE + b" "}
    second = Life(workshop, 400.0)  # it crashed
    assert second.used == {"modems": TABLE + b" "}
    third = Life(workshop, 410.0)  # and again
    assert third.used == {"modems": TABLE}
    report = third.keeper.reports()[0]
    assert (report.version, report.stage) == ("1.2", "returned")
    assert report.problem == Problem("agent.module-returned", {"module": "modems", "version": "1.2"})
    third.keeper.heard(3, 420.0)
    third.run(300)
    assert third.used == {"modems": TABLE}, "and is not tried again"


def test_trouble_is_told_and_a_release_that_was_taken_back_too(workshop: FakeWorkshop) -> None:
    workshop.repository.unreachable = True
    life = Life(workshop, 0.0)
    life.run(200)
    assert [problem.key for problem in life.keeper.problems()] == ["agent.cloud-unreachable"]
    workshop.repository.unreachable = False
    workshop.running_yanked = "bad modem"
    life.run(600)
    assert life.keeper.problems() == (
        Problem("agent.update-running-yanked", {"version": "1.1", "reason": "bad modem"}),
    )


class EndlessChild:
    """A step on a line that trickles."""

    killed = False

    def events(self) -> Sequence[Event]:
        return ()

    def kill(self) -> None:
        self.killed = True


def test_a_look_that_does_not_end_makes_way(workshop: FakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = EndlessChild()
    monkeypatch.setattr(workshop, "start", lambda _step, _request: endless)
    life = Life(workshop, 0.0)
    life.run(200)
    assert life.keeper.busy
    life.run(1040)
    assert endless.killed and not life.keeper.busy


def test_a_plugin_says_what_it_found_and_one_that_fails_is_told(tmp_path: Path) -> None:
    def start(source: bytes, environment: Mapping[str, str], _authorities: bytes) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-I", "-c", source.decode()], stdout=subprocess.PIPE, env=dict(environment)
        )

    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("import json, os; print(json.dumps({'text': 'heat at ' + os.environ['KYOTEN_SITE']}))")
    bad.write_text("raise SystemExit(3)")
    use = ModuleUse("tokyo-1", lambda _table: None, start=start)
    use("plugin", "heat", good)
    use("plugin", "broken", bad)
    deadline = time.monotonic() + 60
    while len(use.problems()) < 2 and time.monotonic() < deadline:
        use.step(1.0)
        time.sleep(0.01)
    assert use.problems() == (
        Problem("agent.plugin-failed", {"plugin": "broken", "status": 3}),
        Problem("agent.plugin-says", {"plugin": "heat", "text": "heat at tokyo-1"}),
    )
    use("plugin", "heat", None)
    assert [problem.params["plugin"] for problem in use.problems()] == ["broken"]
    use.stop()


def test_a_modem_table_reaches_the_modem_and_is_taken_away(tmp_path: Path) -> None:
    tables: list[dict[str, tuple[str, ...]]] = []
    use = ModuleUse("tokyo-1", tables.append)
    (tmp_path / "table").write_bytes(TABLE)
    use("modem-table", "modems", tmp_path / "table")
    use("modem-table", "modems", None)
    assert tables == [{"EC25": ('AT+QCFG="nwscanmode",0',)}, {}]


def test_a_plugins_words_are_bounded() -> None:
    said = b'{"text": "a"}\n{"text": 1}\nx\n{"text": "b\\u001b[0m"}\n' + json.dumps({"text": "c" * 999}).encode()
    assert texts(said) == ["a", "c" * 150]
