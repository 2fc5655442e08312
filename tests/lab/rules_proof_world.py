"""The world of the rules' proof: 58 sites of five tenants, and the packets that stand for all others.

acme has a bit of everything; birch more grants and denials than one word of the vectors holds; cedar so many grants
that its words are chains of their own; delta more nested groups than a word; zeta lies beside delta, block to block.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import combinations, product

from rules.compile import RuleSet, compile_policy
from rules.evaluate import Lineage, between, denials, parts
from rules.model import Device, Inventory, Kind, Packet, PlatformSource, PolicySource, Protocol, Server, Service, Site
from rules.parse import parse
from rules.services import of_family
from tests.lab.rules_wires import Probe

TCP, UDP, ICMP, GRE = int(Protocol.TCP), int(Protocol.UDP), int(Protocol.ICMP), 47
#: ICMP messages that connection tracking takes for answers to those of other probes.
ANSWERS = (0, 14, 16, 18)
#: The sender's own port: a probe to it could be taken for an answer.
SENDERS_PORT = 40000
#: A clause about no more pairs than these is asked about with each of its services.
FEW_PAIRS = 6

BLOCKS = {"acme": "10.10", "birch": "10.20", "cedar": "10.30", "zeta": "10.40", "delta": "10.41"}
COUNTS = {"birch": 16, "cedar": 16, "delta": 10}
NESTED = 33

INVENTORY = Inventory(
    tenants={tenant: ip_network(f"{block}.0.0/16") for tenant, block in BLOCKS.items()},
    sites=(
        *(Site(f"acme-{n}", "acme", ip_network(f"10.10.{n}.0/24")) for n in range(1, 13)),
        Site("acme-half", "acme", ip_network("10.10.128.128/25")),
        *(
            Site(f"{tenant}-{n}", tenant, ip_network(f"{BLOCKS[tenant]}.{n}.0/24"))
            for tenant, count in COUNTS.items()
            for n in range(count)
        ),
        Site("zeta-1", "zeta", ip_network("10.40.0.0/20")),
        Site("zeta-2", "zeta", ip_network("10.40.16.0/28")),
        Site("zeta-last", "zeta", ip_network("10.40.255.0/24")),
    ),
    devices=(
        Device("acme-1", "plc", ip_address("10.10.1.20")),
        Device("acme-2", "plc", ip_address("10.10.2.20")),
        Device("acme-2", "panel", ip_address("10.10.2.21")),
        Device("acme-10", "plc", ip_address("10.10.10.77")),
        Device("birch-3", "plc", ip_address("10.20.3.9")),
        Device("zeta-1", "meter", ip_address("10.40.15.254")),
        *(Device("delta-1", f"d{n}", ip_address("10.41.1.0") + 2 * n + 1) for n in range(NESTED)),
    ),
    servers=(
        Server("web", None, ip_address("10.200.0.10")),
        Server("db", "acme", ip_address("10.200.0.11")),
        Server("vault", "zeta", ip_address("10.200.0.12")),
        Server("time", None, ip_address("10.200.0.20")),
    ),
)
ACME = """
tenant: acme
groups:
  plant: [acme-1, acme-2/plc, acme-3]
  everyone: [acme-1, acme-2, acme-3, acme-4, acme-5, acme-6, acme-7, acme-8, acme-9, acme-10, acme-11, acme-half]
  vault: {members: [acme-8, acme-9, acme-10/plc, db], inside: everyone}
  safe: {members: [acme-9], inside: vault}
allow:
  - {name: mesh, from: plant, to: plant, services: [bacnet-ip, icmp/8], both: true}
  - {name: inner, from: everyone, to: [everyone, acme-9], services: [opc-ua, ping]}
  - {name: web, from: everyone, to: web, services: [https, tcp/8000-8040, icmp/255]}
  - {name: panel, from: acme-2/panel, to: [acme-half, db], services: any}
  - {name: service, from: db, to: everyone, services: [ssh, icmp/13/0]}
  - {name: test, from: db, to: acme-2, services: icmp/8}
  - {name: to-device, from: acme-4, to: acme-1/plc, services: [modbus-tcp, udp]}
deny:
  - {name: quiet, from: everyone, to: acme-2/plc, services: icmp/8/1}
  - {name: locked, from: [acme-2/panel, acme-6], to: web, services: [tcp/8000-8020, https]}
  - {name: only-devices, from: acme-1/plc, to: [acme-3, web], services: [icmp/8/0, tcp/1-8039]}
  - {name: outsider, from: acme-12, to: acme-1, services: rdp}
"""
ZETA = """
tenant: zeta
allow:
  - {from: zeta-1, to: [vault, web], services: [tcp, icmp]}
  - {from: [web, vault], to: zeta-1/meter, services: [opc-ua, ping]}
  - {from: zeta-2, to: zeta-1, services: udp/1-1024}
  - {from: zeta-last, to: [zeta-1, time], services: [ntp, tcp/1000-1010]}
deny:
  - {from: zeta-1, to: web, services: [tcp/1-400, icmp/8/0]}
  - {from: zeta-2, to: zeta-1/meter, services: any}
