from ipaddress import ip_network

import pytest

from linux.charon import EVERYTHING, _networks


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        (b"10.1.0.0/16", ["10.1.0.0/16"]),
        (b"10.1.0.0/16[tcp/80]", ["10.1.0.0/16"]),
        (b"10.1.0.1..10.1.0.4", ["10.1.0.1/32", "10.1.0.2/31", "10.1.0.4/32"]),
        (b"10.1.0.0..10.1.0.2[udp]", ["10.1.0.0/31", "10.1.0.2/32"]),
        (b"2001:db8::1..2001:db8::2", ["2001:db8::1/128", "2001:db8::2/128"]),
    ],
)
def test_selector_of_any_form_becomes_networks(shown: bytes, meant: list[str]) -> None:
    assert _networks([shown]) == tuple(map(ip_network, meant))


@pytest.mark.parametrize(
    "shown", [b"dynamic", b"", b"10.1.0.9..10.1.0.1", b"10.1.0.1..2001:db8::1", b"\xff..", b"a..b..c"]
)
def test_what_cannot_be_read_counts_as_everything(shown: bytes) -> None:
    assert _networks([shown]) == EVERYTHING
