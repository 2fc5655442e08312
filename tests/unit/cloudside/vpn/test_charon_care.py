from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from cloudside.config import Vpn
from cloudside.vpn.charon_care import CharonCare
from cloudside.vpn.tunnels import Table, after_events, after_listing
from linux.charon import ChildSa, IkeSa, SaEvent
from linux.errors import CharonRefusedError, CharonUnavailableError


@dataclass
class _Charon:
    """charon and its process: may be stopped (answers nothing, does nothing) or busy (answers nothing, works)."""

    pid: int | None = 100
    stopped: bool = False
    busy: bool = False
    used: float = 1.0
    changed: bool = False
    restart_for: tuple[str, ...] = ()
    reloaded: int = 0
    refuses: bool = False
    asked: int = 0

    def used_s(self) -> float:
        return self.used

    def kill(self) -> None:
        self.pid = None

    def refresh(self) -> bool:
        changed, self.changed = self.changed, False
        return changed

    def need_restart(self) -> tuple[str, ...]:
        return self.restart_for

    def version(self, *, timeout_s: float = 0) -> str:
        self.asked += 1
        self._answer()
        return "5.9.8"

    def reload_settings(self) -> None:
        self._answer()
        if self.refuses:
            raise CharonRefusedError("reload-settings: parse error")
        self.reloaded += 1

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.stopped or self.busy:
            raise CharonUnavailableError("timed out")


@dataclass
class _Events:
    opened_at: float | None = 0.0
    listening: bool = True
    renewed: int = 0

    def renew(self) -> None:
        self.renewed += 1
        self.listening = True


@dataclass
class _World:
    charon: _Charon = field(default_factory=_Charon)
    events: _Events = field(default_factory=_Events)
    now: float = 1000.0

    def __post_init__(self) -> None:
        vpn = Vpn(hung_report_s=10, hung_restart_s=30)
        self.care = CharonCare(self.charon, self.charon, vpn, lambda: self.now, self.events)
        assert self.care.answers()

    def live_through(self, seconds: int, *, work_s: float = 0.0) -> list[str]:
        """Passes, one a second; the problems of the last one."""
        for _ in range(seconds):
            self.now += 1
            self.charon.used += work_s
            if self.care.answers() and (self.charon.stopped or self.charon.busy):
                self.care.silent()
        return [found.key for found in self.care.problems()]


@pytest.fixture
def world() -> _World:
    return _World()


def test_charon_that_hangs_is_reported_and_then_ended(world: _World) -> None:
    world.charon.stopped = True
    assert world.live_through(8) == []
    assert world.live_through(5) == ["vpn.charon-hung"]
    assert world.charon.pid == 100
    world.live_through(20)
    assert world.charon.pid is None
    assert world.live_through(1) == []


def test_charon_that_hangs_is_asked_now_and_then_only(world: _World) -> None:
    world.charon.stopped = True
    world.live_through(25)
    assert 5 <= world.charon.asked <= 9


def test_charon_that_died_before_it_took_its_settings_does_not_keep_the_next_from_being_started() -> None:
    world = _World()
    world.charon.pid, world.charon.stopped, world.charon.changed = 101, True, True
    with pytest.raises(CharonUnavailableError):
        world.care.answers()
    world.charon.pid = None
    assert world.care.answers()
    world.charon.pid, world.charon.stopped = 102, False
    assert world.care.answers()
    assert world.charon.reloaded == 0


def test_charon_that_is_busy_is_reported_and_never_ended(world: _World) -> None:
    world.charon.busy = True
    assert world.live_through(300, work_s=0.05) == ["vpn.charon-busy"]
    assert world.charon.pid == 100


def test_charon_that_answers_again_is_well(world: _World) -> None:
    world.charon.stopped = True
    world.live_through(20)
    world.charon.stopped = False
    assert world.live_through(5) == []
    assert world.care.answers()


