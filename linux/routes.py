"""Addresses, interfaces, routes and routing rules of the network namespace this process lives in.

All of netlink's messages (pyroute2) end here. One `Routes` belongs to one thread. Every method raises RouteError when
the kernel says no.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

from linux.errors import LinuxError
from linux.netlink import IPRoute, NetlinkError
from linux.runner import Runner, SubprocessRunner

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

#: The kernel's own table for everything that no rule sends elsewhere (rtnetlink(7)).
MAIN_TABLE = 254
#: The table strongSwan's kernel plugins write to by default, looked up before main.
CHARON_TABLE = 220

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSIONS = {int(family): version for version, family in _FAMILIES.items()}
#: From more changes on a run of iproute2 is the cheaper way.
_FEW_ROUTES = 4
_GET_FLAGS = 0x8913  # SIOCGIFFLAGS
_ADMINISTRATIVELY_UP = 0x1  # IFF_UP
_RUNNING = 0x10000  # IFF_LOWER_UP: the carrier is there
#: What the kernel fills in for an IPv6 route without a metric; for IPv4 it leaves the attribute out.
_NO_METRIC = {4: 0, 6: 1024}


class RouteError(LinuxError):
    """The kernel refused a change of routes, rules or addresses; the text names the change and the reason."""


class RouteKind(Enum):
    """What happens to a packet that matches; the values are rtnetlink's type numbers."""

    UNICAST = 1
    #: Dropped, and the sender is told.
    UNREACHABLE = 7
    #: This table has no answer: the next rule is asked.
    THROW = 9


@dataclass(frozen=True, slots=True)
class Route:
    """One route. ``preferred_source``: the address the machine's own packets take. The lowest ``metric`` wins."""

    prefix: Network
    interface: str | None = None
    gateway: Address | None = None
    table: int = MAIN_TABLE
    kind: RouteKind = RouteKind.UNICAST
    metric: int = 0
    preferred_source: Address | None = None


@dataclass(frozen=True, slots=True)
class SourceRule:
    """Packets from ``source`` are looked up in ``table``; a rule with a lower ``preference`` is asked earlier."""

    preference: int
    table: int
    source: Address


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """One interface. ``up``: switched on; ``carrier``: something is plugged in and alive at the other end.

    ``index`` is the kernel's number: another interface of the same name has another one.
    """

    name: str
    up: bool
    carrier: bool
    addresses: tuple[Interface, ...]
    index: int = 0


