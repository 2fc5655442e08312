"""The kernel's neighbour table (ARP, neighbour discovery): who was heard on an interface, and when.

All of netlink's messages (pyroute2) about it end here.
"""

import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from linux.netlink import IPRoute, NetlinkError
from linux.routes import RouteError

#: NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT (rtnetlink(7)): the machine has been heard.
_HEARD = 0x02 | 0x04 | 0x08 | 0x10 | 0x80


@dataclass(frozen=True, slots=True)
class NeighbourEntry:
    """``mac``: lower case with colons. ``heard_s``: seconds since the machine was heard, give or take a minute."""

    mac: str
    address: IPv4Address | IPv6Address
    heard_s: float


def neighbours(interface: str, *, version: int = 4) -> tuple[NeighbourEntry, ...]:
    """The machines that were heard on this interface. Raises RouteError: there is no such one, the kernel says no."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    # The kernel counts in clock ticks (struct nda_cacheinfo).
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    found = []
    try:
        index = socket.if_nametoindex(interface)
        with IPRoute() as netlink:
            for message in netlink.get_neighbours(family=family, ifindex=index):
                mac, address = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
                if message["ifindex"] != index or not message["state"] & _HEARD or not mac or not address:
                    continue
                times = message.get_attr("NDA_CACHEINFO") or {}
                # A new entry counts as confirmed a minute ago (neigh_create sets it back by twice the reachable time);
                # "updated" is when it was entered, and moves with its states.
                heard_s = min(times.get("ndm_confirmed", 0), times.get("ndm_updated", 0)) / ticks_per_s
                found.append(NeighbourEntry(mac.lower(), ip_address(address), heard_s))
    except NetlinkError as error:
        raise RouteError(f"cannot list the neighbours of {interface}: {error.args[-1]}") from error
    except OSError as error:
        raise RouteError(f"cannot list the neighbours of {interface}: {error}") from error
    return tuple(found)
