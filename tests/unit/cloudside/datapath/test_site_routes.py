from collections.abc import Collection
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cloudside.datapath.site_routes import TABLE, SiteRoutes, wanted_routes
from linux.routes import Route, RouteError, RouteKind

SERVICE = ip_address("10.255.255.1")


def test_blocks_are_unreachable_and_live_sites_are_not() -> None:
    block, site = ip_network("10.10.0.0/16"), ip_network("10.10.1.0/24")
    assert wanted_routes([block], [site], SERVICE) == {
        Route(block, table=TABLE, kind=RouteKind.UNREACHABLE),
        Route(site, "ipsec0", table=TABLE, preferred_source=SERVICE),
    }


def test_nothing_live_leaves_only_unreachable() -> None:
    routes = wanted_routes([ip_network("10.10.0.0/16"), ip_network("10.20.0.0/16")], [], SERVICE)
    assert {route.kind for route in routes} == {RouteKind.UNREACHABLE}


class _Kernel:
    """One table, and the tunnel interface if there is one. Counts how often the table is read."""

    def __init__(self) -> None:
        self.table: dict[object, Route] = {}
        self.index = 7
        self.fails = False
        self.read = self.written = 0

    def index_if_up(self, interface: str) -> int:
        return self.index if interface == "ipsec0" else 0

    def change_routes(self, new: Collection[Route], old: Collection[Route]) -> None:
        if self.fails:
            raise RouteError("made to fail")
        self.table.update({route.prefix: route for route in new})
        for route in old:
            self.table.pop(route.prefix, None)
        self.written += len(new) + len(old)


class _Routes(SiteRoutes):
    def __init__(self, kernel: _Kernel) -> None:
        super().__init__(kernel, None, SERVICE)
        self.kernel = kernel

    def read(self) -> frozenset[Route]:
        self.kernel.read += 1
        return frozenset(self.kernel.table.values())


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    monkeypatch.setattr(Path, "write_text", lambda *_: 1)  # rp_filter of an interface that is not there
    return _Kernel()


BLOCK, ONE, TWO = ip_network("10.10.0.0/16"), ip_network("10.10.1.0/24"), ip_network("10.10.2.0/24")


def test_what_comes_and_goes_is_set_without_reading(kernel: _Kernel) -> None:
    routes = _Routes(kernel)
    assert not routes.adjust([ONE], [])  # nobody has looked yet
    routes.follow([BLOCK], [ONE])
    assert routes.adjust([TWO], [])
    assert routes.adjust([], [ONE])
    assert kernel.table.keys() == {BLOCK, TWO}
    assert (kernel.read, kernel.written) == (1, 4)


def test_another_interface_has_to_be_followed(kernel: _Kernel) -> None:
    routes = _Routes(kernel)
    routes.follow([BLOCK], [ONE])
    kernel.index = 0
    del kernel.table[ONE]  # the kernel takes a route away with its interface
    assert not routes.adjust([], [])
    routes.follow([BLOCK], [ONE])
    assert kernel.table.keys() == {BLOCK}
    kernel.index = 8
    assert not routes.adjust([TWO], [])
    routes.follow([BLOCK], [ONE, TWO])
    assert kernel.table.keys() == {BLOCK, ONE, TWO}


def test_after_a_failure_nobody_is_sure(kernel: _Kernel) -> None:
    routes = _Routes(kernel)
    routes.follow([BLOCK], [])
    kernel.fails = True
    with pytest.raises(RouteError):
        routes.adjust([ONE], [])
    kernel.fails = False
    assert not routes.adjust([TWO], [])
    routes.follow([BLOCK], [ONE, TWO])
    assert kernel.table.keys() == {BLOCK, ONE, TWO}


def test_a_foreign_change_is_found_and_mended(kernel: _Kernel) -> None:
    routes = _Routes(kernel)
    routes.follow([BLOCK], [ONE])
    assert routes.judge(routes.read()) == 0
    del kernel.table[ONE]
    kernel.table[TWO] = Route(TWO, "eth0", table=TABLE)
    assert routes.judge(routes.read()) == 2
    assert kernel.table.keys() == {BLOCK, ONE}


def test_a_site_with_all_of_its_tenants_block_takes_the_blocks_place(kernel: _Kernel) -> None:
    routes = _Routes(kernel)
    routes.follow([BLOCK], [])
    assert not routes.adjust([BLOCK], [])  # not by adding alone
    routes.follow([BLOCK], [BLOCK])
    assert kernel.table[BLOCK].kind is RouteKind.UNICAST
    assert routes.judge(routes.read()) == 0
    assert not routes.adjust([], [BLOCK])
    routes.follow([BLOCK], [])
    assert kernel.table[BLOCK].kind is RouteKind.UNREACHABLE
