"""Routes to sites. They follow tunnels; a site that is down is unreachable, never the default route's.

Who owns what:
- Table 219 is ours and asked before every other table but local: each tenant's block as unreachable, and for each live
  tunnel its prefix through the tunnel interface, with the service address as source of the gateway's own packets.
- Table 221 is charon's (`charon.routing_table`). kernel-libipsec installs a route for each policy whatever
  `install_routes` says (5.9.8, kernel_libipsec_ipsec.c: install_route) and takes any of the gateway's addresses in
  the local selector as source, which need not be the service address. It is asked after ours, so it decides nothing:
  a tunnel that the registry does not vouch for gets no packets.
"""

from collections.abc import Collection, Iterable
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
    """What the table should hold. A site may have all of its tenant's block: then its route takes the block's place."""
    through = set(live)
    routes = {Route(block, table=TABLE, kind=RouteKind.UNREACHABLE) for block in blocks if block not in through}
    routes |= {
        Route(prefix, TUNNEL_INTERFACE, table=TABLE, preferred_source=service_address)
        for prefix in through
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
        #: Prefixes of tenants' blocks and of live tunnels.
        self._blocks: frozenset[Network] = frozenset()
        self._live: set[Network] = set()
        #: Whether the table holds just that, as far as anybody knows.
        self._sure = False
        #: The tunnel interface that the routes lead to. One of the same name may be another: charon's goes with charon.
        self._interface = 0
        #: How often routes were changed: what was read before the last time says nothing any more.
        self.changes = 0

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
        self._look_at_interface()
        self._blocks, self._live = frozenset(blocks), set(live)
        return self._settle(self.read())

    def adjust(self, come: Collection[Network], gone: Collection[Network]) -> bool:
        """Tunnels of these prefixes came up and went away since; the rest is as it was. False, with nothing done: it
        has to be found out how the table is, by `follow`.
        """
        if not self._sure or not self._look_at_interface() or not self._blocks.isdisjoint((*come, *gone)):
            return False
        self._live -= set(gone)
        self._live |= set(come)
        if self._interface and (come or gone):
            self._change(self._site_routes(come), self._site_routes(gone))
        return True

    def read(self) -> frozenset[Route]:
        """What the table really holds. May be called by another thread."""
        return list_routes(self._runner, TABLE, version=self._service_address.version)

    def judge(self, found: frozenset[Route]) -> int:
        """Mend what is not as it was left; returns how many routes that were."""
        return self._settle(found) if self._sure else 0

    def _settle(self, found: frozenset[Route]) -> int:
        live = self._live if self._interface else ()
        wanted = wanted_routes(self._blocks, live, self._service_address)
        kept = {route.prefix for route in wanted}
        # What is wanted takes the place of what has its prefix.
        self._change(wanted - found, {route for route in found - wanted if route.prefix not in kept})
        return len(wanted ^ found)

    def _change(self, new: Collection[Route], old: Collection[Route]) -> None:
        self._sure = False
        if new or old:
            self.changes += 1
            self._routes.change_routes(sorted(new, key=_order), sorted(old, key=_order))
        self._sure = True

    def _site_routes(self, prefixes: Iterable[Network]) -> frozenset[Route]:
        return wanted_routes((), prefixes, self._service_address)

    def _look_at_interface(self) -> bool:
        """Whether the tunnel interface is the one that it was."""
        found = self._routes.index_if_up(TUNNEL_INTERFACE)
        same, self._interface = found == self._interface, found
        if found and not same:
            # Strict reverse-path filtering would drop a site's first packets; anti-spoofing is the rule set's.
            Path(f"/proc/sys/net/ipv4/conf/{TUNNEL_INTERFACE}/rp_filter").write_text("0")
        return same


def _order(route: Route) -> tuple[int, int, int]:
    return (route.prefix.version, int(route.prefix.network_address), route.prefix.prefixlen)
