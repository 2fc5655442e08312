"""A modem's way from its device to a call, and what is said when there is none. Against the lab's emulator."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench_modem import Site, quick

from lab.modem.emulator import Emulator
from lab.modem.profile import Fault
from router_agent.modem import machine
from router_agent.modem.answers import Registration
from router_agent.modem.machine import Event, State
from router_agent.modem.settings import MobileSettings

APN = MobileSettings(apn="soracom.io", user="sora", password="sora")


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with Emulator(tmp_path / "modem") as running:
        running.profile.call = "silent"
        running.profile.boot_s = 0.05
        yield running


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    quick(monkeypatch)
    made = Site(emulator, tmp_path, hook=Path("/usr/local/sbin/reset-modem"))
    yield made
    made.modem.close()


def connected(site: Site) -> None:
    site.until(State.DIALLING)
    site.linked = True
    site.until(State.CONNECTED)


def test_a_modem_comes_up_and_reports_what_it_sees(site: Site) -> None:
    site.configure(APN)
    connected(site)
    view = site.modem.view
    assert (view.imei, view.registration, view.roaming) == ("490154203237518", Registration.HOME, False)
    assert (view.operator.name, view.operator.technology) == ("44010", "LTE")
    assert view.signal_dbm == -141 + 60, "LTE tells its reference signal power"
    assert site.emulator.contexts == ['1,"IP","soracom.io"']
    assert [login.user for login in site.calls.logins] == ["sora"]
    assert site.problems == []
    assert site.seen == [
        State.STARTING, State.SIM, State.SEARCHING, State.READY, State.DIALLING, State.CONNECTED
    ]  # fmt: skip


def test_a_model_is_told_first_what_the_table_has_for_it(site: Site, emulator: Emulator) -> None:
    site.modem.use_table({"EMULATOR-1": ("AT+QCFG=1",), "OTHER": ("AT+OTHER",)})
    emulator.profile.faults.append(Fault(on="AT+CGMM", times=0, answer=["EMULATOR-1", "OK"]))
    site.configure(APN)
    connected(site)
    assert "AT+QCFG=1" in emulator.commands and "AT+OTHER" not in emulator.commands


def test_a_table_that_costs_the_network_is_not_told_a_second_time(site: Site, emulator: Emulator) -> None:
    """A modem line may be a site's only one, and a table comes to all sites at once."""
    site.modem.use_table({"EMULATOR-1": ("AT+QCFG=1",)})
    emulator.profile.faults.append(Fault(on="AT+CGMM", times=0, answer=["EMULATOR-1", "OK"]))
    emulator.profile.registration = 2
    site.configure(APN)
    site.until(State.SILENT, steps=int(machine.STUCK_SEARCH_S / machine.LOOK_S[State.SEARCHING]) + 60)
    assert emulator.commands.count("AT+QCFG=1") == 1
    emulator.profile.registration = 1
    connected(site)
    assert emulator.commands.count("AT+QCFG=1") == 1


@pytest.mark.parametrize(("csq", "dbm"), [(0, -113), (1, -111), (23, -67), (31, -51), (99, None)])
def test_signal_of_an_older_network(site: Site, csq: int, dbm: int | None) -> None:
    site.emulator.profile.technology, site.emulator.profile.csq = 2, csq
    site.until(State.READY)
    assert (site.modem.view.signal_dbm, site.modem.view.operator.technology) == (dbm, "UMTS")


def test_echo_garbage_partial_lines_and_codes_in_between_change_nothing(site: Site) -> None:
    noise = ["+CREG: 3", '+CEREG: 5,"00A1","01B2C3",7', "RING", "^RSSI: 9", '+CMTI: "SM",1']
    site.emulator.profile.faults = [
        Fault(on="AT+C", times=0, unsolicited=noise, slow=True),
        Fault(on="AT", times=0, garbage=20),
    ]
    assert site.until(State.READY, State.DENIED, State.ROAMING_FORBIDDEN) is State.READY
    assert site.modem.view.registration is Registration.HOME
    assert site.modem.view.imei == "490154203237518"


