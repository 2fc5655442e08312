"""dnsmasq's configuration and its lease file, as text. Pure.

dnsmasq(8): DHCP only (``port=0``: no DNS), on the LAN interface only, with no file of the machine's own read. Of the
settings only that is taken which fits the LAN; the rest becomes a problem, never a directive that stops dnsmasq.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

from router_agent.bundle import Address, Network
from router_agent.lan.devices import Lease, Reservation
from router_agent.lan.settings import AddressRange, LanSettings
from router_agent.problems import Problem

#: Seconds that an address is handed out for. Long: a controller must not lose its own while the router is repaired.
LEASE_S = 12 * 3600

_TEXT_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Service:
    """What DHCP shall do on this LAN; ``dhcp_range`` None: machines with a reservation only."""

    lan: IPv4Network
    router: IPv4Address
    dhcp_range: AddressRange | None
    reservations: dict[str, Reservation]


def plan(settings: LanSettings, lan: Network, addresses: Iterable[Address]) -> tuple[Service | None, list[Problem]]:
    """What to run, None: nothing, and what does not fit. ``addresses``: those the LAN interface has now."""
    if not settings.dhcp:
        return None, []
    own = [address for address in addresses if isinstance(address, IPv4Address) and address in lan]
    # DHCP is IPv4's; a LAN of IPv6 alone has router advertisements, and no address of the kind asked for here.
    if not isinstance(lan, IPv4Network) or not own:
        return None, [Problem("agent.dhcp-no-address", {"lan": str(lan)})]
    router = own[0]
    unfit: list[str] = []
    reservations = {}
    for mac, reservation in settings.reservations.items():
        if _is_host(reservation.address, lan) and reservation.address not in own:
            reservations[mac] = reservation
        else:
            unfit.append(f"{mac}={reservation.address}")
    dhcp_range = settings.dhcp_range
    if dhcp_range is not None and not (_is_host(dhcp_range.first, lan) and _is_host(dhcp_range.last, lan)):
        unfit.append(f"{dhcp_range.first}-{dhcp_range.last}")
        dhcp_range = None
    params = {"lan": str(lan), "router": str(router), "values": ", ".join(unfit)[:_TEXT_MAX_CHARS]}
    problems = [Problem("agent.dhcp-unfit", params)] if unfit else []
    if dhcp_range is None and not reservations:
        return None, problems or [Problem("agent.dhcp-nothing", {"lan": str(lan)})]
    return Service(lan, router, dhcp_range, reservations), problems


def render(service: Service, *, interface: str, pid_file: Path, lease_file: Path) -> str:
    """dnsmasq.conf. The router's own address is never handed out; dnsmasq leaves it out by itself."""
    span = service.dhcp_range
    ends = f"{service.lan.network_address},static" if span is None else f"{span.first},{span.last}"
    lines = [
        "port=0",
        f"interface={interface}",
        "except-interface=lo",
        "bind-interfaces",
        "no-resolv",
        "no-hosts",
        "dhcp-authoritative",
        f"dhcp-range={ends},{service.lan.netmask},{LEASE_S}",
        f"dhcp-option=option:router,{service.router}",
        # No name server: the LAN reaches the cloud only, and by address.
        "dhcp-option=option:dns-server",
        "dhcp-lease-max=1000",
        f"dhcp-leasefile={lease_file}",
        f"pid-file={pid_file}",
        *(
            f"dhcp-host={mac},{reservation.address}{',' + reservation.name if reservation.name else ''},{LEASE_S}"
            for mac, reservation in sorted(service.reservations.items())
        ),
    ]
    return "".join(f"{line}\n" for line in lines)


def leases(text: str, *, now: float) -> tuple[Lease, ...]:
    """The leases in dnsmasq's lease file that have not ended; ``now``: seconds since the epoch.

    A line: end (0: never), MAC address, address, name or ``*``, client id. What has another form is left out: IPv6, the
    server's id, a line that was being written.
    """
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or not words[0].isdigit():
            continue
        try:
            address = ip_address(words[2])
        except ValueError:
            continue
        if int(words[0]) == 0 or int(words[0]) > now:
            name = "" if words[3] == "*" else words[3][:_TEXT_MAX_CHARS]
            found.append(Lease(words[1].lower()[-17:], address, name))
    return tuple(found)


def _is_host(address: Address, lan: IPv4Network) -> bool:
    return address in lan and address not in (lan.network_address, lan.broadcast_address)
