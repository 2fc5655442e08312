"""The gateway daemon with real charons: who gets in, with which addresses, and how one is shut out."""

import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import gateway_world
import pytest
from gateway_world import PUBLIC, SERVICE, WEB, GatewayWorld, background, pause

from lab.network import wait_until


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("gt") as built:
        yield built


def test_site_with_its_own_prefix_gets_in_is_routed_and_reported(world: GatewayWorld) -> None:
    router = world.routers["tokyo"]
    assert router.connect()
    assert router.selectors() == {"10.10.1.0/24"}
    wait_until("the route", lambda: "10.10.1.0/24 dev ipsec0" in world.routes(), timeout_s=3)
    assert f"src {SERVICE}" in world.routes()
    assert router.ping(WEB)
    wait_until("the report", lambda: "tokyo" in world.tunnels(), timeout_s=3)
    reported = world.tunnels()["tokyo"]
    assert (reported.up, reported.peer) == (True, "198.51.100.11")
    assert "AES_GCM_16-256" in reported.suite


def test_wider_selector_is_narrowed_to_the_certificate(world: GatewayWorld) -> None:
    router = world.routers["osaka"]
    assert router.connect(selector="10.10.0.0/16")
    assert router.selectors() == {"10.10.2.0/24"}


def test_foreign_subnet_is_refused(world: GatewayWorld) -> None:
    router = world.routers["nagoya"]
    assert not router.connect(selector="10.10.1.0/24")
    assert "nagoya" not in world.charon_sas()
    assert router.connect()
    assert router.selectors() == {"10.20.1.0/24"}


def test_range_that_is_no_prefix_is_routed_as_far_as_it_goes_and_ends_nobody(world: GatewayWorld) -> None:
    router = world.routers["nagoya"]
    assert router.connect(selector="10.20.1.1-10.20.1.2")
    wait_until("the route", lambda: "10.20.1.1 dev ipsec0" in world.routes(), timeout_s=3)
    assert router.ping(WEB)
    pause(1.5)  # a resync
    assert world.daemon is not None
    assert world.daemon.running
    assert router.connect()


def test_gateway_lets_in_only_what_is_for_it(world: GatewayWorld) -> None:
    router = world.routers["tokyo"]
    assert router.connect()
    wait_until("the route", lambda: "10.10.1.0/24 dev ipsec0" in world.routes(), timeout_s=3)
    server = (
        "import socket,time\nlisteners=[socket.create_server(('0.0.0.0',p)) for p in (25,8443,2222)]\ntime.sleep(60)"
    )
    listener = background(world.gateway, [sys.executable, "-c", server])
    try:
        wait_until("the listeners", lambda: "2222" in world.gateway.run(["ss", "-ltn"]).stdout, timeout_s=5)
        assert _connects(world, "tokyo", SERVICE, 25)
        assert _connects(world, "tokyo", SERVICE, 8443)
        assert not _connects(world, "tokyo", SERVICE, 2222)
        assert not _connects(world, "tokyo", IPv4Address("10.255.0.1"), 25)  # the cloud address is not for sites
        assert not _connects(world, "tokyo", PUBLIC, 2222, source=None)
        assert not _connects(world, "tokyo", PUBLIC, 8443, source=None)
        assert world.web.run(_connect_argv(None, SERVICE, 25), check=False).status == 0
        assert world.web.run(_connect_argv(None, SERVICE, 8443), check=False).status != 0
        # A server's address that the registry does not know is nobody.
        world.web.ip("addr", "add", "10.255.0.99/24", "dev", "eth0")
        assert world.web.run(["ping", "-c1", "-W1", "-I", "10.255.0.10", str(SERVICE)], check=False).status == 0
        assert world.web.run(["ping", "-c1", "-W1", "-I", "10.255.0.99", str(SERVICE)], check=False).status != 0
    finally:
        listener.kill()
        listener.communicate()


def test_site_that_is_down_is_unreachable_and_not_sent_to_the_internet(world: GatewayWorld) -> None:
    router = world.routers["osaka"]
    router.charon.terminate(connection="gw", force=False)
    wait_until("the route to go", lambda: "10.10.2.0/24" not in world.routes(), timeout_s=5)
    world.gateway.ip("route", "replace", "default", "via", "198.51.100.13")
    tried = world.gateway.run(["ip", "route", "get", "10.10.2.1"], check=False)
    assert tried.status != 0
    assert "No route to host" in tried.stderr
    wait_until("the report", lambda: not world.tunnels()["osaka"].up, timeout_s=3)


def test_revoked_site_is_cut_within_two_seconds_and_stays_out(
    world: GatewayWorld, record_property: Callable[[str, object], None]
) -> None:
    revoked, other = world.routers["nagoya"], world.routers["tokyo"]
    assert revoked.connect()
    assert other.connect()
    wait_until("both", lambda: {"nagoya", "tokyo"} <= world.charon_sas().keys(), timeout_s=5)
    before = world.charon_sas()["tokyo"]
    world.revoke("nagoya")
    took_s = wait_until("the cut", lambda: "nagoya" not in world.charon_sas(), timeout_s=2)
    record_property("revoke_to_cut_s", took_s)
    assert not revoked.connect()
    pause(1.5)
    assert "nagoya" not in world.charon_sas()
    assert "10.20.1.0/24" not in world.routes()
    assert "10.20.1.0/24" not in world.gateway.run(["ipset", "list", "kyoten-sites"]).stdout
    assert world.charon_sas()["tokyo"] == before  # nobody else noticed


def _connect_argv(source: IPv4Address | None, address: IPv4Address, port: int) -> list[str]:
    bound = (str(source), 0) if source is not None else None
    return [
        sys.executable, "-c",
        f"import socket; socket.create_connection(({str(address)!r}, {port}), timeout=0.7, source_address={bound!r})",
    ]  # fmt: skip


def _connects(world: GatewayWorld, site: str, address: IPv4Address, port: int, *, source: str | None = "own") -> bool:
    router = world.routers[site]
    argv = _connect_argv(router.own if source else None, address, port)
    return router.host.run(argv, check=False).status == 0


def test_router_that_was_replaced_is_cut_off_and_stays_out(world: GatewayWorld) -> None:
    stolen = world.routers["tokyo"]
    assert stolen.connect()
    wait_until("the tunnel", lambda: "tokyo" in world.charon_sas(), timeout_s=3)
    pause(1.2)  # the registry's time and charon's whole seconds
    world.enrol_again("tokyo")
    wait_until("the old tunnel to end", lambda: "tokyo" not in world.charon_sas(), timeout_s=3)
    wait_until("the report", lambda: "vpn.router-replaced" in world.problem_keys(), timeout_s=3)
    assert not stolen.connect()
