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
from linux.route_listing import list_routes
from linux.routes import Route, RouteKind, Routes
from linux.runner import Runner

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
    """The gateway's routing. Methods raise LinuxError.

    What the table holds is remembered, because to read it takes long: with each tunnel that comes up one route is set
    and none is read. `read` and `judge` find out whether it is still so.
    """

    def __init__(self, routes: Routes, runner: Runner, service_address: Address) -> None:
        self._routes = routes
        self._runner = runner
        self._service_address = service_address
        self._wanted: frozenset[Route] = frozenset()
        #: What the table holds; None: nobody knows.
        self._held: frozenset[Route] | None = None
        #: The tunnel interface that the routes lead to. One of the same name may be another: charon's goes with charon.
        self._interface = 0

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
        interface = self._tunnel_interface()
        if interface != self._interface:
            self._held = None
        if interface and interface != self._interface:
            # Strict reverse-path filtering would drop a site's first packets; anti-spoofing is the rule set's.
            Path(f"/proc/sys/net/ipv4/conf/{TUNNEL_INTERFACE}/rp_filter").write_text("0")
        self._interface = interface
        self._wanted = wanted_routes(blocks, live if interface else (), self._service_address)
        return self._change(self.read() if self._held is None else self._held)

    def read(self) -> frozenset[Route]:
        """What the table really holds. May be called by another thread."""
        return list_routes(self._runner, TABLE, version=self._service_address.version)

    def judge(self, found: frozenset[Route]) -> int:
        """Mend what is not as the last `follow` left it; returns how many routes that were."""
        return self._change(found)

    def _change(self, found: frozenset[Route]) -> int:
        wanted = self._wanted
        self._held = None
        for route in sorted(wanted - found, key=_order):
            self._routes.replace_route(route)
        kept = {route.prefix for route in wanted}
        for route in sorted(found - wanted, key=_order):
            if route.prefix not in kept:  # else its place was taken just now
                self._routes.delete_route(route)
        self._held = wanted
        return len(wanted ^ found)

    def _tunnel_interface(self) -> int:
        """The number of the tunnel interface; 0: there is none, or it is down."""
        for interface in self._routes.interfaces():
            if interface.name == TUNNEL_INTERFACE and interface.up:
                return interface.index
        return 0


def _order(route: Route) -> tuple[int, int, int]:
    return (route.prefix.version, int(route.prefix.network_address), route.prefix.prefixlen)