def test_never_means_never() -> None:
    charon = _Charon()
    now = [0.0]
    care = CharonCare(charon, charon, Vpn(hung_restart_s=0), lambda: now[0])
    care.answers()
    charon.stopped = True
    care.silent()
    now[0] = 1e6
    care.answers()
    assert charon.pid == 100
    assert [found.key for found in care.problems()] == ["vpn.charon-hung"]


def test_settings_that_changed_are_reloaded_once_and_what_waits_for_a_restart_is_said() -> None:
    charon = _Charon(changed=True, restart_for=("threads",))
    care = CharonCare(charon, charon, Vpn(), lambda: 0.0)
    assert care.answers()
    assert care.answers()
    assert charon.reloaded == 1
    assert [(found.key, dict(found.params)) for found in care.problems()] == [
        ("vpn.charon-needs-restart", {"what": "threads"})
    ]


def test_charon_that_refuses_its_settings_is_tended_all_the_same_and_told_again() -> None:
    world = _World(_Charon(changed=True, refuses=True))
    assert world.care.answers()
    [told] = world.care.problems()
    assert told.key == "vpn.charon-settings-refused"
    assert "parse error" in dict(told.params)["reason"]
    world.charon.refuses = False
    assert world.care.answers()
    assert (world.charon.reloaded, world.care.problems()) == (1, ())


def test_settings_are_reloaded_later_when_charon_does_not_answer_now() -> None:
    charon = _Charon(changed=True, stopped=True)
    now = [0.0]
    care = CharonCare(charon, charon, Vpn(), lambda: now[0])
    with pytest.raises(CharonUnavailableError):
        care.answers()
    care.silent()
    charon.stopped = False
    now[0] = 10.0
    assert care.answers()
    assert charon.reloaded == 1


def _sa(number: int, *, established_s: int = 10) -> IkeSa:
    child = ChildSa("site", "INSTALLED", (), (ip_network("10.10.1.0/24"),), 0, 0, "AES")
    return IkeSa(number, "sites", "ESTABLISHED", "a", "b", 4500, "tokyo", established_s, "IKE", (child,))


def _listed(world: _World, table: Table, *sas: IkeSa) -> tuple[Table, list[str]]:
    world.now += 2
    found = world.care.compare(table, sas)
    return after_listing(table, sas), [one.key for one in found]


def test_sa_that_no_event_ever_tells_of_renews_the_stream(world: _World) -> None:
    table, said = _listed(world, Table(), _sa(1, established_s=0))
    assert said == []
    table, said = _listed(world, table, _sa(1))
    assert said == []
    table, said = _listed(world, table, _sa(1))
    assert (said, world.events.renewed) == (["vpn.events-lost"], 1)
    assert _listed(world, table, _sa(1))[1] == []


def test_event_that_was_still_in_the_queue_is_no_loss(world: _World) -> None:
    table, _ = _listed(world, Table(), _sa(1))
    event = SaEvent("ike", True, _sa(1))
    world.care.note([event])
    table = after_events(table, [event])
    for _ in range(4):
        assert _listed(world, table, _sa(1))[1] == []
    assert world.events.renewed == 0


def test_sas_from_before_the_stream_and_those_that_ended_are_not_missed(world: _World) -> None:
    world.events.opened_at = world.now - 5
    table, _ = _listed(world, Table(), _sa(1, established_s=60), _sa(2, established_s=2))
    for _ in range(4):
        table, _ = _listed(world, table, _sa(1, established_s=70))
    assert world.events.renewed == 0


def test_thread_that_ended_is_replaced(world: _World) -> None:
    world.events.listening = False
    assert _listed(world, Table())[1] == ["vpn.events-lost"]


def test_stream_that_is_not_open_is_not_blamed(world: _World) -> None:
    world.events.opened_at = None
    table, _ = _listed(world, Table(), _sa(1))
    for _ in range(4):
        table, said = _listed(world, table, _sa(1))
        assert said == []
