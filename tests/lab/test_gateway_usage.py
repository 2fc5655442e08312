"""Usage against the counters of the tunnel interface: over rekeying, new tunnels, dead daemons, a dead charon."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import gateway_world
import pytest
from gateway_world import WEB, GatewayWorld, background, pause

from cloudside.registry import usage
from cloudside.registry.callers import OPERATOR
from lab.network import wait_until


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("gu", connected=True) as built:
        yield built


def _interface(world: GatewayWorld) -> tuple[int, int]:
    """Bytes from and to sites that went through the tunnel interface. It goes with charon."""
    read = world.gateway.run(
        ["cat", *(f"/sys/class/net/ipsec0/statistics/{name}_bytes" for name in ("rx", "tx"))], check=False
    )
    received, sent = read.stdout.split() or ("0", "0")
    return int(received), int(sent)


def _told(world: GatewayWorld) -> tuple[int, int, float]:
    now = datetime.now(UTC)
    with world.database.read() as session:
        rows = usage.site_rows(session, OPERATOR, since=now - timedelta(hours=3), until=now + timedelta(hours=1))
    return (
        sum(one.bytes_from_site for one in rows),
        sum(one.bytes_to_site for one in rows),
        sum(one.connected_ms for one in rows) / 1000,
    )


def _traffic(world: GatewayWorld, count: int = 40) -> None:
    """Pings of 1,000 octets from each site to a server, and answers."""
    pings = [
        background(
            router.host,
            ["ping", "-q", "-I", str(router.own), "-i", "0.01", "-s", "1000", "-c", str(count), str(WEB)],
            stdout=subprocess.DEVNULL,
        )
        for router in world.routers.values()
        if router.sas()
    ]
    assert pings
    for ping in pings:
        ping.wait(timeout=30)


def _agrees(world: GatewayWorld, before: tuple[int, int]) -> bool:
    seen, told = _interface(world), _told(world)[:2]
    return all(abs(told[n] - (before[n] + seen[n])) <= (before[n] + seen[n]) / 1000 for n in (0, 1))


def test_usage_is_what_went_through_the_interface_whatever_dies(world: GatewayWorld) -> None:
    began = datetime.now(UTC)
    _traffic(world)
    for router in world.routers.values():
        for _ in router.sas():
            router.charon.rekey(child="net")
    _traffic(world)
    wait_until("all to be told", lambda: _agrees(world, (0, 0)), timeout_s=8)
    assert _told(world)[0] > 80 * 1028

    assert world.daemon is not None
    world.daemon.kill()
    _traffic(world)
    world.start()
    world.wait_ready()
    _traffic(world)
    wait_until("what a dead daemon left", lambda: _agrees(world, (0, 0)), timeout_s=8)

    before = _interface(world)
    old = world.charon_pid()
    world.gateway.run(["kill", "-9", str(old)])
    wait_until("another charon", lambda: world.charon_pid() not in (0, old), timeout_s=5)
    world.wait_ready()
    router = world.routers["tokyo"]
    wait_until("the router to notice", lambda: not router.sas() or router.connect(wait_s=1), timeout_s=15)
    assert router.connect()
    wait_until("the way", lambda: router.ping(WEB), timeout_s=5)
    _traffic(world)
    wait_until("a new charon's", lambda: _agrees(world, before), timeout_s=8)
    connected_s = _told(world)[2]
    assert 5 < connected_s < len(world.routers) * (datetime.now(UTC) - began).total_seconds() + 30


def test_what_is_not_told_when_the_daemon_ends_is_told_as_it_ends(world: GatewayWorld) -> None:
    before = _told(world)[0]
    _traffic(world, 10)
    assert world.daemon is not None
    assert world.daemon.stop() == 0
    assert _told(world)[0] >= before + 10 * 1028
    world.start()
    world.wait_ready()
    pause(0.5)
