from dataclasses import replace
from ipaddress import ip_address, ip_network

from rules.inventory import check_inventory
from rules.model import Device, Inventory, Server, Site


def _kinds(inventory: Inventory) -> list[str]:
    return sorted(found.kind.removeprefix("rules.") for found in check_inventory(inventory))


def test_a_sound_inventory(inventory: Inventory) -> None:
    assert check_inventory(inventory) == []


def test_overlapping_sites_are_found_however_far_apart_in_order(inventory: Inventory) -> None:
    wide = Site("wide", "acme", ip_network("10.10.0.0/21"))
    found = check_inventory(replace(inventory, sites=(*inventory.sites, wide)))
    assert [problem.kind for problem in found] == ["rules.site-prefixes-overlap"] * 2
    assert {problem.params["second"] for problem in found} == {"tokyo-1", "osaka-1"}


def test_each_member_belongs_somewhere(inventory: Inventory) -> None:
    site = Site("lost", "acme", ip_network("10.99.0.0/24"))
    orphan = Site("orphan", "ghost", ip_network("10.98.0.0/24"))
    assert _kinds(replace(inventory, sites=(*inventory.sites, site, orphan))) == [
        "site-outside-block",
        "tenant-unknown",
    ]
    device = Device("tokyo-1", "stray", ip_address("10.10.2.1"))
    assert _kinds(replace(inventory, devices=(device,))) == ["device-outside-site"]
    server = Server("inside", None, ip_address("10.20.9.9"))
    assert _kinds(replace(inventory, servers=(server,))) == ["server-inside-block"]
    assert _kinds(replace(inventory, servers=(Server("x", "ghost", ip_address("10.200.0.1")),))) == ["tenant-unknown"]


def test_a_device_of_a_revoked_site_is_no_mistake(inventory: Inventory) -> None:
    assert _kinds(replace(inventory, sites=inventory.sites[:1])) == []


def test_names_and_addresses_stand_once(inventory: Inventory) -> None:
    twin = Server("tokyo-1", None, ip_address("10.200.0.10"))
    assert _kinds(replace(inventory, servers=(*inventory.servers, twin))) == [
        *("inventory-name-twice", "server-addresses-equal")
    ]
    plc = Device("osaka-1", "other", ip_address("10.10.2.20"))
    assert _kinds(replace(inventory, devices=(*inventory.devices, plc))) == ["device-addresses-equal"]


def test_families_do_not_meet(inventory: Inventory) -> None:
    six = Site("six", "v6", ip_network("fd00:1::/64"))
    tenants = dict(inventory.tenants) | {"v6": ip_network("fd00::/16")}
    assert _kinds(replace(inventory, tenants=tenants, sites=(*inventory.sites, six))) == []
