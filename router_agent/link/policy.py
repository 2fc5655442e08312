"""A routing table for each line, so that what has a line's address leaves by that line. Pure, and a keeper.

charon, sshd and answers to whoever reached an address of ours keep their source when another line becomes the one in
use: without a table of its own such a packet would leave by the new line with the old one's address, and providers drop
what is not theirs. The provider's gateway is the one that DHCP or pppd put into the main table.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from linux.routes import Network, Route, RouteKind, Routes, SourceRule
from router_agent.link.tables import tables
from router_agent.link.uplinks import Line

_log = logging.getLogger(__name__)

#: Asked after the tunnel's own rules (220, 221): what goes to the cloud goes into the tunnel whatever its source.
PREFERENCE = 222

_EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """``routes``: all of the lines' tables. ``rules``: from which address to which table."""

    routes: frozenset[Route]
    rules: frozenset[SourceRule]


def plan(lines: Sequence[Line], *, near: Sequence[Network] = ()) -> PolicyPlan:
    """What routes and rules there shall be. A line without an address or a default route has none.

    ``near``: networks that stay with the main table whatever the source: the LAN.
    """
    routes, rules = set(), set()
    for table, line in zip(tables(), lines, strict=False):
        if line.address is None or not line.routed:
            continue
        version = line.address.version
        own = [one for one in line.addresses if one.version == version]
        # A point-to-point address is a network of its own; the far end is reached by the default route.
        routes |= {
            Route(one.network, line.interface, table=table)
            for one in own
            if one.network.prefixlen < one.network.max_prefixlen
        }
        routes |= {Route(one, table=table, kind=RouteKind.THROW) for one in near if one.version == version}
        routes.add(Route(_EVERYWHERE[version], line.interface, line.gateway, table=table))
        rules |= {SourceRule(PREFERENCE, table, one.ip) for one in own}
    return PolicyPlan(frozenset(routes), frozenset(rules))


def reconcile(kernel: Routes, wanted: PolicyPlan) -> None:
    """Bring the kernel to the plan; only the difference is changed. Raises RouteError."""
    found = {route for table in tables() for route in kernel.list_routes(table)}
    # By interface and next hop only: the kernel writes down more than it was given.
    for route in wanted.routes - found:
        kernel.replace_route(route)
    for route in found - wanted.routes:
        kernel.delete_route(route)
    rules = set(kernel.source_rules(PREFERENCE))
    for rule in wanted.rules - rules:
        kernel.add_source_rule(rule)
        _log.info("what comes from %s leaves by table %d", rule.source, rule.table)
    for rule in rules - wanted.rules:
        kernel.delete_source_rule(rule)


def clear(kernel: Routes) -> None:
    """Take away what `reconcile` added. Raises RouteError."""
    reconcile(kernel, PolicyPlan(frozenset(), frozenset()))
