"""The agent does what the cloud wants, goes back when that cuts it off, and lets nobody else change its filter.

LAN and overlay are one here, and the disk is small.
"""

from collections.abc import Iterator

import pytest
from agent_world import OVERLAY, ROUTER, SERVICE, SITE, AgentWorld, build

from lab.network import wait_until
from linux.runner import SubprocessRunner

NOWHERE = "203.0.113.99"
DEVICE = "10.10.1.20"


@pytest.fixture(scope="module")
def world() -> Iterator[AgentWorld]:
    built = build("obey", lan=str(OVERLAY))
    built.state.mkdir(mode=0o700)
    SubprocessRunner().run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(built.state)])
    built.start_gateway()
    built.start_cloud()
    built.start_agent()
    try:
        built.wait_carries()
        # The tunnel is there before the agent has let it into the LAN.
        wait_until("the LAN is reached", lambda: built.ping(built.gateway, DEVICE, source=SERVICE), timeout_s=30)
        yield built
    finally:
        built.close()
        SubprocessRunner().run(["umount", "-l", str(built.state)], check=False)


def wanted(version: int, confirm_s: float = 10, **values: object) -> dict[str, object]:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return {"version": version, "values": named, "confirm_s": confirm_s}


def test_a_lan_that_is_the_overlay_is_reached_without_mapping(world: AgentWorld) -> None:
    assert world.ping(world.gateway, DEVICE, source=SERVICE)
    assert world.ping(world.plc, SERVICE)
    assert world.ping(world.plc, ROUTER), "the LAN's own router is out of its reach"
    assert "NETMAP" not in world.router.run(["iptables-legacy-save", "-t", "nat"]).stdout


def test_settings_are_applied_and_confirmed_through_the_tunnel(world: AgentWorld) -> None:
    settings = wanted(1, tunnel__dpd_s=7.0, log__level="debug", uplink__prefer="mobile", heartbeat__interval_s=1.0)
    world.answer(settings=settings)
    heard = world.wait_heartbeat("version 1", lambda one: one["document"]["settings"]["version"] == 1)
    assert heard["document"]["settings"] == {"version": 1, "reverted_version": None, "problem": None}
    assert heard["document"]["tunnel"]["up"]


def test_settings_that_cut_the_router_off_are_undone_and_not_tried_again(world: AgentWorld) -> None:
    world.answer(settings=wanted(2, confirm_s=5, tunnel__gateways=[NOWHERE]))
    heard = world.wait_heartbeat(
        "version 2 undone", lambda one: one["document"]["settings"]["reverted_version"] == 2, timeout_s=30
    )
    assert heard["document"]["settings"] == {
        "version": 1,
        "reverted_version": 2,
        "problem": {"key": "agent.settings-cut-off", "params": {"version": 2, "confirm_s": 5}},
    }
    world.wait_carries(20)
    world.wait_heartbeat("through the tunnel", lambda one: one["local"] == SERVICE)
    later = world.wait_heartbeat("the next", lambda one: True)
    assert later["document"]["tunnel"]["up"], "the version that failed is tried again"


def test_settings_it_does_not_know_are_refused(world: AgentWorld) -> None:
    world.answer(settings=wanted(3, tunnel__dpd_s=0, brew__coffee=True))
    heard = world.wait_heartbeat("refused", lambda one: one["document"]["settings"]["reverted_version"] == 3)
    assert heard["document"]["settings"]["problem"] == {
        "key": "agent.settings-refused",
        "params": {"version": 3, "names": "brew.coffee, tunnel.dpd_s"},
    }


def test_a_trial_that_a_crash_interrupts_is_undone_at_the_start(world: AgentWorld) -> None:
    world.answer(settings=wanted(4, confirm_s=60, tunnel__gateways=[NOWHERE]))
    wait_until("the trial", lambda: '"trying"' in (world.state / "settings.json").read_text(), timeout_s=10)
    assert world.agent is not None
    world.agent.kill()
    world.start_agent()
    heard = world.wait_heartbeat("undone", lambda one: one["document"]["settings"]["reverted_version"] == 4)
    assert heard["document"]["settings"]["problem"]["key"] == "agent.settings-interrupted"
    world.wait_carries(20)


