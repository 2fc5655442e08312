"""The plan of a world holds together before anything is built from it."""

from itertools import combinations

import pytest

from lab import topology
from lab.ground import uplink_address
from lab.topology import DEMO, SMALL, Plan


@pytest.mark.parametrize("plan", [DEMO, SMALL])
def test_overlays_lie_in_their_tenants_block_and_do_not_overlap(plan: Plan) -> None:
    for site in plan.sites:
        assert site.overlay.subnet_of(plan.tenants[site.tenant])
        assert site.overlay.prefixlen == site.lan.prefixlen
    assert not any(one.overlay.overlaps(other.overlay) for one, other in combinations(plan.sites, 2))
    assert not any(block.overlaps(topology.CLOUD_LAN) for block in plan.tenants.values())
    assert all(block.subnet_of(topology.OVERLAY) for block in plan.tenants.values())
    assert topology.SERVICE_ADDRESS in topology.OVERLAY


def test_the_demo_has_what_it_is_to_show() -> None:
    assert len(DEMO.sites) == 4
    assert len(DEMO.tenants) == 2
    lans = [site.lan for site in DEMO.sites]
    assert len(lans) - len(set(lans)) == 1, "two sites with the same LAN"
    assert sorted(site.uplink for site in DEMO.sites) == ["mobile", "nat", "wired", "wired"]
    assert set(DEMO.policies) == set(DEMO.tenants)


def test_a_device_is_found_at_its_place_in_the_overlay() -> None:
    tokyo = DEMO.sites[0]
    assert str(tokyo.controllers["plc"]) == "192.168.1.20"
    assert str(tokyo.overlay_address("plc")) == "10.10.1.20"
    assert str(tokyo.router_address) == "10.10.1.1"


def test_uplinks_have_addresses_of_their_own() -> None:
    addresses = [uplink_address(number, site) for number, site in enumerate(DEMO.sites, start=1)]
    assert len(set(addresses)) == len(addresses)
    assert [str(address).rpartition(".")[0] for address in addresses] == ["198.51.100"] * 3 + ["192.0.2"]
