"""May this packet pass? The reading of a rule set that tests, explanations and people trust; the kernel must agree.

A packet passes if at least one ``allow`` covers it, no ``deny`` does, the platform does not forbid it, and its source
is in every nested group that its destination is in. The order of statements has no meaning, nor has which of them is
the more particular: a deny about a site holds for each of its devices, and no allow overrules it.

Speaks of the first packet of a flow. Replies and related ICMP errors pass with the flow (connection tracking).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Literal

from rules.blocks import Clause
from rules.compile import RuleSet
from rules.model import ICMP_STARTING, Endpoint, Grant, Kind, Nested, Packet, Protocol, Service, StatementId
from rules.names import never_passes
from rules.problems import Reason
from rules.services import intersected, merged, of_family, subtracted
from rules.timed import effective, ends_of, identity, kept, network_of

#: An endpoint with what else it goes by, the most particular first: (device, site), (site,) or (server,).
Lineage = tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``statements`` decide it: any one of them would do. ``reason`` is why it is dropped."""

    allowed: bool
    statements: tuple[StatementId, ...] = ()
    reason: Reason | None = None


def evaluate(rule_set: RuleSet, packet: Packet) -> Verdict:
    """The decision about the first packet of a flow, as the gateway makes it for a packet from its true origin."""
    source = rule_set.whereabouts.at(packet.source)
    destination = rule_set.whereabouts.at(packet.destination)
    if not source:
        return Verdict(False, reason=Reason("rules.unknown-source", {"address": str(packet.source)}))
    if not destination:
        return Verdict(False, reason=Reason("rules.unknown-destination", {"address": str(packet.destination)}))
    if (impossible := cannot_pass(source[0], destination[0])) is not None:
        return Verdict(False, reason=impossible)
    params = {"source": source[0].name, "destination": destination[0].name}
    if packet.protocol == Protocol.ICMP and packet.icmp_type not in ICMP_STARTING:
        return Verdict(False, reason=Reason("rules.icmp-starts-nothing", {**params, "type": packet.icmp_type or 0}))
    platform = rule_set.platform
    if _in(platform.forbidden, packet):
        return Verdict(False, reason=Reason("rules.forbidden", params))
    if closed := enclosing(rule_set, source, destination):
        return Verdict(False, reason=Reason("rules.enclosed", {**params, "group": closed[0].group}))
    denied = _covering(denials(rule_set, source, destination), packet)
    if denied:
        return Verdict(False, denied, Reason("rules.denied", {**params, "statements": ", ".join(denied)}))
    if allowed := _covering(between(rule_set, source, destination), packet):
        return Verdict(True, allowed)
    if granted := tuple(identity(grant) for grant in rule_set.grants if _grants(rule_set, grant, packet, destination)):
        return Verdict(True, granted)
    opens, offers = platform.servers.get(source[0].name), platform.servers.get(destination[0].name)
    for server, services in (
        (source[0], None if opens is None else opens.opens),
        (destination[0], None if offers is None else offers.offers),
    ):
        if services is not None and not _in(services, packet):
            return Verdict(False, reason=Reason("rules.server-restricted", {**params, "server": server.name}))
    return Verdict(False, reason=Reason("rules.no-statement", params))


def _grants(rule_set: RuleSet, grant: Grant, packet: Packet, destination: Sequence[Endpoint]) -> bool:
    """Whether the timed grant covers the packet, as the kernel keeps it: one that is too wide covers nothing."""
    if grant.destination not in {one.name for one in destination} or (ends := ends_of(rule_set, grant)) is None:
        return False
    source, target = map(network_of, ends)
    services = effective(rule_set, grant)
    return packet.source in source and kept(source, target, services) and _in(services, packet)


def _covering(clauses: Iterable[Clause], packet: Packet) -> tuple[StatementId, ...]:
    """The statements of those clauses that cover the packet, each once."""
    return tuple(sorted({clause.statement for clause in clauses if _in(clause.services, packet)}))


def _in(services: Iterable[Service], packet: Packet) -> bool:
    existing = of_family(services, packet.destination.version)
    return any(service.covers(packet.protocol, packet.selector) for service in existing)


def cannot_pass(source: Endpoint, destination: Endpoint) -> Reason | None:
    """Why nothing between the two passes, whatever any policy says. Isolation of tenants is held here a second time."""
    params = {"source": source.name, "destination": destination.name}
    if (key := never_passes(source, destination)) is not None:
        return Reason(key, params)
    if None not in (source.tenant, destination.tenant) and source.tenant != destination.tenant:
        return Reason("rules.cross-tenant", params)
    return None


def between(rule_set: RuleSet, source: Sequence[Endpoint], destination: Sequence[Endpoint]) -> list[Clause]:
    """Every grant from one to the other."""
    return _clauses(rule_set, source, destination, "grants")


