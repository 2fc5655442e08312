"""What addresses, routes and kernel parameters a router needs. Pure.

The route to the cloud is in table 220, which is asked before the main table. charon writes it where ESP is done in user
space; where the kernel does it, it is ours and always there: without a tunnel its interface answers that the host is
unreachable. So in that table, what must not go
into the tunnel although the cloud's prefix covers it is thrown back: the LAN, and the networks on the lines (carriers
use 10.0.0.0/8 too). A line whose network holds the cloud's service address is not: a DHCP server that hands out all of
10.0.0.0/8 would take the site from the cloud, and the way to the gateway is the default route, which needs no such
exception. While there is no tunnel, the cloud's prefix is unreachable instead of leaking to the Internet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface

from linux.dataplane import TUNNEL_INTERFACE, Dataplane
from linux.routes import CHARON_TABLE, Interface, Network, Route, RouteKind
from router_agent.bundle import Enrolment

#: Right behind charon's own rule (220), which must not find its place taken; ours stays while charon is down.
RULE_PREFERENCE = 221

#: Worse than any route of charon's.
_LAST_METRIC = 4_000_000


@dataclass(frozen=True, slots=True)
class MappingPlan:
    """``loopback``: addresses for lo. ``routes``: all of table 220 but charon's own."""

    loopback: frozenset[Interface]
    routes: frozenset[Route]


def plan(
    enrolment: Enrolment,
    *,
    lan_addresses: Iterable[Interface],
    connected: Iterable[Network],
    dataplane: Dataplane = Dataplane.USERLAND,
) -> MappingPlan:
    """``lan_addresses``: what the LAN interface has. ``connected``: the networks that lie directly on the uplinks.

    The router's overlay address is on lo unless the LAN interface has it, as it has where LAN and overlay are one.
    """
    own = enrolment.router_address
    loopback = frozenset() if own in {address.ip for address in lan_addresses} else frozenset({ip_interface(own)})
    near = {enrolment.lan, *(network for network in connected if enrolment.service_address not in network)}
    routes = {
        Route(prefix, table=CHARON_TABLE, kind=RouteKind.THROW)
        for prefix in near
        if prefix.version == enrolment.reachable.version and prefix.overlaps(enrolment.reachable)
    }
    routes.add(Route(enrolment.reachable, table=CHARON_TABLE, kind=RouteKind.UNREACHABLE, metric=_LAST_METRIC))
    if dataplane is Dataplane.KERNEL:
        routes.add(Route(enrolment.reachable, TUNNEL_INTERFACE, table=CHARON_TABLE, preferred_source=own))
    return MappingPlan(loopback, frozenset(routes))
