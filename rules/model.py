"""What the rules speak about: the inventory they are held against, packets, services, statements, the policy.

Invariant of the whole package: a statement's members are names of its own tenant (or shared servers), so nothing that
is built from statements can cross tenants.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple, NewType

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: ``tenant/name`` where the statement has a name, else ``tenant/~digest`` of its content.
StatementId = NewType("StatementId", str)


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


class Kind(Enum):
    """What a name stands for."""

    SITE = "site"
    DEVICE = "device"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A site, a device or a server under the name that policies use. ``site`` is None for a server."""

    name: str
    kind: Kind
    tenant: str | None
    network: Network
    site: str | None


def endpoints(inventory: Inventory) -> dict[str, Endpoint]:
    """All endpoints by name. A device whose site is not in the inventory is left out: nothing can reach it."""
    found = {site.name: Endpoint(site.name, Kind.SITE, site.tenant, site.prefix, site.name) for site in inventory.sites}
    for device in inventory.devices:
        if (home := found.get(device.site)) is not None:
            name = f"{device.site}/{device.name}"
            found[name] = Endpoint(name, Kind.DEVICE, home.tenant, ip_network(device.address), device.site)
    for server in inventory.servers:
        found[server.name] = Endpoint(server.name, Kind.SERVER, server.tenant, ip_network(server.address), None)
    return found


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A tenant's policy file as written."""

    tenant: str
    file_name: str
    text: str


class Protocol(IntEnum):
    """IP protocol numbers that have selectors of their own; ANY is all protocols, OTHER all that are not named here."""

    OTHER = -2
    ANY = -1
    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58


#: Highest value of a port or of an ICMP type and code taken as one number.
SELECTOR_MAX = 65535
#: ICMP types that connection tracking takes for the beginning of something: echo, timestamp, information and address
#: mask requests (Linux, net/netfilter/nf_conntrack_proto_icmp.c). All others belong to a flow or are invalid.
ICMP_STARTING = frozenset({8, 13, 15, 17})


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """A protocol and a closed range of selectors: TCP and UDP ports, or ICMP ``type * 256 + code``."""

    protocol: Protocol
    low: int = 0
    high: int = SELECTOR_MAX

    def covers(self, protocol: int, selector: int) -> bool:
        """Whether a packet of this protocol number and selector belongs to the service."""
        return self.protocol is Protocol.ANY or (self.protocol == protocol and self.low <= selector <= self.high)


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow. ``protocol`` is the IP protocol number, ``port`` TCP's or UDP's destination port."""

    source: Address
    destination: Address
    protocol: int
    port: int | None = None
    icmp_type: int | None = None
    icmp_code: int = 0

    @property
    def selector(self) -> int:
        """The number that services are matched with; 0 where the protocol has none."""
        if self.protocol in (Protocol.ICMP, Protocol.ICMPV6):
            return (self.icmp_type or 0) * 256 + self.icmp_code
        return self.port or 0


class Place(NamedTuple):
    """Where in a policy file; line and column count from 1. A tuple: made twice as fast."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Hours:
    """A stretch of each week: ``day`` 0 is Monday; minutes from that day's midnight, the end may be in the next day."""

    day: int
    start_min: int
    end_min: int


@dataclass(frozen=True, slots=True)
class Validity:
    """When a statement holds. Instants are in UTC; no ``weekly`` means all hours."""

    zone: str
    start: datetime | None = None
    until: datetime | None = None
    weekly: tuple[Hours, ...] = ()


class Action(Enum):
    """What a statement does to the packets that it covers."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Statement:
    """One ``allow`` or ``deny``. Sources and destinations are endpoint names, groups already opened up."""

    id: StatementId
    tenant: str
    sources: frozenset[str]
    destinations: frozenset[str]
    services: tuple[Service, ...]
    both: bool
    owner: str
    reason: str
    place: Place
    action: Action = Action.ALLOW
    validity: Validity | None = None


@dataclass(frozen=True, slots=True)
class PlatformSource:
    """The platform file as written."""

    file_name: str
    text: str


@dataclass(frozen=True, slots=True)
class Restriction:
    """What tenants may let sites use of a shared server (``offers``), and let it use of sites (``opens``)."""

    offers: tuple[Service, ...] = (Service(Protocol.ANY),)
    opens: tuple[Service, ...] = (Service(Protocol.ANY),)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one tenant's file may hold; None: no limit. ``members`` is for each group."""

    groups: int | None = None
    members: int | None = None
    services: int | None = None
    statements: int | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """What no tenant may override. ``tenants`` has limits of their own for some; ``limits`` hold for the others."""

    services: Mapping[str, tuple[Service, ...]] = field(default_factory=dict)
    forbidden: tuple[Service, ...] = ()
    servers: Mapping[str, Restriction] = field(default_factory=dict)
    limits: Limits = Limits()
    tenants: Mapping[str, Limits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nested:
    """A group inside another. ``members`` are endpoint names; those of the tenant are reached only from members."""

    tenant: str
    group: str
    members: frozenset[str]


@dataclass(frozen=True, slots=True)
class Expectation:
    """A test kept with a policy, between two endpoints' names: that all of ``services`` passes from everywhere in one
    to everywhere in the other, or, if not ``reachable``, that nothing of them passes between any parts of the two.
    """

    source: str
    destination: str
    services: tuple[Service, ...]
    reachable: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Remark:
    """Something in a file that says nothing: a message's key and parameters, and the place. No mistake."""

    key: str
    params: Mapping[str, str | int]
    place: Place


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What one file says, ordered by identity. Names are as written: which of them exist is the inventory's affair.

    Whoever keeps the object of an unchanged text knows by its identity, without looking, that nothing changed.
    """

    tenant: str
    statements: tuple[Statement, ...]
    nested: tuple[Nested, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    remarks: tuple[Remark, ...] = ()
    #: Each group (VPN) with its members, groups inside it opened up. The decision reads none of it.
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """What lets ``source`` (a name or an address) reach ``destination`` until an instant, beside the policies."""

    id: str
    tenant: str
    source: str
    destination: str
    services: tuple[Service, ...]
    until: datetime


@dataclass(frozen=True, slots=True)
class Policy:
    """All tenants' policies, and what stands above them."""

    tenants: Mapping[str, TenantPolicy]
    platform: Platform = Platform()

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All statements, ordered by identity."""
        return tuple(sorted((one for own in self.tenants.values() for one in own.statements), key=lambda one: one.id))

    @property
    def nested(self) -> tuple[Nested, ...]:
        """All nested groups, by tenant and name."""
        return tuple(one for _, own in sorted(self.tenants.items()) for one in own.nested)
