"""The agent with a modem: what it reports, that a modem which hangs holds nothing up, that a PIN is kept secret.

This kernel has no PPP, so calls end at once here; tests/vm has them.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from agent_world import AgentWorld, build

from lab.modem.emulator import Emulator
from lab.modem.profile import Fault
from lab.network import wait_until


@pytest.fixture(scope="module")
def modem_world() -> Iterator[tuple[AgentWorld, Emulator]]:
    built = build("modem")
    with Emulator(built.router.directory / "modem") as modem:
        modem.profile.call, modem.profile.sim, modem.profile.pin = "NO CARRIER", "pin", "4711"
        try:
            built.start_gateway()
            built.start_cloud()
            built.start_agent("--modem", str(modem.link))
            built.wait_carries()
            yield built, modem
        finally:
            built.close()


def told(world: AgentWorld, what: str, **parts: Any) -> dict[str, Any]:
    """Wait for a heartbeat whose modem section has these; the whole document."""

    def fits(one: dict[str, Any]) -> bool:
        modem = one["document"]["modem"] or {}
        return all(modem.get(name) == value for name, value in parts.items())

    document: dict[str, Any] = world.wait_heartbeat(what, fits, timeout_s=60)["document"]
    return document


def keys(document: dict[str, Any]) -> list[str]:
    return [problem["key"] for problem in document["problems"]]


def test_a_sim_without_its_pin_is_told(modem_world: tuple[AgentWorld, Emulator]) -> None:
    world, _ = modem_world
    document = told(world, "the PIN is missing", state="pin-missing", imei="490154203237518")
    assert "agent.modem-pin-missing" in keys(document)


def test_the_pin_comes_from_the_settings_and_shows_up_nowhere(modem_world: tuple[AgentWorld, Emulator]) -> None:
    world, modem = modem_world
    values = {"mobile.pin": "4711", "mobile.apn": "soracom.io", "mobile.budget_mib": 100}
    world.answer(timezone="Asia/Tokyo", settings={"version": 1, "values": values, "confirm_s": 30})
    document = told(world, "registered", state="ready", registration="home")
    assert document["modem"]["operator"] == "44010"
    assert document["modem"]["technology"] == "LTE"
    assert document["modem"]["signal_dbm"] == -81
    assert document["modem"]["data_budget_bytes"] == 100 << 20
    wait_until("a call was tried", lambda: '1,"IP","soracom.io"' in modem.contexts, timeout_s=30)
    assert "4711" not in json.dumps(world.heartbeats()).replace("490154203237518", "")
    assert "4711" not in (world.state / "agent.log").read_text()
    assert (world.state / "settings.json").stat().st_mode & 0o077 == 0


def test_a_call_that_fails_is_told_and_tried_again(modem_world: tuple[AgentWorld, Emulator]) -> None:
    world, modem = modem_world
    document = world.wait_heartbeat(
        "the failure", lambda one: "agent.modem-call-failed" in keys(one["document"]), timeout_s=30
    )["document"]
    reasons = [one["params"]["reason"] for one in document["problems"] if one["key"] == "agent.modem-call-failed"]
    assert reasons == ["NO CARRIER"]
    count = len([one for one in modem.commands if one.startswith("ATD")])
    wait_until("another", lambda: len([one for one in modem.commands if one.startswith("ATD")]) > count, timeout_s=60)


def test_a_modem_that_hangs_holds_nothing_up(modem_world: tuple[AgentWorld, Emulator]) -> None:
    world, modem = modem_world
    modem.profile.faults = [Fault(on="AT+CREG?", cure="cfun")]
    document = told(world, "silence", state="silent")
    seen = len(world.heartbeats())
    wait_until("heartbeats go on", lambda: len(world.heartbeats()) > seen + 5, timeout_s=15)
    assert document["tunnel"]["up"]
    assert world.ping(world.plc, "10.255.255.1")
    document = world.wait_heartbeat(
        "it is told", lambda one: "agent.modem-silent" in keys(one["document"]), timeout_s=60
    )["document"]
    told(world, "the modem back after its restart", state="ready")
    assert modem.restarts == 1
    pins = [command for command in modem.commands if command.startswith("AT+CPIN=")]
    assert pins == ['AT+CPIN="4711"'] * 2, "once for each time that the SIM was locked"


def test_a_modem_abroad_makes_no_call(modem_world: tuple[AgentWorld, Emulator]) -> None:
    world, modem = modem_world
    modem.profile.registration = 5
    document = told(world, "abroad", state="roaming-forbidden", roaming=True)
    count = len([one for one in modem.commands if one.startswith("ATD")])
    assert "agent.modem-roaming" in keys(document)
    told(world, "still", state="roaming-forbidden")
    assert len([one for one in modem.commands if one.startswith("ATD")]) == count
