"""The agent's tunnel with a real charon at the other end: up, found again, moved, adopted, mapped."""

import os
import signal
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import cast

import pytest
from agent_world import GATEWAY, ROUTER, SERVICE, SITE, WAN, AgentWorld, build

from lab.network import wait_until
from router_agent.identity import Identity
from router_agent.remote.keeper import SshKeeper


@pytest.fixture(scope="module")
def world() -> Iterator[AgentWorld]:
    built = build("agent")
    built.start_gateway()
    built.start_cloud()
    built.start_agent()
    try:
        built.wait_carries()
        yield built
    finally:
        built.close()


def test_the_tunnel_comes_up_and_the_cloud_hears_of_it_through_it(world: AgentWorld) -> None:
    heard = world.wait_heartbeat("tunnel up", lambda one: one["document"]["tunnel"]["up"] and one["local"] == SERVICE)
    document = heard["document"]
    assert (heard["peer"], heard["common_name"]) == (ROUTER, SITE)
    assert document["uplink"] == {"kind": "wired", "interface": "wan0", "address": WAN}
    assert document["tunnel"]["gateway"] == GATEWAY
    assert "AES_GCM_16-256" in document["tunnel"]["suite"]
    assert document["problems"] == []
    assert world.agent is not None
    assert world.agent.rss_mib() < 60
    assert abs(world.agent.rss_mib() - document["load"]["agent_rss_mib"]) < 5


def test_a_lan_that_differs_is_reachable_under_its_overlay_addresses_both_ways(world: AgentWorld) -> None:
    assert world.ping(world.gateway, "10.10.1.20", source=SERVICE)
    assert not world.ping(world.gateway, "10.10.1.21", source=SERVICE)
    assert world.ping(world.plc, SERVICE)
    assert not world.ping(world.plc, GATEWAY), "a LAN reaches the Internet"


def test_ssh_answers_inside_the_tunnel_only(world: AgentWorld) -> None:
    def ssh(target: str, *words: str) -> tuple[int, str]:
        done = world.gateway.run([*_ssh(world), *words, f"root@{target}", "echo here"], check=False)
        return done.status, done.stdout.strip()

    assert ssh(ROUTER, "-b", SERVICE) == (0, "here")
    assert ssh(WAN)[0] != 0
    assert not _connects(world, "plc", str(world.lan[1]), 22)
    assert not _connects(world, "plc", ROUTER, 22)


@pytest.mark.parametrize(
    "words", [(f"root@{ROUTER}", "sleep 60"), ("-N", f"root@{ROUTER}")], ids=["login", "forwarding"]
)
def test_who_is_logged_in_is_a_visitor(world: AgentWorld, words: tuple[str, ...]) -> None:
    """sshd's own processes say so: an update's restart waits for them."""
    keeper = SshKeeper(cast(Identity, None), ip_address(ROUTER), world.runtime)
    assert keeper.pid is not None
    wait_until("nobody is there", lambda: not keeper.visited, timeout_s=10)
    visitor = world.gateway.start("visitor", [*_ssh(world), "-b", SERVICE, *words])
    try:
        wait_until("a visitor", lambda: keeper.visited, timeout_s=10)
    finally:
        visitor.stop(timeout_s=2)
    wait_until("the visitor has left", lambda: not keeper.visited, timeout_s=10)


def _ssh(world: AgentWorld) -> list[str]:
    return [
        "ssh", "-i", str(world.operator_key), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=3",
    ]  # fmt: skip


def _connects(world: AgentWorld, host: str, target: str, port: int) -> bool:
    script = f"import socket; socket.create_connection(({target!r}, {port}), 1)"
    return world.network.hosts[host].run(["python3", "-c", script], check=False).status == 0


def test_a_gateway_killed_and_restarted_is_found_again(world: AgentWorld) -> None:
    world.kill_gateway()
    began = time.monotonic()
    heard = world.wait_heartbeat("tunnel down, told past it", lambda one: not one["document"]["tunnel"]["up"])
    assert heard["local"] == GATEWAY
    assert {"agent.tunnel-silent", "agent.tunnel-no-answer"} & {one["key"] for one in heard["document"]["problems"]}
    noticed = time.monotonic() - began
    world.start_gateway()
    back = world.wait_carries(30)
    assert noticed < 15
    assert back < 15


def test_a_new_address_of_the_line_does_not_end_the_tunnel(world: AgentWorld) -> None:
    move(world, "198.51.100.77")
    assert world.wait_carries(30) < 15
    world.wait_heartbeat("the new address", lambda one: one["document"]["uplink"]["address"] == "198.51.100.77")
    move(world, WAN)
    world.wait_carries(30)


def move(world: AgentWorld, own: str) -> None:
    """The line gets another address, as DHCP does it."""
    world.router.ip("addr", "flush", "dev", "wan0", "scope", "global")
    world.router.ip("addr", "add", f"{own}/24", "dev", "wan0")
    world.router.ip("route", "replace", "default", "via", "198.51.100.1")


def test_an_agent_that_is_killed_leaves_its_tunnel_to_the_next_one(world: AgentWorld) -> None:
    charon = world.charon_pid()
    assert world.agent is not None
    world.agent.kill()
    assert world.ping(world.gateway, ROUTER, source=SERVICE)
    world.start_agent()
    heard = world.wait_heartbeat("the new agent", lambda one: one["document"]["tunnel"]["up"])
    assert heard["document"]["problems"] == []
    assert world.charon_pid() == charon
    assert world.agent.stop() == 0
    assert world.ping(world.gateway, ROUTER, source=SERVICE), "a stopped agent took the tunnel with it"
    world.start_agent()
    world.wait_heartbeat("the third agent", lambda one: one["document"]["tunnel"]["up"])


def test_a_charon_that_dies_is_started_again(world: AgentWorld) -> None:
    pid = world.charon_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until("another charon", lambda: world.charon_pid() != pid, timeout_s=10)
    assert world.wait_carries(30) < 15
    world.wait_heartbeat("tunnel up again", lambda one: one["document"]["tunnel"]["up"] and one["local"] == SERVICE)
