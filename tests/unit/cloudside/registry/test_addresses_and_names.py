from ipaddress import ip_address, ip_network

import pytest

from cloudside.errors import InputError
from cloudside.registry import names
from cloudside.registry.addresses import (
    contains,
    lan_address,
    overlaps,
    overlay_address,
    read_address,
    read_prefix,
    router_address,
)


def test_host_bits_are_refused_with_the_prefix_that_was_meant() -> None:
    with pytest.raises(InputError) as caught:
        read_prefix("192.168.1.7/24")
    assert caught.value.params == {"prefix": "192.168.1.7/24", "meant": "192.168.1.0/24"}


@pytest.mark.parametrize("text", ["", "lan", "10.0.0.0/33", "10.0.0/24", "10.0.0.0/24/1", "１０.0.0.0/8"])
def test_text_that_is_no_prefix(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prefix(text)
    assert caught.value.key == "registry.not-a-prefix"


@pytest.mark.parametrize("text", ["", "10.0.0.256", "10.0.0.0/8", "plc"])
def test_text_that_is_no_address(text: str) -> None:
    with pytest.raises(InputError):
        read_address(text)


def test_families_never_meet() -> None:
    assert not contains(ip_network("::/0"), ip_network("10.0.0.0/8"))
    assert not overlaps(ip_network("0.0.0.0/0"), ip_network("::/0"))


def test_lan_and_overlay_map_one_to_one() -> None:
    lan, overlay = ip_network("192.168.1.0/24"), ip_network("10.10.7.0/24")
    assert overlay_address(lan, overlay, ip_address("192.168.1.20")) == ip_address("10.10.7.20")
    assert lan_address(lan, overlay, ip_address("10.10.7.20")) == ip_address("192.168.1.20")
    assert router_address(overlay) == ip_address("10.10.7.1")
    wide, narrow = ip_network("fd00:1::/64"), ip_network("2001:db8:7::/64")
    assert overlay_address(wide, narrow, ip_address("fd00:1::20")) == ip_address("2001:db8:7::20")


@pytest.mark.parametrize("name", ["a", "tokyo-1", "1f", "a" * 63])
def test_dns_labels_are_site_names(name: str) -> None:
    assert names.problems_of("site", name) == []


@pytest.mark.parametrize("name", ["", "-a", "a-", "Tokyo", "a_b", "a.b", "a/b", "拠点", "a" * 64, "a\n"])
def test_other_texts_are_not(name: str) -> None:
    assert [problem.key for problem in names.problems_of("site", name)] == ["registry.bad-site-name"]


def test_tenant_names_are_shorter() -> None:
    assert names.problems_of("tenant", "a" * 41)[0].key == "registry.bad-tenant-name"


def test_closest_names() -> None:
    assert names.closest("tokio-1", ["osaka-1", "tokyo-1"]).split(", ")[0] == "tokyo-1"
    assert names.closest("xyz", ["b", "a"]) == "a, b"
    assert names.closest("xyz", []) == "-"


def test_targets() -> None:
    assert names.split_target("tokyo-1") == ("tokyo-1", None)
    assert names.split_target("tokyo-1/plc") == ("tokyo-1", "plc")
    for wrong in ("", "/", "tokyo-1/", "/plc", "a/b/c"):
        with pytest.raises(InputError):
            names.split_target(wrong)
