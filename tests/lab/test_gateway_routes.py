"""The routing adapter on a real kernel: the box's own network namespace."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from linux.routes import Route, RouteError, RouteKind, Routes
from linux.runner import SubprocessRunner

TABLE = 917
LINK = "routes0"


@pytest.fixture
def routes() -> Iterator[Routes]:
    runner = SubprocessRunner()
    runner.run(["ip", "link", "add", LINK, "type", "bridge"])
    runner.run(["ip", "link", "set", LINK, "up"])
    opened = Routes()
    opened.add_address(LINK, ip_interface("192.0.2.1/24"))
    yield opened
    for route in opened.list_routes(TABLE):
        opened.delete_route(route)
    opened.close()
    runner.run(["ip", "link", "del", LINK])


@pytest.mark.parametrize(
    "route",
    [
        Route(ip_network("10.1.0.0/16"), table=TABLE, kind=RouteKind.UNREACHABLE),
        Route(ip_network("10.1.0.0/16"), table=TABLE, kind=RouteKind.THROW, metric=7),
        Route(ip_network("10.2.0.0/16"), LINK, table=TABLE, preferred_source=ip_address("192.0.2.1")),
        Route(ip_network("0.0.0.0/0"), LINK, ip_address("192.0.2.2"), table=TABLE, metric=100),
    ],
    ids=lambda route: f"{route.kind.name} {route.prefix}",
)
def test_route_is_read_back_as_written_and_both_ways_are_idempotent(routes: Routes, route: Route) -> None:
    for _ in range(2):
        routes.replace_route(route)
        assert routes.list_routes(TABLE) == (route,)
    for _ in range(2):
        routes.delete_route(route)
        assert routes.list_routes(TABLE) == ()


def test_replacing_takes_the_place_of_the_same_prefix(routes: Routes) -> None:
    prefix = ip_network("10.3.0.0/24")
    routes.replace_route(Route(prefix, table=TABLE, kind=RouteKind.UNREACHABLE))
    through = Route(prefix, LINK, table=TABLE)
    routes.replace_route(through)
    assert routes.list_routes(TABLE) == (through,)


def test_addresses_rules_and_default_routes(routes: Routes) -> None:
    routes.add_address(LINK, ip_interface("192.0.2.1/24"))
    state = next(state for state in routes.interfaces() if state.name == LINK)
    assert state.up
    assert ip_interface("192.0.2.1/24") in state.addresses
    far = Route(ip_network("0.0.0.0/0"), LINK, ip_address("192.0.2.3"), metric=200)
    near = Route(ip_network("0.0.0.0/0"), LINK, ip_address("192.0.2.2"), metric=100)
    routes.replace_route(far)
    routes.replace_route(near)
    assert routes.default_routes() == (near, far)
    for _ in range(2):
        routes.add_rule(917, TABLE)
    assert SubprocessRunner().run(["ip", "rule"]).stdout.count("lookup 917") == 1
    for _ in range(2):
        routes.delete_rule(917, TABLE)
    routes.delete_address(LINK, ip_interface("192.0.2.1/24"))
    routes.delete_address(LINK, ip_interface("192.0.2.1/24"))


def test_refusals_are_ours_and_name_the_thing(routes: Routes) -> None:
    with pytest.raises(RouteError, match="nowhere0"):
        routes.add_address("nowhere0", ip_interface("192.0.2.9/24"))
    with pytest.raises(RouteError, match=r"10\.9\.0\.0/16"):
        routes.replace_route(Route(ip_network("10.9.0.0/16"), LINK, ip_address("203.0.113.9"), table=TABLE))