"""
PLATFORM = """
forbidden: [tcp/8020, icmp/42, udp/1025-2000]
servers:
  web: {offers: [https, tcp/8000-8040, tcp/21, icmp], opens: [opc-ua]}
"""
_SERVICES = ("https", "bacnet-ip", "tcp/8000-8040", "ping", "udp/100-200", "any", "modbus-tcp", "tcp", "icmp/13")


def _many(tenant: str, grants: int, denied: int) -> str:
    """A policy of so many statements, each about a pair of sites of its own."""
    count = COUNTS[tenant]
    pairs = list(combinations(range(count), 2))
    lines = [f"tenant: {tenant}", "allow:"]
    for number, (one, other) in enumerate(pairs[:grants]):
        target = ("time", "web")[number % 2] if number % 7 == 0 else f"{tenant}-{(one + 3 * other) % count}"
        services = f"[{_SERVICES[number % 9]}, {_SERVICES[(number * 5 + 2) % 9]}]"
        both = ", both: true" if number % 5 == 0 else ""
        lines.append(f"  - {{from: [{tenant}-{one}, {tenant}-{other}], to: {target}, services: {services}{both}}}")
    if tenant == "birch":
        lines.append("  - {from: birch-3/plc, to: [birch-4, time], services: [ntp, ssh]}")
    lines.append("deny:")
    for number, (one, other) in enumerate(pairs[-denied:]):
        origin = f"{tenant}-{one}, {tenant}-{other}"
        target = f"[{tenant}-{number % count}, {tenant}-{number * 3 % count}]"
        lines.append(f"  - {{from: [{origin}], to: {target}, services: [{_SERVICES[number % 5]}, tcp/8010]}}")
    return "\n".join(lines) + "\n"


def _delta() -> str:
    nested = [
        f"  n{n}: {{members: [delta-1/d{n}, delta-{2 + n % 8}{', time' if n % 4 == 0 else ''}], inside: all}}"
        for n in range(NESTED)
    ]
    everything = ", ".join(["time", *(f"delta-{n}" for n in range(10)), *(f"delta-1/d{n}" for n in range(NESTED))])
    allow = ["  - {from: all, to: all, services: [ssh, ping]}", "  - {from: delta-0, to: all, services: https}"]
    return "\n".join(["tenant: delta", "groups:", f"  all: [{everything}]", *nested, "allow:", *allow, ""])


@cache
def proof_rule_set() -> RuleSet:
    """What the proof is about."""
    texts = {"acme": ACME, "birch": _many("birch", 45, 36), "cedar": _many("cedar", 110, 12), "zeta": ZETA}
    texts["delta"] = _delta()
    sources = [PolicySource(tenant, f"{tenant}.yaml", text) for tenant, text in texts.items()]
    return compile_policy(parse(sources, INVENTORY, PlatformSource("platform.yaml", PLATFORM)), INVENTORY)


def on_cloud(address: object) -> bool:
    """Whether the address lies where the cloud servers are."""
    return str(address).startswith("10.200.")


def _home(address: object) -> str:
    return "rk-servers" if on_cloud(address) else "rk-sites"


def packet(source: IPv4Address, destination: IPv4Address, protocol: int, selector: int) -> Packet:
    if protocol == ICMP:
        return Packet(source, destination, protocol, None, *divmod(selector, 256))
    return Packet(source, destination, protocol, selector or None)


def _edges(services: Iterable[Service]) -> Iterator[tuple[int, int]]:
    """Both sides of both ends of each service."""
    for one in of_family(services, 4):
        if one.protocol not in (TCP, UDP, ICMP):
            continue
        least = 0 if one.protocol == ICMP else 1
        for selector in (one.low - 1, one.low, one.high, one.high + 1):
            if least <= selector <= 65535 and selector != SENDERS_PORT:
                yield int(one.protocol), selector


def _askable(protocol: int, selector: int) -> bool:
    return protocol != ICMP or selector // 256 not in ANSWERS


_OTHERS = [(TCP, 22), (UDP, 123), (ICMP, 8 * 256), (TCP, 443), (TCP, 8020), (UDP, 1500), (ICMP, 42 * 256), (UDP, 161)]


def classes(rule_set: RuleSet) -> list[Lineage]:
    """All that clauses can tell apart: sites at large, the devices that rules name, servers."""
    found = [one for one in rule_set.endpoints.values() if one.kind is not Kind.DEVICE]
    return [part for one in sorted(found, key=lambda one: one.name) for part in parts(rule_set, one)]


def _address(part: Lineage, number: int) -> IPv4Address:
    """An address of the class: the first or the last of the network, where no device is."""
    network = part[0].network
    address = network[0] if number % 2 else network[-1]
    assert isinstance(address, IPv4Address)
    return address


def boundary_addresses() -> list[IPv4Address]:
    """Both sides of each end of each block, site, device and server."""
    found = {ip_address("172.16.0.1"), ip_address("10.200.0.0")}
    networks = [*INVENTORY.tenants.values(), *(site.prefix for site in INVENTORY.sites)]
    for network in networks:
        found |= {network[0], network[-1], network[0] - 1, network[-1] + 1}
    for host in (*INVENTORY.devices, *INVENTORY.servers):
        found |= {host.address, host.address + 1, host.address - 1}
    return sorted(address for address in found if isinstance(address, IPv4Address))


def _pairs(rule_set: RuleSet) -> Iterator[tuple[IPv4Address, IPv4Address, int, int]]:
    """Every ordered pair of classes: on both sides of every end of every service that a clause about it names, and of
    what the platform forbids of it. What lies inside is asked from and to both ends of the networks.
    """
    known = classes(rule_set)
    forbidden = rule_set.platform.forbidden
    for number, one in enumerate(known):
        for other, target in enumerate(known):
            about = [*between(rule_set, one, target), *denials(rule_set, one, target)]
            services = dict.fromkeys(service for clause in about for service in of_family(clause.services, 4))
            edges = dict.fromkeys(_edges((*services, *(forbidden if services else ()))))
            for place, (protocol, selector) in enumerate(edges):
                turn = number + other + place
                yield _address(one, turn), _address(target, turn // 2), protocol, selector
                if any(service.covers(protocol, selector) for service in services):
                    yield _address(one, turn + 1), _address(target, turn // 2 + 1), protocol, selector
            ends = _address(one, number + other), _address(target, number + other // 2)
            tenants = {one[0].tenant, target[0].tenant}
            if len(tenants - {None}) == 1 or (number + other) % 3 == 0:
                for protocol, selector in _OTHERS[(number * 3 + other) % 8 :][:2]:
                    yield *ends, protocol, selector
            # Without ports both directions are one flow to conntrack: asked in one direction only.
            if about and ends[0] < ends[1]:
                yield *ends, GRE, 0


def _ends(rule_set: RuleSet) -> Iterator[tuple[IPv4Address, IPv4Address, int, int]]:
    """Both sides of the ends of each network, with the partners that something is granted with."""
    known = classes(rule_set)
    beside_devices = {device.address + step for device in INVENTORY.devices for step in (-1, 1)}
    for number, address in enumerate(boundary_addresses()):
        near = [rule_set.whereabouts.at(address + step) for step in (0, 1, -1)]
        inside = next((found for found in near if found), ())
        if not inside:
            yield address, IPv4Address("10.200.0.10"), TCP, 443
            yield IPv4Address("10.200.0.20"), address, TCP, 22
            continue
        for outward in (True, False):
            ways = ((inside, part) if outward else (part, inside) for part in known)
            partners = [(way, clauses) for way in ways if (clauses := between(rule_set, *way))]
            few = sorted({0, len(partners) // 2, len(partners) - 1}) if partners else []
            for place in range(len(partners)) if address in beside_devices else few:
                way, clauses = partners[place]
                other = _address(way[1] if outward else way[0], number)
                edge = next(_edges(clauses[0].services), (TCP, 80))
                services = [*_edges(clauses[0].services)] or [edge]
                for protocol, selector in {services[1 % len(services)], services[0]}:
                    ends = (address, other) if outward else (other, address)
                    yield *ends, protocol, selector


def _neighbours(rule_set: RuleSet) -> Iterator[tuple[IPv4Address, IPv4Address, int, int]]:
    """For each clause the addresses beside its sources and beside its destinations: an entry too wide shows there."""
    for domain in rule_set.domains.values():
        for block in domain.rules.blocks:
            sources = [one for name in sorted(block.sources) if (one := rule_set.endpoints.get(name))]
            for clause in (*block.grants, *block.denials):
                targets = [one for name in sorted(clause.destinations) if (one := rule_set.endpoints.get(name))]
                edges = [edge for edge in _edges(clause.services) if any(one.covers(*edge) for one in clause.services)]
                for number, (one, target) in enumerate(product(sources, targets)):
                    if min(len(sources), len(targets)) > 3 and number % 5:
                        continue
                    turn = number % max(1, len(edges))
                    few = len(sources) * len(targets) <= FEW_PAIRS
                    for protocol, selector in edges if few else (edges or [(TCP, 80)])[turn : turn + 1]:
                        for beside in (target.network[0] - 1, target.network[-1] + 1):
                            yield _address((one,), number), IPv4Address(beside), protocol, selector
                        for beside in (one.network[0] - 1, one.network[-1] + 1):
                            yield IPv4Address(beside), _address((target,), number), protocol, selector


def proof_probes(rule_set: RuleSet) -> list[Probe]:
    """Each class of packets, both sides of each boundary, and some of them from where their source does not live."""
    asked = dict.fromkeys((*_pairs(rule_set), *_ends(rule_set), *_neighbours(rule_set)))
    found: list[Probe] = []
    flows: set[tuple[object, ...]] = set()
    for number, (source, destination, protocol, selector) in enumerate(asked):
        if not _askable(protocol, selector) or source == destination:
            continue
        if protocol == GRE:
            if (destination, source) in flows:
                continue
            flows.add((source, destination))
        one = packet(source, destination, protocol, selector)
        home = _home(source)
        found.append(Probe(home, one))
        if number % 6 == 0 and protocol != GRE:
            found.append(Probe("rk-sites" if home == "rk-servers" else "rk-servers", one))
    return found