@pytest.mark.parametrize(
    ("sim", "state", "problem"),
    [
        ("missing", State.SIM_MISSING, "agent.modem-sim-missing"),
        ("broken", State.SIM_FAILED, "agent.modem-sim-failed"),
        ("puk", State.PUK, "agent.modem-puk"),
        ("pin", State.PIN_MISSING, "agent.modem-pin-missing"),
    ],
)
def test_a_sim_that_cannot_be_used_is_told_and_found_when_it_can(
    site: Site, sim: str, state: State, problem: str
) -> None:
    site.emulator.profile.sim = sim
    site.until(state)
    assert site.problems == [problem]
    site.emulator.profile.sim = "ready"
    site.until(State.READY)
    assert site.problems == []


def test_a_network_that_refuses_and_one_that_comes_later(site: Site) -> None:
    site.emulator.profile.registration = 3
    site.until(State.DENIED)
    assert site.problems == ["agent.modem-denied"]
    site.emulator.profile.registration = 2
    site.until(State.SEARCHING)
    assert site.problems == [], "searching is what modems do at first"
    site.step(40)
    assert site.problems == ["agent.modem-no-network"]
    site.emulator.profile.registration = 1
    site.until(State.READY)


def test_no_call_abroad_unless_permitted(site: Site) -> None:
    site.emulator.profile.registration = 5
    site.until(State.ROAMING_FORBIDDEN)
    site.step(5)
    assert site.problems == ["agent.modem-roaming"]
    assert site.modem.view.roaming is True
    assert not [command for command in site.emulator.commands if command.startswith("ATD")]
    site.configure(MobileSettings(roaming=True))
    connected(site)
    site.configure(MobileSettings(roaming=False))
    site.linked = False
    site.until(State.ROAMING_FORBIDDEN)
    assert not site.calls.up


def test_one_domain_that_says_roaming_is_enough(site: Site) -> None:
    site.emulator.profile.faults = [Fault(on="AT+CGREG?", times=0, answer=["+CGREG: 0,5", "OK"])]
    assert site.until(State.ROAMING_FORBIDDEN, State.READY) is State.ROAMING_FORBIDDEN