class Routes:
    """The kernel's routing, read and changed over netlink."""

    def __init__(self, runner: Runner | None = None) -> None:
        self._netlink = IPRoute()
        self._runner = runner or SubprocessRunner()

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def list_routes(self, table: int = MAIN_TABLE) -> tuple[Route, ...]:
        """The routes of one table, both families; kinds that Route does not know (local, broadcast, ...) left out."""
        found: list[Route] = []
        with _translated(f"list the routes of table {table}"):
            names = self._names()
            for version, family in _FAMILIES.items():
                for message in self._netlink.get_routes(family=family, table=table):
                    route = _route(message, version, names)
                    if route is not None and route.table == table:
                        found.append(route)
        return tuple(found)

    def default_routes(self) -> tuple[Route, ...]:
        """Main-table routes to everywhere, the one in use first."""
        routes = [route for route in self.list_routes() if route.prefix.prefixlen == 0]
        return tuple(sorted(routes, key=lambda route: (route.prefix.version, route.metric)))

    def replace_route(self, route: Route) -> None:
        """Add the route, or take the place of the one with the same prefix, table and metric."""
        with _translated(f"set the route {_shown(route)}"):
            self._netlink.route("replace", **self._arguments(route))

    def delete_route(self, route: Route) -> None:
        """Remove the route; one that is not there is not an error."""
        with _translated(f"delete the route {_shown(route)}", but=(errno.ESRCH, errno.ENODEV, errno.ENOENT)):
            self._netlink.route("del", **self._arguments(route))

    def change_routes(self, new: Collection[Route], old: Collection[Route]) -> None:
        """`replace_route` for each new one, then `delete_route` for each old one. Many are one run of iproute2:
        pyroute2 takes a millisecond for each.
        """
        if len(new) + len(old) <= _FEW_ROUTES:
            for route in new:
                self.replace_route(route)
            for route in old:
                self.delete_route(route)
            return
        lines = [f"route replace {_line(route)}\n" for route in new]
        lines += [f"route del {_line(route)}\n" for route in old]
        # -force: a route that is gone already is as wished; whether the new ones are there is what counts.
        ended = self._runner.run(["ip", "-force", "-batch", "-"], stdin="".join(lines), timeout_s=60, check=False)
        refused = [
            line
            for line in ended.stderr.splitlines()
            if line.startswith(("RTNETLINK", "Cannot", "Error")) and "No such process" not in line
        ]
        if refused:
            raise RouteError(f"cannot change {len(lines)} routes: {refused[0]}")

    def index_if_up(self, interface: str) -> int:
        """The kernel's number of an interface; 0: there is none, or it is down."""
        name = interface.encode()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                answer = fcntl.ioctl(asked, _GET_FLAGS, struct.pack("16sH14x", name, 0))
            up = struct.unpack_from("16sH", answer)[1] & _ADMINISTRATIVELY_UP
            return socket.if_nametoindex(interface) if up else 0
        except OSError:
            return 0

    def add_rule(self, preference: int, table: int, *, version: int = 4) -> None:
        """Look up ``table`` at this preference (lower is asked earlier) for every packet. Idempotent."""
        with _translated(f"add the routing rule {preference} for table {table}", but=(errno.EEXIST,)):
            for message in self._netlink.get_rules(family=_FAMILIES[version]):
                if message.get_attr("FRA_PRIORITY") == preference and message.get_attr("FRA_TABLE") == table:
                    return
            self._netlink.rule("add", priority=preference, table=table, family=_FAMILIES[version])

    def delete_rule(self, preference: int, table: int, *, version: int = 4) -> None:
        """Remove the rule; one that is not there is not an error."""
        with _translated(f"delete the routing rule {preference}", but=(errno.ENOENT, errno.ESRCH)):
            self._netlink.rule("del", priority=preference, table=table, family=_FAMILIES[version])

    def source_rules(self, preference: int) -> tuple[SourceRule, ...]:
        """The rules of this preference that ask for one source address, both families."""
        found = []
        with _translated("list the routing rules"):
            for family in _FAMILIES.values():
                for message in self._netlink.get_rules(family=family):
                    source = message.get_attr("FRA_SRC")
                    if message.get_attr("FRA_PRIORITY") == preference and source is not None:
                        found.append(SourceRule(preference, message.get_attr("FRA_TABLE"), ip_address(source)))
        return tuple(found)

    def add_source_rule(self, rule: SourceRule) -> None:
        """Add the rule. Idempotent."""
        with _translated(f"add the routing rule for {rule.source}", but=(errno.EEXIST,)):
            self._netlink.rule("add", **_rule_arguments(rule))

    def delete_source_rule(self, rule: SourceRule) -> None:
        """Remove the rule; one that is not there is not an error."""
        with _translated(f"delete the routing rule for {rule.source}", but=(errno.ENOENT, errno.ESRCH)):
            self._netlink.rule("del", **_rule_arguments(rule))

    def add_address(self, interface: str, address: Interface) -> None:
        """Give an interface an address. Idempotent."""
        with _translated(f"add the address {address} to {interface}", but=(errno.EEXIST,)):
            self._netlink.addr(
                "add", index=self._index(interface), address=str(address.ip), prefixlen=address.network.prefixlen
            )

    def delete_address(self, interface: str, address: Interface) -> None:
        """Take an address away; one that is not there is not an error."""
        with _translated(f"delete the address {address} of {interface}", but=(errno.EADDRNOTAVAIL,)):
            self._netlink.addr(
                "del", index=self._index(interface), address=str(address.ip), prefixlen=address.network.prefixlen
            )

    def interfaces(self) -> tuple[InterfaceState, ...]:
        """Every interface with its addresses, in the kernel's order."""
        with _translated("list the interfaces"):
            addresses: dict[int, list[Interface]] = {}
            for message in self._netlink.get_addr():
                # On a point-to-point link IFA_ADDRESS is the far end; IFA_LOCAL, where there is one, is ours.
                own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                addresses.setdefault(message["index"], []).append(ip_interface(f"{own}/{message['prefixlen']}"))
            return tuple(
                InterfaceState(
                    name=link.get_attr("IFLA_IFNAME"),
                    up=bool(link["flags"] & _ADMINISTRATIVELY_UP),
                    carrier=bool(link["flags"] & _RUNNING),
                    addresses=tuple(addresses.get(link["index"], ())),
                    index=link["index"],
                )
                for link in self._netlink.get_links()
            )

    def _names(self) -> dict[int, str]:
        return {link["index"]: link.get_attr("IFLA_IFNAME") for link in self._netlink.get_links()}

    def _index(self, interface: str) -> int:
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            raise RouteError(f"there is no interface {interface}") from None

    def _arguments(self, route: Route) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "family": _FAMILIES[route.prefix.version],
            "dst": str(route.prefix.network_address),
            "dst_len": route.prefix.prefixlen,
            "table": route.table,
            "type": route.kind.value,
        }
        if route.interface is not None:
            arguments["oif"] = self._index(route.interface)
        if route.gateway is not None:
            arguments["gateway"] = str(route.gateway)
        elif route.interface is not None and route.prefix.version == 4:
            arguments["scope"] = 253  # link: what `ip route add ... dev` chooses when there is no gateway
        if route.metric:
            arguments["priority"] = route.metric
        if route.preferred_source is not None:
            arguments["prefsrc"] = str(route.preferred_source)
        return arguments


