"""The settings of the LAN, names that begin with ``lan.``. Pure.

    lan.dhcp           yes or no (default): whether the router hands out addresses
    lan.dhcp_range     192.168.1.100-192.168.1.199: those for machines without a reservation; none without it
    lan.reservations   list of "MAC=ADDRESS=NAME": this machine always gets this address; the name may be left out
    lan.devices        list of "NAME=ADDRESS": devices with an address of their own
    lan.essential      list of ADDRESS: devices that must answer before a new release is kept

What comes from here stands in dnsmasq's configuration, so every word is held against its form: a line break in a name
would be a directive.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from router_agent.lan.devices import DEVICES_MAX, Reservation

PREFIX = "lan."

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
#: A host name of one label (RFC 1123 section 2.1): dnsmasq takes nothing else.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Both ends belong to it."""

    first: IPv4Address
    last: IPv4Address

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last


@dataclass(frozen=True, slots=True)
class LanSettings:
    """``reservations``: MAC address, lower case, -> address. ``devices``: name -> address."""

    dhcp: bool = False
    dhcp_range: AddressRange | None = None
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    devices: Mapping[str, IPv4Address] = field(default_factory=dict)
    essential: tuple[IPv4Address, ...] = ()


def changed(settings: LanSettings, name: str, value: object) -> LanSettings:
    """The settings with one value set. Raises ValueError: the name is unknown or the value does not fit."""
    match name:
        case "lan.dhcp":
            if not isinstance(value, bool):
                raise ValueError
            return replace(settings, dhcp=value)
        case "lan.dhcp_range":
            return replace(settings, dhcp_range=_range(value))
        case "lan.reservations":
            return replace(settings, reservations=_reservations(value))
        case "lan.devices":
            return replace(settings, devices=_devices(value))
        case "lan.essential":
            return replace(settings, essential=tuple(dict.fromkeys(IPv4Address(item) for item in _items(value))))
        case _:
            raise ValueError


def _range(value: object) -> AddressRange:
    first, dash, last = _text(value).partition("-")
    if not dash:
        raise ValueError
    found = AddressRange(IPv4Address(first.strip()), IPv4Address(last.strip()))
    if found.first > found.last:
        raise ValueError
    return found


def _reservations(value: object) -> dict[str, Reservation]:
    found: dict[str, Reservation] = {}
    for item in _items(value):
        mac, _, rest = item.partition("=")
        address, _, name = rest.partition("=")
        mac = mac.lower()
        # An odd first octet is a group's address, no machine's (IEEE 802).
        if not _MAC.match(mac) or int(mac[:2], 16) % 2 or mac in found or (name and not _NAME.match(name)):
            raise ValueError
        found[mac] = Reservation(IPv4Address(address), name)
    if len({reservation.address for reservation in found.values()}) < len(found):
        raise ValueError
    return found


def _devices(value: object) -> dict[str, IPv4Address]:
    found: dict[str, IPv4Address] = {}
    for item in _items(value):
        name, _, address = item.partition("=")
        if not _NAME.match(name) or name in found:
            raise ValueError
        found[name] = IPv4Address(address)
    return found


def _items(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > DEVICES_MAX:
        raise ValueError
    return [_text(item) for item in value]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value
