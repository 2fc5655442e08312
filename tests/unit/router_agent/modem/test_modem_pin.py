"""A PIN is sent once, whatever happens: restarts, hangs, power cuts, full disks, SIMs that say little."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_modem import Site, quick

from lab.modem.emulator import Emulator
from lab.modem.profile import Fault
from router_agent.modem.machine import State
from router_agent.modem.pin import NAME, PinMemory, Tried
from router_agent.modem.settings import MobileSettings

RIGHT, WRONG = MobileSettings(pin="4711"), MobileSettings(pin="1234")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    quick(monkeypatch)
    (tmp_path / "state").mkdir()
    with Emulator(tmp_path / "modem") as running:
        running.profile.call, running.profile.boot_s = "silent", 0.05
        running.profile.sim, running.profile.pin = "pin", "4711"
        made = Site(running, tmp_path / "state")
        yield made
        made.modem.close()


def pins_sent(site: Site) -> list[str]:
    return [command for command in site.emulator.commands if command.startswith("AT+CPIN=")]


def test_the_right_pin_unlocks_also_after_each_restart_of_the_modem(site: Site) -> None:
    site.configure(RIGHT)
    site.until(State.READY)
    site.emulator.reset()
    site.until(State.DIALLING)
    site.calls.up = False
    site.until(State.READY, State.DIALLING)
    site.emulator.reset()
    for _ in range(100):
        site.step()
        if len(pins_sent(site)) > 1:
            break
    assert site.emulator.profile.pin_tries == 3


def test_a_wrong_pin_is_sent_once_and_by_no_later_agent_either(site: Site) -> None:
    site.configure(WRONG)
    site.until(State.PIN_REFUSED)
    site.step(20)
    assert site.problems == ["agent.modem-pin-refused"]
    for _ in range(3):
        site.modem.close()
        site.restart()
        site.until(State.PIN_REFUSED)
        site.step(10)
    site.emulator.reset()
    site.step(50)
    assert pins_sent(site) == ['AT+CPIN="1234"']
    assert site.emulator.profile.pin_tries == 2


def test_another_pin_is_another_try(site: Site) -> None:
    site.configure(WRONG)
    site.until(State.PIN_REFUSED)
    site.configure(RIGHT)
    site.until(State.READY)
    assert len(pins_sent(site)) == 2
    assert site.problems == []


def test_another_sim_is_another_try(site: Site) -> None:
    site.configure(WRONG)
    site.until(State.PIN_REFUSED)
    site.emulator.profile.iccid, site.emulator.profile.pin = "8981100005819489999", "1234"
    site.until(State.READY)
    assert len(pins_sent(site)) == 2


def test_a_pin_taken_back_and_given_again_is_no_other_pin(site: Site) -> None:
    site.configure(WRONG)
    site.until(State.PIN_REFUSED)
    site.configure(MobileSettings())
    site.until(State.PIN_MISSING)
    site.configure(WRONG)
    site.until(State.PIN_REFUSED)
    assert len(pins_sent(site)) == 1


@pytest.mark.parametrize(("knows_cpinr", "sent"), [(True, 2), (False, 1)])
def test_a_modem_that_hangs_at_the_pin(site: Site, knows_cpinr: bool, sent: int) -> None:
    """Its fate is unknown: sent again only when the SIM says that no try was used up."""
    site.emulator.profile.knows_cpinr = knows_cpinr
    site.emulator.profile.faults = [Fault(on="AT+CPIN=", reset=True)]  # before the SIM has seen it
    site.configure(RIGHT)
    site.until(State.ABSENT)
    assert site.until(State.READY, State.PIN_REFUSED, steps=400) is (State.READY if knows_cpinr else State.PIN_REFUSED)
    assert len(pins_sent(site)) == sent


def test_a_sim_that_always_claims_three_tries_gets_two_at_most(site: Site) -> None:
    site.emulator.profile.faults = [
        Fault(on="AT+CPINR", times=0, answer=["+CPINR: SIM PIN,3,3", "OK"]),
        Fault(on="AT+CPIN=", times=0, reset=True),
    ]
    site.configure(WRONG)
    site.until(State.PIN_REFUSED, steps=600)
    for _ in range(3):
        site.modem.close()
        site.restart()
        site.until(State.PIN_REFUSED, steps=400)
    assert len(pins_sent(site)) <= 2


def test_an_error_without_a_number_counts_as_a_refusal(site: Site) -> None:
    site.emulator.profile.faults = [Fault(on="AT+CPIN=", times=0, answer=["ERROR"])]
    site.configure(RIGHT)
    site.until(State.PIN_REFUSED)
    site.step(20)
    assert len(pins_sent(site)) == 1


def test_without_a_disk_to_remember_on_no_pin_is_sent(site: Site, tmp_path: Path) -> None:
    (tmp_path / "state").rename(tmp_path / "gone")
    site.configure(RIGHT)
    site.until(State.PIN_MISSING)
    site.step(5)
    assert site.problems == ["agent.state-unwritable"]
    assert pins_sent(site) == []
    (tmp_path / "gone").rename(tmp_path / "state")
    site.until(State.READY)


def test_the_last_try_locks_the_sim_and_that_is_told(site: Site) -> None:
    site.emulator.profile.pin_tries = 1
    site.configure(WRONG)
    site.until(State.PUK)
    assert site.problems == ["agent.modem-puk"]
    assert len(pins_sent(site)) == 1


def test_the_file_tells_the_pin_to_nobody_and_a_damaged_one_counts_against_it(tmp_path: Path) -> None:
    memory = PinMemory(tmp_path)
    assert memory.tried("4711", "") is Tried.NEVER
    memory.keep("4711", "89811", Tried.REFUSED)
    path = tmp_path / NAME
    assert "4711" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert PinMemory(tmp_path).tried("4711", "89811") is Tried.REFUSED
    assert memory.tried("4712", "89811") is Tried.NEVER
    for text in ("", "{", "[]", '{"salt": "x"}', '{"salt": "00", "hash": 1, "outcome": "never"}', "null"):
        path.write_text(text)
        assert memory.tried("4711", "89811") is Tried.UNSURE
