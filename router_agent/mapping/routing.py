"""Holds the kernel's addresses, routes and parameters against the plan. Idempotent: only the difference is changed."""

import logging
from ipaddress import ip_interface
from pathlib import Path

from linux.dataplane import Dataplane
from linux.routes import CHARON_TABLE, InterfaceState, Route, RouteKind, Routes
from router_agent.bundle import Enrolment
from router_agent.mapping import plan as planning

_log = logging.getLogger(__name__)

_FORWARDING = "net/ipv4/ip_forward"
#: rp_filter 2 (loose): answers to the router's overlay address come in on another interface than lo.
KERNEL_PARAMETERS = {_FORWARDING: "1", "net/ipv4/conf/all/rp_filter": "2"}

#: Kinds of routes in the table that are ours; in user space charon's own is there besides.
_OURS = {
    Dataplane.USERLAND: (RouteKind.THROW, RouteKind.UNREACHABLE),
    Dataplane.KERNEL: (RouteKind.THROW, RouteKind.UNREACHABLE, RouteKind.UNICAST),
}


class Mapping:
    """The router's own addresses and table 220, but for charon's route."""

    def __init__(
        self,
        routes: Routes,
        enrolment: Enrolment,
        *,
        lan: str,
        owns_lan: bool = False,
        dataplane: Dataplane = Dataplane.USERLAND,
        parameters_directory: Path = Path("/proc/sys"),
    ) -> None:
        self._routes = routes
        self._enrolment = enrolment
        self._lan = lan
        self._owns_lan = owns_lan
        self._dataplane = dataplane
        self._parameters = parameters_directory

    def reconcile(self, interfaces: tuple[InterfaceState, ...], uplinks: frozenset[str], *, filtered: bool) -> None:
        """Bring the kernel to the plan. ``filtered``: the packet filter stands; without it nothing is forwarded.

        Raises RouteError, and OSError for a parameter that cannot be set.
        """
        states = {state.name: state for state in interfaces}
        lan = states.get(self._lan)
        if self._owns_lan and lan is not None:
            self._address_lan(lan)
        wanted = planning.plan(
            self._enrolment,
            lan_addresses=lan.addresses if lan else (),
            connected=[own.network for name in uplinks if name in states for own in states[name].addresses],
            dataplane=self._dataplane,
        )
        forwarding = {_FORWARDING: "1" if filtered else "0"}
        for name, value in (KERNEL_PARAMETERS | forwarding).items():
            path = self._parameters / name
            if path.read_text().strip() != value:
                path.write_text(value)
        present = states["lo"].addresses if "lo" in states else ()
        for address in wanted.loopback - set(present):
            self._routes.add_address("lo", address)
        self._routes.add_rule(planning.RULE_PREFERENCE, CHARON_TABLE, version=self._enrolment.reachable.version)
        found: set[Route] = {route for route in self._routes.list_routes(CHARON_TABLE) if self._is_ours(route)}
        for route in wanted.routes - found:
            self._routes.replace_route(route)
            _log.info("route set: %s %s", route.kind.name.lower(), route.prefix)
        for route in found - wanted.routes:
            self._routes.delete_route(route)
            _log.info("route removed: %s %s", route.kind.name.lower(), route.prefix)

    def _address_lan(self, lan: InterfaceState) -> None:
        """The LAN interface has the LAN's first host address and, but for link-local ones, no other."""
        network = self._enrolment.lan
        own = ip_interface(f"{network.network_address + 1}/{network.prefixlen}")
        if own not in lan.addresses:
            self._routes.add_address(lan.name, own)
            _log.info("address set: %s on %s", own, lan.name)
        for address in lan.addresses:
            if address != own and not address.is_link_local:
                self._routes.delete_address(lan.name, address)
                _log.info("address removed: %s on %s", address, lan.name)

    def clear(self) -> None:
        """Take away what `reconcile` added. Raises RouteError."""
        for route in self._routes.list_routes(CHARON_TABLE):
            if self._is_ours(route):
                self._routes.delete_route(route)
        self._routes.delete_rule(planning.RULE_PREFERENCE, CHARON_TABLE, version=self._enrolment.reachable.version)

    def _is_ours(self, route: Route) -> bool:
        return route.kind in _OURS[self._dataplane]
