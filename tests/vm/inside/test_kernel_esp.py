"""Gateway and routers on a kernel that does ESP: who reaches whom, and that nothing goes or comes in the clear."""

import os
from pathlib import Path

import esp_world
import pytest
from esp_world import SILENCE_S, SITES, WEB, EspWorld, counted, pings, reaches, watch

#: Packets on the internet that no tunnel covers: to or from the overlay and the sites' LANs.
CLEAR = ("-s 10.0.0.0/8", "-d 10.0.0.0/8", "-s 192.168.0.0/16", "-d 192.168.0.0/16")
#: An address of tokyo-1 that nobody has.
FORGED = "10.10.1.99"
IN_UDP = "-p udp -m udp --dport 4500"


@pytest.fixture(scope="module")
def world() -> EspWorld:
    built = esp_world.build(Path(os.environ["KYOTEN_VM_PREPARED"]))
    for rule in (*CLEAR, IN_UDP):
        watch(built.ground.internet, "FORWARD", rule)
    return built  # ended with the machine


def test_gateway_and_routers_let_the_kernel_do_esp_behind_the_same_interface(world: EspWorld) -> None:
    assert '"dataplane": "kernel"' in world.log(world.gateway, "gateway")
    for host in (world.gateway, *(world.router(site) for site in SITES)):
        assert "xfrm if_id" in host.run(["ip", "-d", "link", "show", "ipsec0"]).stdout
        assert "aead rfc4106(gcm(aes))" in host.run(["ip", "xfrm", "state"]).stdout


def test_what_the_policy_allows_passes_between_two_equal_lans(world: EspWorld) -> None:
    tokyo = world.plc("tokyo-1")
    assert reaches(tokyo, WEB)
    assert pings(tokyo, WEB)
    assert reaches(tokyo, "10.10.2.20")
    assert pings(tokyo, "10.10.2.20")


def test_what_it_does_not_allow_does_not(world: EspWorld) -> None:
    assert not reaches(world.plc("osaka-1"), WEB, wait_s=SILENCE_S)
    assert not reaches(world.plc("osaka-1"), "10.10.1.20", wait_s=SILENCE_S)
    assert not reaches(world.ground.servers["web"], "10.10.1.20", wait_s=SILENCE_S)
    assert not pings(world.ground.servers["web"], "10.10.2.20", wait_s=SILENCE_S)


def test_all_of_it_went_encrypted(world: EspWorld) -> None:
    internet = world.ground.internet
    assert counted(internet, "FORWARD", IN_UDP) > 0
    assert [counted(internet, "FORWARD", rule) for rule in CLEAR] == [0, 0, 0, 0]


def test_a_packet_in_the_clear_is_not_taken_for_one_of_a_tunnel(world: EspWorld) -> None:
    """Under a site's address, straight from the internet to the gateway: the policy allows it, its way does not."""
    internet, web = world.ground.internet, world.ground.servers["web"]
    forged = f"-s {FORGED}/32"
    watch(web, "PREROUTING", forged)
    watch(world.gateway, "PREROUTING", forged)
    internet.ip("addr", "add", f"{FORGED}/32", "dev", "lo")
    internet.ip("route", "add", "10.255.0.0/24", "via", "203.0.113.2")
    assert not pings(internet, WEB, own=FORGED, wait_s=SILENCE_S)
    assert counted(world.gateway, "PREROUTING", forged) > 0
    assert counted(web, "PREROUTING", forged) == 0


def test_without_a_tunnel_nothing_leaves_in_the_clear(world: EspWorld) -> None:
    router, tokyo = world.router("tokyo-1"), world.plc("tokyo-1")
    before = [counted(world.ground.internet, "FORWARD", rule) for rule in CLEAR]
    router.run(["ip", "xfrm", "state", "flush"])
    router.run(["ip", "xfrm", "policy", "flush"])
    assert not reaches(tokyo, WEB, wait_s=SILENCE_S)
    assert not pings(router, WEB, own="10.10.1.1", wait_s=SILENCE_S)
    assert [counted(world.ground.internet, "FORWARD", rule) for rule in CLEAR] == before


def test_it_was_the_rules_that_stopped_the_packet_in_the_clear(world: EspWorld) -> None:
    """Comes last: without daemon and rules the same packet arrives, so no missing route made the test above pass."""
    internet, web, gateway = world.ground.internet, world.ground.servers["web"], world.gateway
    gateway.processes["gateway"].kill()  # it would mend its rules at once
    gateway.run(["iptables-legacy", "-t", "mangle", "-F"])
    gateway.run(["iptables-legacy", "-P", "FORWARD", "ACCEPT"])
    gateway.run(["iptables-legacy", "-F", "FORWARD"])
    pings(internet, WEB, own=FORGED, wait_s=1)
    assert counted(web, "PREROUTING", f"-s {FORGED}/32") > 0
