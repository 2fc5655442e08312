"""Addresses and prefixes: reading them from text, and a site's mapping between LAN and overlay. Pure.

A site's LAN need not be unique; its overlay prefix is. Both have the same length, and host n of one is host n of the
other, so the router can map them one to one in the kernel (NETMAP).
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from cloudside.errors import InputError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def read_prefix(text: str | Network) -> Network:
    """A prefix in CIDR form. Raises InputError: not a prefix, or host bits are set (with the prefix meant)."""
    shown = str(text).strip()
    try:
        return ip_network(shown)
    except ValueError:
        pass
    try:
        meant = ip_network(shown, strict=False)
    except ValueError:
        raise InputError("registry.not-a-prefix", prefix=shown[:80]) from None
    raise InputError("registry.prefix-host-bits", prefix=shown, meant=str(meant))


def read_address(text: str | Address) -> Address:
    """One address. Raises InputError."""
    shown = str(text).strip()
    try:
        return ip_address(shown)
    except ValueError:
        raise InputError("registry.not-an-address", address=shown[:80]) from None


def contains(outer: Network, inner: Network) -> bool:
    """Whether ``inner`` lies in ``outer``; never for different families."""
    return (
        outer.version == inner.version
        and outer.network_address.packed <= inner.network_address.packed
        and inner.broadcast_address.packed <= outer.broadcast_address.packed
    )


def overlaps(one: Network, other: Network) -> bool:
    """Whether two prefixes share an address; never for different families."""
    return contains(one, other) or contains(other, one)


def first_overlap(prefix: Network, taken: Iterable[tuple[str, Network]]) -> tuple[str, Network] | None:
    """The first (owner, prefix) that shares an address with ``prefix``."""
    return next(((owner, other) for owner, other in taken if overlaps(prefix, other)), None)


def router_address(prefix: Network) -> Address:
    """The router's own address in its LAN or overlay prefix: the first host address."""
    return prefix.network_address + 1


def overlay_address(lan: Network, overlay: Network, address: Address) -> Address:
    """Where the cloud meets the LAN host ``address``: same host number, overlay prefix."""
    return overlay.network_address + (int(address) - int(lan.network_address))


def lan_address(lan: Network, overlay: Network, address: Address) -> Address:
    """The way back: the LAN address behind an overlay address."""
    return lan.network_address + (int(address) - int(overlay.network_address))
