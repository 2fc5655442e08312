"""Renewal with a real charon at the other end: no tunnel lost, a new certificate that is refused, a site that moves."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_world import ROUTER, SERVICE, AgentWorld, build
from cryptography import x509

from lab.network import wait_until
from linux.charon import Charon, IkeSa
from linux.charon_process import socket_path


@pytest.fixture(scope="module")
def world() -> Iterator[AgentWorld]:
    # In its last third by far: the agent asks as soon as it runs.
    built = build("renewal", aged=timedelta(days=300))
    built.start_gateway()
    built.start_cloud()
    built.start_agent()
    try:
        built.wait_carries()
        yield built
    finally:
        built.close()


def installed(world: AgentWorld) -> x509.Certificate:
    return x509.load_pem_x509_certificate((world.state / "identity" / "site.crt").read_bytes())


def tunnels(world: AgentWorld) -> tuple[IkeSa, ...]:
    charon = Charon(socket_path(world.gateway.directory / "charon"))
    try:
        return charon.sas()
    finally:
        charon.close()


def request(world: AgentWorld, number: int, timeout_s: float = 20) -> Path:
    wait_until("a request", lambda: len(world.requests()) > number, timeout_s=timeout_s)
    return world.requests()[number]


def kept(world: AgentWorld) -> bool:
    return not (world.state / "identity.before").exists()


def test_an_ageing_certificate_is_renewed_by_itself_and_no_ping_is_lost(world: AgentWorld) -> None:
    old = installed(world)
    asked = request(world, 0)
    [before] = tunnels(world)
    pings = world.gateway.start("pings", ["ping", "-q", "-i", "0.05", "-c", "120", "-W", "1", "-I", SERVICE, ROUTER])
    time.sleep(0.5)
    made = world.issue(asked)
    wait_until("the new one is proven", lambda: installed(world) == made and kept(world), timeout_s=20)
    assert installed(world).public_key() != old.public_key(), "the key is a new one, too"
    wait_until("the pings end", lambda: not pings.running, timeout_s=15)
    assert " 0% packet loss" in pings.log.read_text()
    [after] = tunnels(world)
    assert after.unique_id != before.unique_id, "the tunnel stands with the new certificate"
    heard = world.wait_heartbeat("with the new one", lambda one: one["document"]["tunnel"]["up"])
    assert heard["document"]["problems"] == []
    assert len(world.requests()) == 1


def test_a_new_certificate_that_the_gateway_refuses_is_given_back(world: AgentWorld) -> None:
    old = installed(world)
    [before] = tunnels(world)
    world.answer(renew_certificate=True)
    # Good, but not before the day after tomorrow: the gateway refuses it.
    made = world.issue(request(world, 1), now=datetime.now(UTC) + timedelta(days=2))
    wait_until("it is tried", lambda: installed(world) == made, timeout_s=10)
    heard_before = len(world.heartbeats())
    world.answer()
    wait_until("the old one is back", lambda: installed(world) == old and kept(world), timeout_s=120)
    beats = [one["document"] for one in world.heartbeats()[heard_before:]]
    assert len(beats) > 20, "the cloud heard of the trial all the while"
    heard = world.wait_heartbeat("it is told", lambda one: one["document"]["problems"])
    assert {one["key"] for one in heard["document"]["problems"]} == {"agent.certificate-refused"}
    assert [sa.unique_id for sa in tunnels(world)] == [before.unique_id], "the old tunnel stood all the while"
    assert world.ping(world.gateway, ROUTER, source=SERVICE)


def test_a_restart_in_the_middle_of_a_trial_goes_on_with_it(world: AgentWorld) -> None:
    assert world.agent is not None
    world.agent.stop()
    old = installed(world)
    world.answer(renew_certificate=True)
    world.start_agent()
    made = world.issue(request(world, 2))
    wait_until("it is there", lambda: installed(world) == made, timeout_s=10)
    world.agent.kill()
    world.answer()
    world.start_agent()
    wait_until("proven", lambda: installed(world) == made and kept(world), timeout_s=20)
    assert installed(world) != old


def test_a_site_that_moves_follows_with_everything(world: AgentWorld) -> None:
    world.answer(renew_certificate=True)
    world.issue(request(world, 3, timeout_s=30), overlay="10.10.2.0/24")
    world.answer()
    wait_until(
        "it answers at its new address", lambda: world.ping(world.gateway, "10.10.2.1", source=SERVICE), timeout_s=30
    )
    assert world.ping(world.gateway, "10.10.2.20", source=SERVICE), "so does the device behind it"
    assert not world.ping(world.gateway, ROUTER, source=SERVICE)
    assert ROUTER not in world.router.run(["ip", "address", "show", "lo"]).stdout
    assert world.ping(world.plc, SERVICE)
    wait_until("the old certificate is gone", lambda: kept(world), timeout_s=20)
    world.wait_heartbeat("told", lambda one: one["peer"] == "10.10.2.1" and one["document"]["problems"] == [])
