"""Random worlds for the properties of rules: inventories, policies as plain data, packets at every boundary."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from rules.model import Address, Device, Inventory, Network, Packet, PlatformSource, PolicySource, Server, Site

TENANTS = {"acme": ip_network("10.1.0.0/16"), "zeta": ip_network("10.2.0.0/16")}

#: Services as written, and what a person reads in them: (protocol number, port or type, code) -> bool.
SERVICES: dict[str, Callable[[int, int, int], bool]] = {
    "any": lambda protocol, number, code: True,
    "tcp": lambda protocol, number, code: protocol == 6,
    "https": lambda protocol, number, code: (protocol, number) == (6, 443),
    "tcp/440-450": lambda protocol, number, code: protocol == 6 and 440 <= number <= 450,
    "tcp/400-8000": lambda protocol, number, code: protocol == 6 and 400 <= number <= 8000,
    "udp/47808": lambda protocol, number, code: (protocol, number) == (17, 47808),
    "udp/1-65535": lambda protocol, number, code: protocol == 17 and 1 <= number <= 65535,
    "icmp/echo-request": lambda protocol, number, code: (protocol, number, code) == (1, 8, 0),
    "icmp/8": lambda protocol, number, code: (protocol, number) == (1, 8),
    "icmp/255": lambda protocol, number, code: (protocol, number) == (1, 255),
    "icmp/7/255": lambda protocol, number, code: (protocol, number, code) == (1, 7, 255),
    "icmp/13/0": lambda protocol, number, code: (protocol, number, code) == (1, 13, 0),
    "icmp/17": lambda protocol, number, code: (protocol, number) == (1, 17),
    "icmp": lambda protocol, number, code: protocol == 1,
    "own": lambda protocol, number, code: (protocol, number) in ((6, 502), (17, 502)),
}
FORBIDDABLE: dict[str, Callable[[int, int, int], bool]] = {
    "tcp/445-449": lambda protocol, number, code: protocol == 6 and 445 <= number <= 449,
    "udp": lambda protocol, number, code: protocol == 17,
}
OWN_SERVICES = {"own": ["tcp/502", "udp/502"]}

SELECTORS = [
    *((6, port, 0) for port in (1, 399, 400, 439, 440, 443, 450, 451, 502, 8000, 8001, 65535)),
    *((17, port, 0) for port in (1, 502, 47807, 47808, 65535)),
    *(
        (1, kind, code)
        for kind, code in ((0, 0), (7, 254), (7, 255), (8, 0), (8, 1), (9, 0), (13, 0), (13, 1), (17, 255), (255, 0))
    ),
    (47, 0, 0),
    (132, 0, 0),
]


@dataclass(frozen=True)
class World:
    """An inventory and each tenant's policy as plain data."""

    inventory: Inventory
    policies: dict[str, dict[str, object]]
    platform: dict[str, object] | None = None

    def platform_source(self) -> PlatformSource | None:
        return None if self.platform is None else PlatformSource("platform.yaml", json.dumps(self.platform))

    def sources(self) -> list[PolicySource]:
        return [PolicySource(tenant, f"{tenant}.yaml", json.dumps(data)) for tenant, data in self.policies.items()]


def _site(draw: st.DrawFn, tenant: str, number: int) -> Site:
    length = draw(st.sampled_from([22, 24, 24, 27, 30]))
    base = int(TENANTS[tenant].network_address) + number * 1024
    inside = draw(st.integers(0, 2 ** (length - 22) - 1)) << (32 - length)
    return Site(f"{tenant}-{number}", tenant, ip_network((base + inside, length)))


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    sites = [
        _site(draw, tenant, number)
        for tenant in TENANTS
        for number in draw(st.lists(st.integers(0, 63), min_size=1, max_size=12, unique=True))
    ]
    devices = []
    for site in sites:
        for address in draw(st.sets(st.sampled_from([site.prefix[place] for place in (1, 2, -2)]), max_size=2)):
            devices.append(Device(site.name, f"d{int(address) % 1024}", address))
    servers = [
        Server(f"s{number}", draw(st.sampled_from([None, *TENANTS])), ip_address("10.9.0.1") + number)
        for number in range(draw(st.integers(1, 3)))
    ]
    return Inventory(TENANTS, tuple(sites), tuple(devices), tuple(servers))