def _rule_arguments(rule: SourceRule) -> dict[str, Any]:
    return {
        "family": _FAMILIES[rule.source.version],
        "priority": rule.preference,
        "table": rule.table,
        "src": str(rule.source),
        "src_len": rule.source.max_prefixlen,
    }


def _route(message: Any, version: int, names: dict[int, str]) -> Route | None:
    if _VERSIONS.get(message["family"]) != version:
        return None
    try:
        kind = RouteKind(message["type"])
    except ValueError:
        return None
    destination = message.get_attr("RTA_DST") or ("0.0.0.0" if version == 4 else "::")  # noqa: S104 - the default route
    gateway = message.get_attr("RTA_GATEWAY")
    source = message.get_attr("RTA_PREFSRC")
    index = message.get_attr("RTA_OIF")
    metric = message.get_attr("RTA_PRIORITY") or 0
    return Route(
        prefix=ip_network(f"{destination}/{message['dst_len']}"),
        interface=names.get(index) if kind is RouteKind.UNICAST else None,
        gateway=ip_address(gateway) if gateway else None,
        table=message.get_attr("RTA_TABLE") or message["table"],
        kind=kind,
        metric=0 if metric == _NO_METRIC[version] else metric,
        preferred_source=ip_address(source) if source else None,
    )


def _line(route: Route) -> str:
    """A route as `ip route` takes it."""
    words = [] if route.kind is RouteKind.UNICAST else [route.kind.name.lower()]
    words += [str(route.prefix), "table", str(route.table)]
    for word, value in (
        ("via", route.gateway),
        ("dev", route.interface),
        ("metric", route.metric or None),
        ("src", route.preferred_source),
    ):
        if value is not None:
            words += [word, str(value)]
    return " ".join(words)


def _shown(route: Route) -> str:
    parts = [str(route.prefix), f"table {route.table}"]
    if route.gateway is not None:
        parts.append(f"via {route.gateway}")
    if route.interface is not None:
        parts.append(f"dev {route.interface}")
    return " ".join(parts)


@contextmanager
def _translated(what: str, *, but: tuple[int, ...] = ()) -> Iterator[None]:
    """Netlink's and the socket's errors as ours; those whose number is in ``but`` mean that all is as wished."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in but:
            raise RouteError(f"cannot {what}: {error.args[-1]}") from error
    except OSError as error:
        raise RouteError(f"cannot {what}: {error}") from error
