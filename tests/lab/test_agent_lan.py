"""The router's LAN with a real DHCP client: reservations, a range, what the cloud hears of it, silence elsewhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_world import AgentWorld, build

from lab.network import Host, wait_until

KNOWN, UNKNOWN, OTHER = "02:4b:59:00:00:30", "02:4b:59:00:00:31", "02:4b:59:00:00:32"
SETTINGS: dict[str, Any] = {
    "lan.dhcp": True,
    "lan.dhcp_range": "192.168.1.100-192.168.1.109",
    "lan.reservations": [f"{KNOWN.upper()}=192.168.1.30=chiller", "02:4b:59:00:00:3f=192.168.9.9"],
    "lan.devices": ["meter=192.168.1.77"],
}


@pytest.fixture(scope="module")
def world() -> Iterator[AgentWorld]:
    built = build("lan")
    built.start_gateway()
    built.start_cloud()
    built.answer(settings={"version": 1, "values": SETTINGS, "confirm_s": 30})
    built.start_agent()
    try:
        built.wait_carries()
        wait_until("confirmed", lambda: built.last()["document"]["settings"]["version"] == 1, timeout_s=20)
        yield built
    finally:
        built.close()


def ask(world: AgentWorld, host: Host, interface: str, mac: str | None = None) -> dict[str, str]:
    """One DHCP exchange; what was offered and acknowledged, empty: nobody answered."""
    if mac is not None:
        host.run(["ip", "link", "set", interface, "down"])
        host.run(["ip", "link", "set", interface, "address", mac])
        host.run(["ip", "link", "set", interface, "up"])
    answer = world.network.directory / "answer"
    answer.unlink(missing_ok=True)
    script = world.network.directory / "udhcpc-script"
    script.write_text(f'#!/bin/sh\n[ "$1" = bound ] && echo "$ip $mask $router $lease $dns" > {answer}\nexit 0\n')
    script.chmod(0o755)
    host.run(
        ["udhcpc", "-i", interface, "-s", str(script), "-f", "-n", "-q", "-t", "4", "-T", "1", "-x", "hostname:nobody"],
        check=False,
        timeout_s=30,
    )
    if not answer.exists():
        return {}
    words = answer.read_text().split(" ")
    return dict(zip(("ip", "mask", "router", "lease", "dns"), (word.strip() for word in words), strict=True))


def devices(world: AgentWorld) -> dict[str, dict[str, Any]]:
    return {device["address"]: device for device in world.last()["document"]["lan_devices"]}


def test_a_reserved_machine_gets_its_address_and_an_unknown_one_gets_one_of_the_range(world: AgentWorld) -> None:
    known = ask(world, world.plc, "eth0", KNOWN)
    assert known == {"ip": "192.168.1.30", "mask": "24", "router": "192.168.1.1", "lease": "43200", "dns": ""}
    unknown = ask(world, world.plc, "eth0", UNKNOWN)
    assert 100 <= int(unknown["ip"].rsplit(".", 1)[1]) <= 109
    assert unknown["ip"].startswith("192.168.1.")
    world.wait_heartbeat("the lease is told", lambda one: unknown["ip"] in json.dumps(one["document"]["lan_devices"]))
    told = devices(world)
    assert (told["192.168.1.30"]["name"], told["192.168.1.30"]["source"]) == ("chiller", "reservation")
    assert (told[unknown["ip"]]["mac"], told[unknown["ip"]]["source"]) == (UNKNOWN, "lease")
    assert told["192.168.1.77"] == {
        "mac": "", "address": "192.168.1.77", "name": "meter", "source": "static", "seen_s": None
    }  # fmt: skip


def test_a_device_that_asked_nobody_is_seen_when_it_speaks(world: AgentWorld) -> None:
    world.plc.run(["ip", "address", "replace", "192.168.1.50/24", "dev", "eth0"])
    world.plc.run(["ping", "-c", "1", "-W", "1", "-I", "192.168.1.50", "192.168.1.1"], check=False)
    world.wait_heartbeat("it is told", lambda one: "192.168.1.50" in json.dumps(one["document"]["lan_devices"]))
    seen = devices(world)["192.168.1.50"]
    assert (seen["source"], seen["mac"]) == ("seen", UNKNOWN)
    assert 0 <= seen["seen_s"] < 60


def test_a_reservation_elsewhere_is_left_out_and_told(world: AgentWorld) -> None:
    [unfit] = [one for one in world.last()["document"]["problems"] if one["key"] == "agent.dhcp-unfit"]
    assert "192.168.9.9" in unfit["params"]["values"]


def test_nothing_answers_towards_the_internet(world: AgentWorld) -> None:
    assert ask(world, world.internet, "site0") == {}
    # Not for the packet filter alone: dnsmasq itself does not listen there.
    world.router.run(["iptables-legacy", "-I", "INPUT", "-i", "wan0", "-j", "ACCEPT"])
    assert ask(world, world.internet, "site0") == {}
    assert ask(world, world.plc, "eth0", KNOWN)["ip"] == "192.168.1.30", "the same question in the LAN is answered"


def test_dnsmasq_killed_is_started_again_and_keeps_its_leases(world: AgentWorld) -> None:
    before = ask(world, world.plc, "eth0", UNKNOWN)["ip"]
    pid_file = world.runtime / "dnsmasq.pid"
    pid = int(pid_file.read_text())
    world.router.run(["kill", "-9", str(pid)])
    wait_until("another one", lambda: _pid(pid_file) not in (None, pid), timeout_s=10)
    assert ask(world, world.plc, "eth0", UNKNOWN)["ip"] == before


def test_a_restart_of_the_agent_is_not_seen_on_the_lan(world: AgentWorld) -> None:
    pid = _pid(world.runtime / "dnsmasq.pid")
    assert world.agent is not None
    world.agent.stop()
    assert ask(world, world.plc, "eth0", OTHER)["ip"]
    world.start_agent()
    world.wait_heartbeat("it is back", lambda one: one["document"]["lan_devices"])
    assert _pid(world.runtime / "dnsmasq.pid") == pid


def test_dhcp_switched_off_ends_it(world: AgentWorld) -> None:
    world.answer(settings={"version": 2, "values": {**SETTINGS, "lan.dhcp": False}, "confirm_s": 30})
    world.wait_heartbeat("confirmed", lambda one: one["document"]["settings"]["version"] == 2)
    assert ask(world, world.plc, "eth0", KNOWN) == {}
    wait_until("the door is shut", lambda: "--dport 67" not in world.rules(), timeout_s=5)


def _pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
