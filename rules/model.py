"""What the rules speak about: the inventory they are held against, packets, services, statements, verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Site:
    """A site as the rules see it. ``prefix`` is its overlay prefix."""

    name: str
    tenant: str
    prefix: Network


@dataclass(frozen=True, slots=True)
class Device:
    """A device on a site's LAN, at its overlay address. Policies call it ``site/name``."""

    site: str
    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class Server:
    """A cloud server. ``tenant`` None: every tenant may name it in its policy."""

    name: str
    tenant: str | None
    address: Address


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything a policy may name. Sites that are revoked are not in it. ``tenants`` maps a tenant to its block."""

    tenants: Mapping[str, Network]
    sites: tuple[Site, ...]
    devices: tuple[Device, ...]
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A tenant's policy file as written."""

    tenant: str
    file_name: str
    text: str