def names_of(inventory: Inventory, tenant: str) -> list[str]:
    """The names that the tenant's policy may use, worked out here once more."""
    own = [site.name for site in inventory.sites if site.tenant == tenant]
    own += [f"{device.site}/{device.name}" for device in inventory.devices if device.site in own]
    return own + [server.name for server in inventory.servers if server.tenant in (None, tenant)]


@st.composite
def worlds(draw: st.DrawFn, of: Inventory | None = None) -> World:
    inventory = draw(inventories()) if of is None else of
    policies: dict[str, dict[str, object]] = {}
    for tenant in TENANTS:
        names = names_of(inventory, tenant)
        group = st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)
        groups: dict[str, object] = {}
        for number in range(draw(st.integers(0, 4))):
            outer = draw(st.sampled_from([None, *groups]))
            members = draw(group)
            groups[f"g{number}"] = members if outer is None else {"members": members, "inside": outer}
        member = st.lists(st.sampled_from([*names, *groups]), min_size=1, max_size=3, unique=True)
        services = st.lists(st.sampled_from(list(SERVICES)), min_size=1, max_size=3, unique=True)
        policies[tenant] = {"tenant": tenant, "groups": groups, "services": OWN_SERVICES} | {
            action: [
                {"name": f"{action}{number}", "from": draw(member), "to": draw(member), "services": draw(services)}
                | ({"both": True} if draw(st.booleans()) else {})
                for number in range(draw(st.integers(0, most)))
            ]
            for action, most in (("allow", 5), ("deny", 3))
        }
        ends = st.sampled_from(names)
        policies[tenant]["expect"] = [
            f"{draw(ends)} {draw(st.sampled_from(['can', 'cannot']))} reach {draw(ends)} {', '.join(draw(services))}"
            for _ in range(draw(st.integers(0, 2)))
        ]
    platform: dict[str, object] | None = None
    if draw(st.booleans()):
        shared = [server.name for server in inventory.servers if server.tenant is None]
        some = st.lists(st.sampled_from([one for one in SERVICES if one != "own"]), min_size=1, max_size=2, unique=True)
        platform = {"forbidden": draw(st.lists(st.sampled_from(["https", "icmp/8", "tcp/445-449", "udp"]), min_size=1))}
        platform["servers"] = {name: {"offers": draw(some), "opens": draw(some)} for name in shared}
    return World(inventory, policies, platform)


def network_of(inventory: Inventory, name: str) -> Network:
    """The addresses behind a name."""
    for site in inventory.sites:
        if site.name == name:
            return site.prefix
    for device in inventory.devices:
        if f"{device.site}/{device.name}" == name:
            return ip_network(device.address)
    return next(ip_network(server.address) for server in inventory.servers if server.name == name)


def boundary_addresses(inventory: Inventory) -> list[Address]:
    """First and last of everything and their neighbours outside."""
    found: set[Address] = {ip_address("192.0.2.1")}
    for site in inventory.sites:
        first, last = site.prefix[0], site.prefix[-1]
        found |= {first, last, first - 1, last + 1}
    for host in (*inventory.devices, *inventory.servers):
        found |= {host.address, host.address + 1, host.address - 1}
    return sorted(found, key=int)


@st.composite
def packets(draw: st.DrawFn, inventory: Inventory) -> Packet:
    addresses = st.sampled_from(boundary_addresses(inventory))
    protocol, number, code = draw(st.sampled_from(SELECTORS))
    source, destination = draw(addresses), draw(addresses)
    if protocol == 1:
        return Packet(source, destination, protocol, None, number, code)
    return Packet(source, destination, protocol, number or None)
