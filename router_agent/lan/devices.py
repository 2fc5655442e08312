"""What is known of the LAN's devices, put together for the report. Pure.

Three witnesses: what the settings say (reservations, the static list), what was leased, and whom the kernel heard from.
A device is told apart by its address on the LAN; what the settings call it is its name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

#: As many as a /24 holds. More are left out of the report, those that nobody stated first.
DEVICES_MAX = 254


class Source(Enum):
    """How a device is known; the values are the report's words. The first that applies counts."""

    RESERVATION = "reservation"
    STATIC = "static"
    LEASE = "lease"
    SEEN = "seen"


@dataclass(frozen=True, slots=True)
class LanDevice:
    """``mac``: lower case with colons, empty when it was never heard. ``seen_s``: seconds since, None: not heard."""

    mac: str
    address: Address
    name: str
    source: Source
    seen_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """This machine always gets this address."""

    address: Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that DHCP has handed out; ``name`` is what the device calls itself."""

    mac: str
    address: Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A machine the kernel has heard from; ``heard_s``: seconds since the last time."""

    mac: str
    address: Address
    heard_s: float


def known(
    *,
    reservations: Mapping[str, Reservation],
    stated: Mapping[str, Address],
    leases: Iterable[Lease],
    neighbours: Iterable[Neighbour],
) -> tuple[LanDevice, ...]:
    """All devices, those the settings speak of first, at most DEVICES_MAX. ``stated``: name -> address."""
    found: dict[Address, LanDevice] = {}
    for mac, reservation in reservations.items():
        found[reservation.address] = LanDevice(mac, reservation.address, reservation.name, Source.RESERVATION)
    for name, address in stated.items():
        found.setdefault(address, LanDevice("", address, name, Source.STATIC))
    for lease in leases:
        found.setdefault(lease.address, LanDevice(lease.mac, lease.address, lease.name, Source.LEASE))
    for neighbour in neighbours:
        before = found.get(neighbour.address)
        if before is None:
            before = LanDevice(neighbour.mac, neighbour.address, "", Source.SEEN)
        # Whoever answers at the address is told as it is, also where another machine was expected.
        found[neighbour.address] = replace(before, mac=neighbour.mac, seen_s=neighbour.heard_s)
    order = list(Source)
    ranked = sorted(found.values(), key=lambda device: (order.index(device.source), int(device.address)))
    return tuple(ranked[:DEVICES_MAX])
