"""Is the inventory sound? The registry allocates; this is the second pair of eyes, before anything reaches a kernel."""

from collections.abc import Iterable
from ipaddress import ip_network

from rules.model import Inventory, Network
from rules.parts import Parts
from rules.problems import Problem


def check_inventory(inventory: Inventory) -> list[Problem]:
    """Every inconsistency: overlapping allocations, members outside of where they belong, one name for two things."""
    problems = [
        *_overlaps("rules.tenant-blocks-overlap", inventory.tenants.items()),
        *_overlaps("rules.site-prefixes-overlap", ((site.name, site.prefix) for site in inventory.sites)),
        *_overlaps(
            "rules.server-addresses-equal", ((server.name, ip_network(server.address)) for server in inventory.servers)
        ),
        *_overlaps(
            "rules.device-addresses-equal",
            ((f"{device.site}/{device.name}", ip_network(device.address)) for device in inventory.devices),
        ),
        *_names(inventory),
    ]
    for site in inventory.sites:
        block = inventory.tenants.get(site.tenant)
        if block is None:
            problems.append(Problem("rules.tenant-unknown", {"name": site.name, "tenant": site.tenant}))
        elif not _inside(site.prefix, block):
            params = {"site": site.name, "prefix": str(site.prefix), "tenant": site.tenant, "block": str(block)}
            problems.append(Problem("rules.site-outside-block", params))
    prefixes = {site.name: site.prefix for site in inventory.sites}
    for device in inventory.devices:
        # A device of a revoked site is no mistake: its site is not here, so nothing can name it.
        prefix = prefixes.get(device.site)
        if prefix is not None and device.address not in prefix:
            params = {"device": f"{device.site}/{device.name}", "address": str(device.address), "prefix": str(prefix)}
            problems.append(Problem("rules.device-outside-site", params))
    blocks = list(inventory.tenants.items())
    for server in inventory.servers:
        if server.tenant is not None and server.tenant not in inventory.tenants:
            problems.append(Problem("rules.tenant-unknown", {"name": server.name, "tenant": server.tenant}))
        for tenant, block in blocks:
            if server.address in block:
                params = {
                    "server": server.name, "address": str(server.address), "tenant": tenant, "block": str(block),
                }  # fmt: skip
                problems.append(Problem("rules.server-inside-block", params))
    return problems


def check_shared(parts: Parts) -> list[Problem]:
    """What no part shows by itself: overlapping blocks, servers that are in another's block or at another's address,
    one name for two things. `check_inventory` on each part says the rest.
    """
    blocks = {tenant: block for part in parts.own.values() for tenant, block in part.tenants.items()}
    servers = [server for part in (parts.shared, *parts.own.values()) for server in part.servers]
    together = Inventory(blocks, (), (), tuple(servers))
    problems = check_inventory(together)
    seen: dict[str, str] = {server.name: "" for server in parts.shared.servers}
    for tenant, part in parts.own.items():
        for name in (*(site.name for site in part.sites), *(server.name for server in part.servers)):
            if seen.setdefault(name, tenant) != tenant:
                problems.append(Problem("rules.inventory-name-twice", {"name": name}))
    return problems


def _overlaps(kind: str, named: Iterable[tuple[str, Network]]) -> list[Problem]:
    """Pairs whose networks overlap. Sorted by address, an overlap is always with the last one that reaches furthest."""
    problems: list[Problem] = []
    ordered = sorted((network.version, *_range(network), name, network) for name, network in named)
    reach = (0, -1)
    furthest: tuple[str, Network] | None = None
    for version, first, last, name, network in ordered:
        if furthest is not None and (version, first) <= reach:
            params = {"first": furthest[0], "first_prefix": str(furthest[1]), "second": name, "prefix": str(network)}
            problems.append(Problem(kind, params))
        else:
            reach, furthest = (version, -last), (name, network)
    return problems


def _range(network: Network) -> tuple[int, int]:
    """The first address as a number, and the last one negated: in order, a wider network comes before those in it."""
    first = int(network.network_address)
    return first, -(first | (1 << (network.max_prefixlen - network.prefixlen)) - 1)


def _names(inventory: Inventory) -> list[Problem]:
    problems: list[Problem] = []
    seen: set[str] = set()
    names = [site.name for site in inventory.sites]
    names += [f"{device.site}/{device.name}" for device in inventory.devices]
    names += [server.name for server in inventory.servers]
    for name in names:
        if name in seen:
            problems.append(Problem("rules.inventory-name-twice", {"name": name}))
        seen.add(name)
    return problems


def _inside(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version:
        return False
    (first, last), (begin, end) = _range(inner), _range(outer)
    return begin <= first and end <= last
