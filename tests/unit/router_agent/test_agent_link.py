"""Uplinks and the routing plan: which line is in use, what must not go into the tunnel."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import cast

import pytest

from linux.dataplane import Dataplane
from linux.routes import CHARON_TABLE, InterfaceState, Route, RouteKind, Routes
from router_agent.bundle import Enrolment
from router_agent.link import uplinks
from router_agent.link.uplinks import Uplink, UplinkKind
from router_agent.mapping import plan as planning
from router_agent.mapping import routing

EVERYWHERE = ip_network("0.0.0.0/0")
KINDS = {"wan0": UplinkKind.WIRED, "wwan0": UplinkKind.MOBILE}


def state(name: str, *addresses: str, up: bool = True, carrier: bool = True) -> InterfaceState:
    return InterfaceState(name, up, carrier, tuple(ip_interface(text) for text in addresses))


def default(interface: str, metric: int = 0) -> Route:
    return Route(ip_network("0.0.0.0/0"), interface, ip_address("192.0.2.1"), metric=metric)


WIRED, MOBILE = state("wan0", "192.0.2.9/24"), state("wwan0", "10.64.0.5/30")


def test_a_line_is_what_the_kernel_shows_of_it() -> None:
    wired, mobile = uplinks.lines(KINDS, [MOBILE, WIRED], (default("wan0"), Route(EVERYWHERE, "wwan0")))
    assert (wired.uplink, wired.usable, wired.routed) == (
        Uplink(UplinkKind.WIRED, "wan0", ip_address("192.0.2.9")), True, True,
    )  # fmt: skip
    assert wired.gateway == ip_address("192.0.2.1")
    assert (mobile.usable, mobile.routed, mobile.gateway) == (True, True, None), "a point-to-point line has no gateway"


@pytest.mark.parametrize(
    "wired",
    [state("wan0"), state("wan0", "192.0.2.9/24", carrier=False), state("wan0", "192.0.2.9/24", up=False), None],
)
def test_a_line_without_carrier_or_address_is_of_no_use(wired: InterfaceState | None) -> None:
    shown = [MOBILE] if wired is None else [wired, MOBILE]
    assert [line.usable for line in uplinks.lines(KINDS, shown, (default("wan0"),))] == [False, True]


def test_a_link_local_address_is_none_and_ipv4_comes_first() -> None:
    assert not uplinks.lines(KINDS, [state("wan0", "fe80::1/64")], ())[0].usable
    both = uplinks.lines(KINDS, [state("wan0", "2001:db8::2/64", "192.0.2.9/24")], ())[0]
    assert (both.address, len(both.addresses), both.routed) == (ip_address("192.0.2.9"), 2, False)


@pytest.mark.parametrize("chosen", ["wan0", "wwan0"])
def test_the_chosen_lines_route_wins_and_no_route_replaces_the_other(chosen: str) -> None:
    routes = {route.metric: route for route in (default("wan0"), default("wwan0", 20))}
    for turn in (chosen, "wan0", "wwan0", chosen, chosen):
        for change in uplinks.metric_changes(KINDS, tuple(routes.values()), turn):
            assert change.wanted.metric not in routes, "would take the other line's route away"
            routes[change.wanted.metric] = change.wanted
            del routes[change.found.metric]
    assert len(routes) == 2
    assert routes[min(routes)].interface == chosen
    assert uplinks.metric_changes(KINDS, tuple(routes.values()), chosen) == ()


def test_a_single_line_is_left_alone() -> None:
    assert uplinks.metric_changes(KINDS, (default("wan0", 7),), "wwan0") == ()


def test_the_cloud_is_unreachable_without_a_tunnel_and_never_the_internet(enrolment: Enrolment) -> None:
    made = planning.plan(enrolment, lan_addresses=(), connected=())
    assert made.loopback == {ip_interface("10.10.1.1/32")}
    (route,) = made.routes
    assert (route.prefix, route.kind, route.table) == (enrolment.reachable, RouteKind.UNREACHABLE, CHARON_TABLE)
    assert route.metric > 1000


def test_with_esp_in_the_kernel_the_way_to_the_cloud_is_ours_and_comes_first(enrolment: Enrolment) -> None:
    made = planning.plan(enrolment, lan_addresses=(), connected=(), dataplane=Dataplane.KERNEL)
    first, last = sorted(made.routes, key=lambda route: route.metric)
    assert (first.interface, first.prefix, first.table) == ("ipsec0", enrolment.reachable, CHARON_TABLE)
    assert first.preferred_source == enrolment.router_address
    assert last.kind is RouteKind.UNREACHABLE


def test_lan_and_lines_inside_the_clouds_prefix_stay_out_of_the_tunnel(enrolment: Enrolment) -> None:
    same = replace(enrolment, lan=enrolment.overlay)
    made = planning.plan(
        same,
        lan_addresses=[ip_interface("10.10.1.1/24")],
        connected=[ip_network("10.64.0.4/30"), ip_network("192.0.2.0/24")],
    )
    assert made.loopback == frozenset()
    thrown = {str(route.prefix) for route in made.routes if route.kind is RouteKind.THROW}
    assert thrown == {"10.10.1.0/24", "10.64.0.4/30"}


@pytest.mark.parametrize("line", ["10.0.0.0/8", "10.128.0.0/9", "0.0.0.0/0"])
def test_a_line_that_claims_the_clouds_prefix_does_not_get_it(enrolment: Enrolment, line: str) -> None:
    made = planning.plan(enrolment, lan_addresses=(), connected=[ip_network(line)])
    assert [route for route in made.routes if route.kind is RouteKind.THROW] == []


class NoRoutes:
    """A routing table that takes everything."""

    def list_routes(self, _table: int) -> tuple[()]:
        return ()

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def test_nothing_is_forwarded_before_the_packet_filter_stands(enrolment: Enrolment, tmp_path: Path) -> None:
    for name in routing.KERNEL_PARAMETERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    forwards = tmp_path / "net/ipv4/ip_forward"
    mapping = routing.Mapping(cast(Routes, NoRoutes()), enrolment, lan="lan0", parameters_directory=tmp_path)
    mapping.reconcile((), frozenset(), filtered=False)
    assert forwards.read_text() == "0"
    mapping.reconcile((), frozenset(), filtered=True)
    assert forwards.read_text() == "1"


def test_the_lans_interface_gets_the_lans_first_address_and_loses_others(enrolment: Enrolment, tmp_path: Path) -> None:
    changes: list[tuple[str, str, str]] = []

    class Recording(NoRoutes):
        def add_address(self, interface: str, address: object) -> None:
            changes.append(("add", interface, str(address)))

        def delete_address(self, interface: str, address: object) -> None:
            changes.append(("delete", interface, str(address)))

    for name in routing.KERNEL_PARAMETERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    mapping = routing.Mapping(
        cast(Routes, Recording()), enrolment, lan="lan0", owns_lan=True, parameters_directory=tmp_path
    )
    first = f"{enrolment.lan.network_address + 1}/{enrolment.lan.prefixlen}"
    old = (ip_interface("172.31.9.1/24"), ip_interface("fe80::1/64"))
    mapping.reconcile((InterfaceState("lan0", True, True, old),), frozenset(), filtered=True)
    assert [one for one in changes if one[1] == "lan0"] == [("add", "lan0", first), ("delete", "lan0", "172.31.9.1/24")]
    changes.clear()
    mapping.reconcile((InterfaceState("lan0", True, True, (ip_interface(first), old[1])),), frozenset(), filtered=True)
    assert [one for one in changes if one[1] == "lan0"] == []