@pytest.mark.parametrize("code", ["NO CARRIER", "BUSY", "+CME ERROR: 100", "NO DIALTONE"])
def test_a_call_that_fails_is_tried_again_with_longer_waits(site: Site, code: str) -> None:
    site.emulator.profile.call = code
    times = []
    for _ in range(4):
        typed = len(dials(site))
        while len(dials(site)) == typed:
            site.step()
        times.append(site.now)
    assert site.problems == ["agent.modem-call-failed"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1.5 * gaps[0]
    site.emulator.profile.call = "silent"
    connected(site)
    assert site.problems == []


def dials(site: Site) -> list[str]:
    return [command for command in site.emulator.commands if command.startswith("ATD")]


def test_the_second_number_is_tried_when_the_modem_does_not_know_the_first(site: Site) -> None:
    site.emulator.profile.faults = [Fault(on="ATD*99***1#", times=0, answer=["ERROR"])]
    site.until(State.DIALLING)
    assert dials(site) == ["ATD*99***1#", "ATD*99#"]


def test_calls_that_never_succeed_restart_the_modem(site: Site) -> None:
    site.emulator.profile.call = "NO CARRIER"
    for _ in range(2000):
        site.step()
        if site.emulator.restarts:
            break
    assert len(dials(site)) == machine.STUCK_CALLS
    assert site.emulator.restarts == 1


def test_a_call_that_ends_is_made_again(site: Site) -> None:
    connected(site)
    site.now += 3600
    site.calls.up = site.linked = False
    site.until(State.DIALLING)
    assert len(site.calls.logins) == 2
    assert site.modem.carried() == [1000]
    assert site.modem.carried() == []
    assert site.problems == [], "a call that lasted an hour is no failure"


def test_pppd_that_agrees_on_nothing_is_ended_and_told(site: Site) -> None:
    site.until(State.DIALLING)
    site.calls.reason = "login-refused"
    site.calls.up = False
    site.until(State.READY)
    assert [dict(problem.params) for problem in site.modem.problems(site.now)] == [{"reason": "login-refused"}]
    site.until(State.DIALLING)
    for _ in range(200):
        site.step()
        if not site.calls.up:
            break
    assert not site.calls.up, "an endless negotiation was not ended"


def test_a_router_without_pppd_says_so(site: Site) -> None:
    site.calls.fails = FileNotFoundError(2, "No such file or directory")
    site.until(State.READY)
    site.step(3)
    assert site.problems == ["agent.modem-call-failed"]
    site.until(State.READY)  # it goes on trying


def test_data_that_are_spent_end_the_call_and_keep_it_ended(site: Site) -> None:
    connected(site)
    site.linked = False
    site.until(State.HELD, spent=True)
    site.step(10, spent=True)
    assert len(site.calls.logins) == 1
    site.until(State.DIALLING)


def test_other_settings_end_a_call_but_another_budget_does_not(site: Site) -> None:
    connected(site)
    site.configure(replace(site.settings, budget_bytes=1 << 30))
    site.step(3)
    assert site.state is State.CONNECTED
    site.configure(replace(site.settings, apn="other.example"))
    site.linked = False
    site.until(State.DIALLING)
    assert site.emulator.contexts[-1] == '1,"IP","other.example"'


def test_the_call_of_an_agent_that_died_is_kept(site: Site) -> None:
    connected(site)
    typed = len(site.emulator.commands)
    site.restart()
    site.until(State.CONNECTED)
    assert len(site.emulator.commands) == typed, "a line in a call is spoken to by pppd only"


def test_a_device_that_is_not_there_or_goes_away(site: Site, tmp_path: Path) -> None:
    site.emulator.profile.faults = [Fault(on="AT+CREG?", vanish_s=0.3)]
    site.until(State.SEARCHING)
    site.until(State.ABSENT)
    site.step()
    assert site.problems == ["agent.modem-absent"]
    time.sleep(0.4)
    site.until(State.READY)
    assert site.problems == []


@pytest.mark.parametrize("cure", ["atz", "dtr", "cfun", "hook"])
def test_a_modem_that_hangs_is_brought_back_by_the_gentlest_cure(site: Site, cure: str) -> None:
    site.hooks.act = site.emulator.reset
    site.emulator.profile.faults = [Fault(on="AT+CSQ", cure=cure)]
    site.until(State.SILENT)
    assert site.until(State.READY, steps=400) is State.READY
    assert bool(site.hooks.ran) == (cure == "hook")
    assert bool([each for each in site.emulator.commands if each == "AT+CFUN=1,1"]) == (cure in ("cfun", "hook"))
    assert site.problems == []


def test_a_modem_that_hangs_for_some_seconds_is_asked_again(site: Site) -> None:
    site.emulator.profile.faults = [Fault(on="AT+COPS?", hang_s=0.5)]
    site.until(State.SILENT)
    time.sleep(0.5)
    site.until(State.READY)
    assert "ATZ" not in site.emulator.commands


def test_a_modem_that_stays_dead_is_tried_ever_more_rarely(site: Site) -> None:
    site.emulator.profile.faults = [Fault(on="AT", cure="never")]
    while len(site.hooks.ran) < 4:
        site.step()
        assert site.state in (State.ABSENT, State.STARTING, State.SILENT)
    assert site.problems == ["agent.modem-silent"]
    assert site.hooks.ran[0] == ["/usr/local/sbin/reset-modem", str(site.emulator.link)]
    waits = [machine.wait_s(failures, 0.5, has_hook=True) for failures in range(1, 40)]
    assert sum(waits[-10:]) / 10 > 900
    assert max(waits) <= 1800 + 20


def test_what_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        machine.after(State.ABSENT, Event.REGISTERED)
    reached = set(machine.TRANSITIONS.values())
    assert reached == set(State), "a state that nothing leads to"
