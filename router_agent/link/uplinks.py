"""Uplinks: the router's interfaces towards the Internet, and the order they are used in. Pure.

Here a line's own health is not judged: the one whose default route the kernel prefers is in use. Probing through each
line, modem and data budget come with the mobile work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from linux.routes import InterfaceState, Route


class UplinkKind(Enum):
    """What a line is made of; the values are the report's words."""

    WIRED = "wired"
    MOBILE = "mobile"
    NONE = "none"


#: Metrics of the lines' default routes. Odd numbers on purpose: a route that takes the metric of another one with the
#: same prefix replaces it, so these are ones that no DHCP client or pppd hands out, and no two are ever the same.
_WIRED_METRIC = 1101
_MOBILE_METRIC = {UplinkKind.WIRED: 1203, UplinkKind.MOBILE: 1051}


@dataclass(frozen=True, slots=True)
class Uplink:
    """The line in use: its kind, interface and own address there."""

    kind: UplinkKind
    interface: str = ""
    address: IPv4Address | IPv6Address | None = None


NO_UPLINK = Uplink(UplinkKind.NONE)


@dataclass(frozen=True, slots=True)
class UplinkReport:
    """One line, in use or not, as the cloud hears of it.

    ``healthy``: None while nothing is known yet. ``since_s``: seconds in that health. ``rtt_ms``: to the cloud through
    this line, the last probe's. Probes are counted since the agent's start.
    """

    kind: UplinkKind
    interface: str
    address: IPv4Address | IPv6Address | None
    carrier: bool
    healthy: bool | None
    since_s: float
    rtt_ms: float | None
    in_use: bool
    probes_sent: int
    probes_lost: int


def in_use(
    kinds: Mapping[str, UplinkKind], interfaces: Sequence[InterfaceState], default_routes: Sequence[Route]
) -> Uplink:
    """The line that carries the default route now: the first default route whose line has a carrier and an address.

    Without such a route any line with a carrier and an address will do, wired first: on a private line the gateway may
    be a neighbour. ``kinds``: interface name -> kind. ``default_routes`` with the one in use first.
    """
    states = {state.name: state for state in interfaces}
    for route in default_routes:
        found = _usable(kinds, states.get(route.interface or ""), route.prefix.version)
        if found is not None:
            return found
    for state in sorted(interfaces, key=lambda state: kinds.get(state.name) is not UplinkKind.WIRED):
        found = _usable(kinds, state, 4) or _usable(kinds, state, 6)
        if found is not None:
            return found
    return NO_UPLINK


def _usable(kinds: Mapping[str, UplinkKind], state: InterfaceState | None, version: int) -> Uplink | None:
    if state is None or state.name not in kinds or not (state.up and state.carrier):
        return None
    own = (address.ip for address in state.addresses if address.version == version and not address.is_link_local)
    address = next(own, None)
    return None if address is None else Uplink(kinds[state.name], state.name, address)


@dataclass(frozen=True, slots=True)
class MetricChange:
    """Set ``wanted``, then delete ``found``."""

    found: Route
    wanted: Route


def metric_changes(
    kinds: Mapping[str, UplinkKind], default_routes: Sequence[Route], prefer: UplinkKind
) -> tuple[MetricChange, ...]:
    """What to change so that the preferred line's default route wins. Nothing while only one line has one.

    Add before delete, so that there is a default route at each moment.
    """
    wanted = {UplinkKind.WIRED: _WIRED_METRIC, UplinkKind.MOBILE: _MOBILE_METRIC[prefer]}
    changes = []
    for version in (4, 6):
        routes = [route for route in default_routes if route.interface in kinds and route.prefix.version == version]
        if len({kinds[route.interface or ""] for route in routes}) < 2:
            continue
        for route in routes:
            metric = wanted[kinds[route.interface or ""]]
            if route.metric != metric:
                changes.append(MetricChange(route, replace(route, metric=metric)))
    return tuple(changes)
