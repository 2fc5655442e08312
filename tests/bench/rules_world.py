"""A world for measuring rules: 10,000 sites, 200 tenants, 50,000 statements, deterministic by seed."""

import random
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from rules.model import Device, Inventory, PolicySource, Server, Site

SERVICES = ("https", "bacnet-ip", "modbus-tcp", "ssh", "ping", "snmp", "tcp/8000-8040", "opc-ua", "any")
SHARED_SERVERS = 10
GROUP_MAX = 500
DEVICE_SHARE = 0.03
SITE_ADDRESSES = 64
ROOM_MIN_SITES = 64


def world(
    *, sites: int = 10_000, tenants: int = 200, statements: int = 50_000, seed: int = 1
) -> tuple[Inventory, list[PolicySource]]:
    """An inventory and its policies. A few tenants are large, as customers are: groups of 500 need 500 sites."""
    chance = random.Random(seed)
    weights = [1 / (number + 5) for number in range(tenants)]
    counts = [max(2, int(sites * weight / sum(weights))) for weight in weights]
    counts[0] += sites - sum(counts)
    blocks = _blocks(counts)
    found: list[Site] = []
    devices: list[Device] = []
    sources: list[PolicySource] = []
    for (tenant, block), count in zip(blocks.items(), counts, strict=True):
        own = [
            Site(f"{tenant}-s{n}", tenant, ip_network((int(block[0]) + n * SITE_ADDRESSES, 26))) for n in range(count)
        ]
        found += own
        with_device = [site for site in own if chance.random() < DEVICE_SHARE]
        devices += [Device(site.name, "plc", site.prefix[20]) for site in with_device]
        names = [site.name for site in own] + [f"{site.name}/plc" for site in with_device]
        text = _policy(chance, tenant, names, max(1, round(statements * count / sites)))
        sources.append(PolicySource(tenant, f"{tenant}.yaml", text))
    servers = [Server(f"shared{n}", None, ip_address(0xAC100000 + n)) for n in range(SHARED_SERVERS)]
    return Inventory(blocks, tuple(found), tuple(devices), tuple(servers)), sources


def _blocks(counts: list[int]) -> dict[str, IPv4Network]:
    """A block for each tenant, one after the other, the largest first; with room for sites to move about in."""
    found: dict[str, IPv4Network] = {}
    begin = int(IPv4Address("10.0.0.0"))
    for number, count in enumerate(counts):
        bits = (max(2 * count, ROOM_MIN_SITES) * SITE_ADDRESSES - 1).bit_length()
        found[f"t{number}"] = IPv4Network((begin, 32 - bits))
        begin += 1 << bits
    return found


def _policy(chance: random.Random, tenant: str, names: list[str], statements: int) -> str:
    lines = [f"tenant: {tenant}", "groups:"]
    groups = [f"g{number}" for number in range(max(2, len(names) // 8))]
    for group in groups:
        # Most groups are small: sizes are spread evenly over their logarithm.
        most = min(GROUP_MAX, len(names))
        size = max(2, min(most, int(2 * (GROUP_MAX / 2) ** chance.random())))
        lines.append(f"  {group}: [{', '.join(chance.sample(names, size))}]")
    lines.append("allow:")
    for number in range(statements):
        origin = chance.choice(groups)
        target = chance.choice([other for other in groups if other != origin] + [f"shared{number % SHARED_SERVERS}"])
        service = chance.choice(SERVICES)
        lines.append(f"  - {{name: n{number}, from: {origin}, to: {target}, services: {service}}}")
    return "\n".join(lines) + "\n"


def in_proportion(sites: int) -> tuple[Inventory, list[PolicySource]]:
    """The world with another number of sites: 50 of them, and 250 statements, for each tenant."""
    return world(sites=sites, tenants=max(2, sites // 50), statements=5 * sites)
