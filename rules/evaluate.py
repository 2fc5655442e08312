"""May this packet pass? The reading of a rule set that tests, explanations and people trust; the kernel must agree.

Speaks of the first packet of a flow. Replies and related ICMP errors pass with the flow (connection tracking).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rules.compile import Grant, RuleSet
from rules.model import Endpoint, Packet, Service, StatementId
from rules.names import never_passes
from rules.problems import Reason
from rules.services import merged, of_family


@dataclass(frozen=True, slots=True)
class Verdict:
    """``statements`` that allow it (any one would do), or the ``reason`` why it is dropped."""

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
    statements = sorted(
        grant.statement
        for grant in between(rule_set, source, destination)
        if any(
            service.covers(packet.protocol, packet.selector)
            for service in of_family(grant.services, packet.destination.version)
        )
    )
    if statements:
        return Verdict(True, tuple(dict.fromkeys(statements)))
    params = {"source": source[0].name, "destination": destination[0].name}
    return Verdict(False, reason=Reason("rules.no-statement", params))


def cannot_pass(source: Endpoint, destination: Endpoint) -> Reason | None:
    """Why nothing between the two passes, whatever any policy says. Isolation of tenants is held here a second time."""
    params = {"source": source.name, "destination": destination.name}
    if (key := never_passes(source, destination)) is not None:
        return Reason(key, params)
    if None not in (source.tenant, destination.tenant) and source.tenant != destination.tenant:
        return Reason("rules.cross-tenant", params)
    return None


def between(rule_set: RuleSet, source: Sequence[Endpoint], destination: Sequence[Endpoint]) -> list[Grant]:
    """Every grant from one to the other, each given as (device, site), (site,) or (server,)."""
    wanted = {endpoint.name for endpoint in destination}
    grants = rule_set.grants_of(endpoint.name for endpoint in source)
    return [grant for grant in grants if not wanted.isdisjoint(grant.destinations)]


def lineage(rule_set: RuleSet, endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """The endpoint and, for a device, its site: what it may and may not do follows from both."""
    if endpoint.site is None or endpoint.site == endpoint.name:
        return (endpoint,)
    return (endpoint, rule_set.endpoints[endpoint.site])


def allowed_services(rule_set: RuleSet, source: Endpoint, destination: Endpoint) -> tuple[Service, ...]:
    """Everything that may pass from one to the other, merged; only what exists on their IP version."""
    if cannot_pass(source, destination) is not None:
        return ()
    grants = between(rule_set, lineage(rule_set, source), lineage(rule_set, destination))
    every = merged(service for grant in grants for service in grant.services)
    return of_family(every, destination.network.version)
