"""Routes to sites. They follow tunnels; a site that is down is unreachable, never the default route's.

Who owns what:
- Table 219 is ours and asked before every other table but local: each tenant's block as unreachable, and for each live
  tunnel its prefix through the tunnel interface, with the service address as source of the gateway's own packets.
- Table 221 is charon's (`charon.routing_table`). kernel-libipsec installs a route for each policy whatever
  `install_routes` says (5.9.8, kernel_libipsec_ipsec.c: install_route) and takes any of the gateway's addresses in
  the local selector as source, which need not be the service address. It is asked after ours, so it decides nothing:
  a tunnel that the registry does not vouch for gets no packets.
"""

from collections.abc import Iterable
from ipaddress import ip_interface
from pathlib import Path

from cloudside.config import Address, Network
from linux.dataplane import TUNNEL_INTERFACE
from linux.routes import Route, RouteKind, Routes

TABLE = 219
#: Preference of the rule that leads to our table; charon's is asked later.
PREFERENCE = 219
CHARON_TABLE = 221


def wanted_routes(blocks: Iterable[Network], live: Iterable[Network], service_address: Address) -> frozenset[Route]:
    """What the table should hold."""
    routes = {Route(block, table=TABLE, kind=RouteKind.UNREACHABLE) for block in blocks}
    routes |= {
        Route(prefix, TUNNEL_INTERFACE, table=TABLE, preferred_source=service_address)
        for prefix in live
        if prefix.version == service_address.version
    }
    return frozenset(routes)


class SiteRoutes:
    """The gateway's routing. Methods raise RouteError."""

    def __init__(self, routes: Routes, service_address: Address) -> None:
        self._routes = routes
        self._service_address = service_address

    def prepare(self) -> None:
        """The service address on the loopback, the rule that leads to our table, forwarding switched on. Idempotent."""
        width = self._service_address.max_prefixlen
        self._routes.add_address("lo", ip_interface(f"{self._service_address}/{width}"))
        self._routes.add_rule(PREFERENCE, TABLE)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def follow(self, blocks: Iterable[Network], live: Iterable[Network]) -> int:
        """Make the table what it should be; returns how many routes changed.

        Without the tunnel interface (charon is away) there are no routes to sites, only the unreachable blocks.
        """
        present = any(interface.name == TUNNEL_INTERFACE and interface.up for interface in self._routes.interfaces())
        if present:
            # Strict reverse-path filtering would drop a site's first packets; anti-spoofing is the rule set's.
            Path(f"/proc/sys/net/ipv4/conf/{TUNNEL_INTERFACE}/rp_filter").write_text("0")
        wanted = wanted_routes(blocks, live if present else (), self._service_address)
        found = frozenset(self._routes.list_routes(TABLE))
        for route in sorted(wanted - found, key=_order):
            self._routes.replace_route(route)
        kept = {route.prefix for route in wanted}
        for route in sorted(found - wanted, key=_order):
            if route.prefix not in kept:  # else its place was taken just now
                self._routes.delete_route(route)
        return len(wanted ^ found)


def _order(route: Route) -> tuple[int, int, int]:
    return (route.prefix.version, int(route.prefix.network_address), route.prefix.prefixlen)