def test_logs_are_handed_over_with_both_daemons_lines(world: AgentWorld) -> None:
    world.answer(log_requests=[{"id": "log-1", "lines": 50}])
    wait_until("the log", (world.cloud / "logs" / "log-1.gz").exists, timeout_s=15)
    world.answer()
    lines = world.log("log-1").splitlines()
    assert lines[0].startswith(f"# site {SITE}")
    assert len(lines) == 51
    assert {line.split("|")[0] for line in lines[1:]} == {"agent", "charon"}
    times = [line.split("| ")[1][:19] for line in lines[1:] if line.split("| ")[1][:2] == "20"]
    assert times == sorted(times)
    device_id = (world.cloud / "device_id").read_text()
    assert device_id not in world.log("log-1")


def test_a_changed_packet_filter_is_restored_and_reported(world: AgentWorld) -> None:
    before = [line for line in world.rules().splitlines() if line.startswith("-A")]
    world.router.run(["iptables-legacy", "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"])
    world.router.run(["iptables-legacy", "-P", "FORWARD", "ACCEPT"])
    heard = world.wait_heartbeat(
        "the repair", lambda one: "agent.firewall-repaired" in [found["key"] for found in one["document"]["problems"]]
    )
    assert heard["document"]["tunnel"]["up"]
    assert [line for line in world.rules().splitlines() if line.startswith("-A")] == before
    assert ":FORWARD DROP" in world.rules()


def test_a_lan_device_cannot_speak_for_anyone_else(world: AgentWorld) -> None:
    world.plc.ip("addr", "add", "10.10.2.20/32", "dev", "eth0")
    world.router.ip("route", "add", "10.10.2.20/32", "dev", "lan0", "table", "main")
    rule = ("-s", "10.10.2.20", "-d", SERVICE)
    world.gateway.run(["iptables-legacy", "-A", "INPUT", *rule])
    try:
        assert not world.ping(world.plc, SERVICE, source="10.10.2.20")
        counted = world.gateway.run(["iptables-legacy", "-vnxL", "INPUT"]).stdout.splitlines()[-1].split()
        assert counted[0] == "0", "a spoofed packet crossed the tunnel"
        assert world.ping(world.plc, SERVICE, source=DEVICE)
    finally:
        world.gateway.run(["iptables-legacy", "-D", "INPUT", *rule])


def test_a_wrong_device_id_is_refused_and_told_apart(world: AgentWorld) -> None:
    right = (world.cloud / "device_id").read_text()
    (world.cloud / "device_id").write_text("0" * 64)

    def refused() -> bool:
        return "agent.cloud-refused" in [found["key"] for found in world.status().get("problems", [])]

    wait_until("the refusal in the agent's status", refused, timeout_s=10)
    (world.cloud / "device_id").write_text(right)
    world.wait_heartbeat("accepted again", lambda one: True)


def test_a_full_disk_is_reported_and_starts_no_trial(world: AgentWorld) -> None:
    filler = world.state / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(b"x" * 4096)
    world.answer(settings=wanted(5, heartbeat__interval_s=2.0))
    heard = world.wait_heartbeat(
        "the full disk", lambda one: "agent.state-unwritable" in [found["key"] for found in one["document"]["problems"]]
    )
    assert heard["document"]["settings"]["version"] == 1
    assert heard["document"]["tunnel"]["up"]
    filler.unlink()
    world.wait_heartbeat("version 5", lambda one: one["document"]["settings"]["version"] == 5)
    world.wait_heartbeat(
        "no problem left", lambda one: "agent.state-unwritable" not in str(one["document"]["problems"])
    )


def test_taken_down_on_demand_it_leaves_no_tunnel(world: AgentWorld) -> None:
    assert world.agent is not None
    world.agent.stop()
    world.start_agent("--down")
    world.wait_heartbeat("up", lambda one: one["document"]["tunnel"]["up"])
    assert world.agent.stop(timeout_s=10) == 0
    assert not world.ping(world.gateway, ROUTER, source=SERVICE)
    assert world.router.run(["ip", "route", "show", "table", "220"], check=False).stdout == ""
    assert ":INPUT DROP" in world.rules(), "the doors stay shut"
