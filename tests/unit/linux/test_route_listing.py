"""What `ip -json route show` says, as it was seen of iproute2 6.1."""

from ipaddress import ip_address, ip_network

import pytest

from linux.route_listing import list_routes
from linux.routes import Route, RouteError, RouteKind
from linux.runner import Finished


class _Ip:
    def __init__(self, stdout: str, status: int = 0, stderr: str = "") -> None:
        self._answer = Finished(status, stdout, stderr)
        self.argv: list[str] = []

    def run(self, argv: list[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        self.argv = argv
        return self._answer


def test_routes_of_each_kind_are_read() -> None:
    ip = _Ip(
        '[{"type":"unreachable","dst":"10.10.0.0/16","flags":[]},'
        '{"dst":"10.10.1.0/24","dev":"ipsec0","scope":"link","prefsrc":"10.255.255.1","flags":[]},'
        '{"dst":"10.10.2.7","dev":"ipsec0","flags":[]},'
        '{"dst":"default","gateway":"192.0.2.1","dev":"eth0","metric":100,"flags":[]},'
        '{"type":"blackhole","dst":"10.11.0.0/16","flags":[]}]'
    )
    assert list_routes(ip, 219) == {
        Route(ip_network("10.10.0.0/16"), table=219, kind=RouteKind.UNREACHABLE),
        Route(ip_network("10.10.1.0/24"), "ipsec0", table=219, preferred_source=ip_address("10.255.255.1")),
        Route(ip_network("10.10.2.7/32"), "ipsec0", table=219),
        Route(ip_network("0.0.0.0/0"), "eth0", ip_address("192.0.2.1"), table=219, metric=100),
    }
    assert ip.argv == ["ip", "-4", "-json", "route", "show", "table", "219"]


def test_a_table_that_nobody_has_used_is_empty() -> None:
    assert list_routes(_Ip("", 2, "Error: ipv4: FIB table does not exist.\nDump terminated"), 219) == frozenset()


@pytest.mark.parametrize("stdout", ["Dump was interrupted", '[{"dev":"eth0"}]', '[{"dst":"10.0.0.300/8"}]', "[7]"])
def test_what_is_no_list_of_routes_is_our_error(stdout: str) -> None:
    with pytest.raises(RouteError, match="219"):
        list_routes(_Ip(stdout), 219)
