from ipaddress import ip_address, ip_network

from cloudside.datapath.site_routes import TABLE, wanted_routes
from linux.routes import Route, RouteKind

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
