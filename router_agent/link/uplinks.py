"""Uplinks: the router's interfaces towards the Internet as the kernel shows them; metrics that put one first. Pure.

Which line is used is `choice`'s matter; here its default route is made the one that the kernel prefers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from linux.routes import Interface, InterfaceState, Route


class UplinkKind(Enum):
    """What a line is made of; the values are the report's words."""

    WIRED = "wired"
    MOBILE = "mobile"
    NONE = "none"


#: Metrics of the lines' default routes, two a line. A route that takes the metric of another one with the same prefix
#: replaces it, so no two lines ever share one, and they are odd: no DHCP client or pppd hands them out.
_FIRST_METRIC = 1001
_OTHER_METRIC = 1501


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


@dataclass(frozen=True, slots=True)
class Line:
    """One interface that is an uplink. ``gateway``: the provider's, None on a point-to-point line or without a route.

    ``address`` is the one that connections get; ``addresses`` are all, of which a connection may still have another.
    """

    kind: UplinkKind
    interface: str
    carrier: bool = False
    address: IPv4Address | IPv6Address | None = None
    addresses: tuple[Interface, ...] = ()
    routed: bool = False
    gateway: IPv4Address | IPv6Address | None = None

    @property
    def usable(self) -> bool:
        """Whether something can be sent over it at all. Without a default route the cloud may be a neighbour."""
        return self.carrier and self.address is not None

    @property
    def uplink(self) -> Uplink:
        """The line as what is in use."""
        return Uplink(self.kind, self.interface, self.address)


def lines(
    kinds: Mapping[str, UplinkKind], interfaces: Sequence[InterfaceState], default_routes: Sequence[Route]
) -> tuple[Line, ...]:
    """Every line, in the order of ``kinds`` (interface name -> kind), present or not. IPv4 where it has both."""
    states = {state.name: state for state in interfaces}
    return tuple(_line(kind, name, states.get(name), default_routes) for name, kind in kinds.items())


def _line(kind: UplinkKind, name: str, state: InterfaceState | None, default_routes: Sequence[Route]) -> Line:
    if state is None:
        return Line(kind, name)
    own = sorted((one for one in state.addresses if not one.is_link_local), key=lambda one: one.version)
    address = own[0].ip if own else None
    version = 4 if address is None else address.version
    route = next((one for one in default_routes if one.interface == name and one.prefix.version == version), None)
    return Line(
        kind,
        name,
        carrier=state.up and state.carrier,
        address=address,
        addresses=tuple(own),
        routed=route is not None,
        gateway=None if route is None else route.gateway,
    )


@dataclass(frozen=True, slots=True)
class MetricChange:
    """Set ``wanted``, then delete ``found``."""

    found: Route
    wanted: Route


def metric_changes(
    kinds: Mapping[str, UplinkKind], default_routes: Sequence[Route], chosen: str | None
) -> tuple[MetricChange, ...]:
    """What to change so that the chosen line's default route wins. Nothing while only one line has one.

    Add before delete, so that there is a default route at each moment; the chosen line's change comes first.
    """
    places = {name: number for number, name in enumerate(kinds)}
    changes = []
    for version in (4, 6):
        routes = [route for route in default_routes if route.interface in kinds and route.prefix.version == version]
        if len({route.interface for route in routes}) < 2:
            continue
        for route in sorted(routes, key=lambda route: route.interface != chosen):
            first = _FIRST_METRIC if route.interface == chosen else _OTHER_METRIC
            metric = first + 2 * places[route.interface or ""]
            if route.metric != metric:
                changes.append(MetricChange(route, replace(route, metric=metric)))
    return tuple(changes)