def denials(rule_set: RuleSet, source: Sequence[Endpoint], destination: Sequence[Endpoint]) -> list[Clause]:
    """Every denial from one to the other."""
    return _clauses(rule_set, source, destination, "denials")


def _clauses(
    rule_set: RuleSet,
    source: Sequence[Endpoint],
    destination: Sequence[Endpoint],
    kind: Literal["grants", "denials"],
) -> list[Clause]:
    domain = rule_set.between(source[0], destination[0])
    if domain is None:
        return []
    wanted = [endpoint.name for endpoint in destination]
    return [
        clause
        for block in domain.rules.of(endpoint.name for endpoint in source)
        for clause in getattr(block, kind)
        if any(name in clause.destinations for name in wanted)
    ]


def enclosing(rule_set: RuleSet, source: Lineage, destination: Lineage) -> list[Nested]:
    """The nested groups that the destination is in and the source is not. Shared servers stay open, members or not."""
    domain = rule_set.between(source[0], destination[0])
    if domain is None or destination[0].tenant is None:
        return []
    names = frozenset(endpoint.name for endpoint in source)
    return [
        group
        for group in domain.rules.closed_to(names)
        if any(endpoint.name in group.members for endpoint in destination)
    ]


def lineage(rule_set: RuleSet, endpoint: Endpoint) -> Lineage:
    """The endpoint and, for a device, its site: what it may and may not do follows from both."""
    if endpoint.site is None or endpoint.site == endpoint.name:
        return (endpoint,)
    return (endpoint, rule_set.endpoints[endpoint.site])


def parts(rule_set: RuleSet, endpoint: Endpoint) -> tuple[Lineage, ...]:
    """What the endpoint is made of, as far as clauses tell it apart: a site's addresses at large, then its devices."""
    devices = rule_set.particular(endpoint) if endpoint.kind is Kind.SITE else ()
    return (lineage(rule_set, endpoint), *(lineage(rule_set, rule_set.endpoints[name]) for name in devices))


class Offers:
    """All that one source may open, for asking about many destinations: its clauses are looked through once."""

    def __init__(self, rule_set: RuleSet, source: Lineage) -> None:
        self._source = source
        self._rule_set = rule_set
        self._granted: dict[tuple[str, str], set[Service]] = {}
        self._denied: dict[tuple[str, str], set[Service]] = {}
        names = frozenset(endpoint.name for endpoint in source)
        self._closed: dict[str, list[Nested]] = {}
        for domain in rule_set.about(source[0]):
            tenant = domain.rules.tenant
            self._closed[tenant] = domain.rules.closed_to(names)
            for block in domain.rules.of(names):
                for clauses, table in ((block.grants, self._granted), (block.denials, self._denied)):
                    for clause in clauses:
                        for name in clause.destinations:
                            table.setdefault((tenant, name), set()).update(clause.services)

    @property
    def destinations(self) -> Iterable[str]:
        """Names that something is granted to, as far as they exist and may be named."""
        for tenant, name in self._granted:
            endpoint = self._rule_set.endpoints.get(name)
            if endpoint is not None and endpoint.tenant in (tenant, None):
                yield name

    def to(self, destination: Lineage) -> tuple[Service, ...]:
        """All that may pass to this part, merged; only what exists on its IP version."""
        if cannot_pass(self._source[0], destination[0]) is not None:
            return ()
        tenant = destination[0].tenant or self._source[0].tenant or ""
        names = [endpoint.name for endpoint in destination]
        granted = frozenset(one for name in names for one in self._granted.get((tenant, name), ()))
        if not granted:
            return ()
        if destination[0].tenant is not None and any(
            name in group.members for group in self._closed.get(tenant, ()) for name in names
        ):
            return ()
        denied = frozenset(one for name in names for one in self._denied.get((tenant, name), ()))
        return _left(granted, denied.union(self._rule_set.platform.forbidden), destination[0].network.version)


# Pairs are many, combinations of services few.
@lru_cache(maxsize=4096)
def _left(granted: frozenset[Service], denied: frozenset[Service], version: int) -> tuple[Service, ...]:
    left = subtracted(granted, denied) if denied else merged(granted)
    return of_family(left, version)


def passing(rule_set: RuleSet, source: Lineage, destination: Lineage) -> tuple[Service, ...]:
    """All that may pass from one part to the other."""
    return Offers(rule_set, source).to(destination)


def everywhere(rule_set: RuleSet, source: Iterable[Lineage], destination: Iterable[Lineage]) -> tuple[Service, ...]:
    """All that may pass from each part of the source to each part of the destination."""
    targets = list(destination)
    found = [offers.to(target) for offers in (Offers(rule_set, part) for part in source) for target in targets]
    return reduce(intersected, found)
