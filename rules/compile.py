"""Policy + Inventory -> RuleSet: the whole decision as data, of which evaluate, render, explain and diff are readings.

A packet passes if at least one ``allow`` covers it, no ``deny`` does, the platform does not forbid it, and its source
is in every nested group that its destination is in. The order of statements has no meaning, nor has which of them is
the more particular: a deny about a site holds for each of its devices, and no allow overrules it.

A *block* holds the clauses that have exactly the same sources. So an address stands once in each set that is made of a
block, sources with equal policy share their blocks, and a source meets about as many blocks as it has groups, not as
many as it has statements.

Invariants: every name in a clause belongs to the statement's tenant or is a shared server; the order of files,
statements and members leaves no trace (``fingerprint``).
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from rules.inventory import check_inventory
from rules.model import (
    Action,
    Address,
    Endpoint,
    Inventory,
    Kind,
    Nested,
    Platform,
    Policy,
    Restriction,
    Service,
    StatementId,
    endpoints,
)
from rules.names import visible
from rules.problems import PolicyError
from rules.services import ANY, intersected
from rules.validity import holds, next_change


@dataclass(frozen=True, slots=True)
class Clause:
    """What one statement says about packets from the sources of its block."""

    statement: StatementId
    destinations: frozenset[str]
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Clauses about the same sources. ``digest`` stands for sources and clauses together."""

    grants: tuple[Clause, ...]
    denials: tuple[Clause, ...]
    digest: str


class Whereabouts:
    """Which endpoints an address belongs to."""

    def __init__(self, known: Iterable[Endpoint]) -> None:
        self._hosts: dict[Address, Endpoint] = {}
        sites: list[tuple[tuple[int, int], Endpoint]] = []
        for endpoint in known:
            first = endpoint.network.network_address
            if endpoint.kind is Kind.SITE:
                sites.append(((first.version, int(first)), endpoint))
            else:
                self._hosts[first] = endpoint
        sites.sort(key=lambda item: item[0])
        self._starts = [start for start, _ in sites]
        self._sites = [endpoint for _, endpoint in sites]

    def site(self, address: Address) -> Endpoint | None:
        """The site whose overlay prefix holds the address."""
        position = bisect_right(self._starts, (address.version, int(address))) - 1
        if position >= 0 and address in self._sites[position].network:
            return self._sites[position]
        return None

    def at(self, address: Address) -> tuple[Endpoint, ...]:
        """The most particular endpoint first: (device, site), (site,), (server,) or nothing."""
        host = self._hosts.get(address)
        if host is not None and host.kind is Kind.SERVER:
            return (host,)
        site = self.site(address)
        return tuple(found for found in (host, site) if found is not None)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Who may reach what. ``sources`` maps an endpoint's name to its blocks; one that is missing may reach nothing.

    A device has the blocks of its site besides its own. ``nested`` has each tenant's nested groups; under the empty
    tenant all of them, for shared servers. ``fingerprint`` is equal exactly if everything else is.
    ``particular`` has the devices, by site, that a clause or a nested group names: they alone can differ from their
    sites.
    """

    endpoints: Mapping[str, Endpoint]
    blocks: tuple[Block, ...]
    sources: Mapping[str, tuple[int, ...]]
    nested: Mapping[str, tuple[Nested, ...]]
    platform: Platform
    fingerprint: str
    whereabouts: Whereabouts = field(compare=False, repr=False)
    particular: Mapping[str, tuple[str, ...]] = field(compare=False, repr=False)
    #: When the next statement begins or ends to hold: compile again then.
    next_change: datetime | None = field(default=None, compare=False)

    def blocks_of(self, names: Iterable[str]) -> list[Block]:
        """The blocks of a source that goes by these names (a device's own, and its site's)."""
        numbers = sorted({number for name in names for number in self.sources.get(name, ())})
        return [self.blocks[number] for number in numbers]

    def closed_to(self, source: Sequence[Endpoint]) -> list[Nested]:
        """The nested groups that the source, given with what else it goes by, is not in."""
        names = {endpoint.name for endpoint in source}
        return [one for one in self.nested.get(source[0].tenant or "", ()) if names.isdisjoint(one.members)]

    def closes(self, group: Nested, destination: Sequence[Endpoint]) -> bool:
        """Whether the destination is in the group, and the group's tenant's own."""
        return destination[0].tenant == group.tenant and any(one.name in group.members for one in destination)


def compile_policy(policy: Policy, inventory: Inventory, *, at: datetime | None = None) -> RuleSet:
    """Decide for the instant ``at``; it may be left out if no statement has a validity. Names that the inventory no
    longer has, or that are not the statement's tenant's, fall away.

    Raises PolicyError if the inventory is inconsistent: with overlapping prefixes there is no right decision.
    """
    if at is None and any(statement.validity is not None for statement in policy.statements):
        raise ValueError("a policy with validities is compiled for an instant")
    if problems := check_inventory(inventory):
        raise PolicyError(problems)
    everything = endpoints(inventory)
    table = visible(everything.values())
    shared = frozenset(table.get("", {}))
    nameable = {tenant: frozenset(own) | shared for tenant, own in table.items() if tenant}
    by_sources: dict[frozenset[str], tuple[list[Clause], list[Clause]]] = {}
    kept: dict[tuple[str, frozenset[str]], frozenset[str]] = {}
    changes: list[datetime] = []
    for statement in policy.statements:
        if statement.validity is not None and at is not None:
            if (change := next_change(statement.validity, at)) is not None:
                changes.append(change)
            if not holds(statement.validity, at):
                continue
        sides = []
        for names in (statement.sources, statement.destinations):
            key = (statement.tenant, names)
            if key not in kept:
                kept[key] = names & nameable.get(statement.tenant, frozenset())
            sides.append(kept[key])
        sources, destinations = sides
        if not sources or not destinations or not statement.services:
            continue
        directions = [(sources, destinations)]
        if statement.both and sources != destinations:
            directions.append((destinations, sources))
        for origin, target in directions:
            if statement.action is Action.DENY:
                by_sources.setdefault(origin, ([], []))[1].append(Clause(statement.id, target, statement.services))
                continue
            for some, others, services in _unrestricted(origin, target, statement.services, policy.platform.servers):
                by_sources.setdefault(some, ([], []))[0].append(Clause(statement.id, others, services))
    nested = _nested(policy.nested, nameable)
    blocks: list[Block] = []
    members: dict[str, list[int]] = {}
    ordered = sorted(
        ((tuple(sorted(names)), *clauses) for names, clauses in by_sources.items()), key=lambda one: one[0]
    )
    # Clauses share their sets of names (groups): each set is put in words once.
    worded: dict[frozenset[str], str] = {}
    for number, (source_names, grants, denials) in enumerate(ordered):
        for clause in (*grants, *denials):
            if clause.destinations not in worded:
                worded[clause.destinations] = _hashed(sorted(clause.destinations))
        for clauses in (grants, denials):
            clauses.sort(key=lambda clause: (clause.statement, worded[clause.destinations], clause.services))
        blocks.append(Block(tuple(grants), tuple(denials), _digest(source_names, grants, denials, worded)))
        for name in source_names:
            members.setdefault(name, []).append(number)
    return RuleSet(
        everything,
        tuple(blocks),
        {name: tuple(members[name]) for name in sorted(members)},
        nested,
        policy.platform,
        _fingerprint(everything, blocks, nested, policy.platform),
        Whereabouts(everything.values()),
        _particular(everything, members, blocks, nested),
        min(changes, default=None),
    )


def _nested(groups: Iterable[Nested], nameable: Mapping[str, frozenset[str]]) -> dict[str, tuple[Nested, ...]]:
    found: dict[str, list[Nested]] = {}
    for group in groups:
        kept = replace(group, members=group.members & nameable.get(group.tenant, frozenset()))
        for tenant in (group.tenant, "") if kept.members else ():
            found.setdefault(tenant, []).append(kept)
    return {tenant: tuple(found[tenant]) for tenant in sorted(found)}


_Pieces = Iterable[tuple[frozenset[str], frozenset[str], tuple[Service, ...]]]


def _unrestricted(
    sources: frozenset[str],
    destinations: frozenset[str],
    services: tuple[Service, ...],
    servers: Mapping[str, Restriction],
) -> _Pieces:
    """What the platform leaves of a grant: each restricted server in it becomes a grant of its own."""
    if servers.keys().isdisjoint(sources) and servers.keys().isdisjoint(destinations):
        yield sources, destinations, services
        return
    for some, opens in _sides(sources, {name: one.opens for name, one in servers.items()}):
        for others, offers in _sides(destinations, {name: one.offers for name, one in servers.items()}):
            if left := intersected(intersected(services, opens), offers):
                yield some, others, left


def _sides(
    names: frozenset[str], limited: Mapping[str, tuple[Service, ...]]
) -> Iterable[tuple[frozenset[str], tuple[Service, ...]]]:
    if free := names.difference(limited):
        yield free, (ANY,)
    for name in sorted(names.intersection(limited)):
        yield frozenset([name]), limited[name]


def _particular(
    everything: Mapping[str, Endpoint],
    sources: Iterable[str],
    blocks: Iterable[Block],
    nested: Mapping[str, tuple[Nested, ...]],
) -> dict[str, tuple[str, ...]]:
    named = set(sources)
    for destinations in {clause.destinations for block in blocks for clause in (*block.grants, *block.denials)}:
        named |= destinations
    for group in nested.get("", ()):
        named |= group.members
    found: dict[str, list[str]] = {}
    for name in sorted(named):
        endpoint = everything[name]
        if endpoint.kind is Kind.DEVICE and endpoint.site is not None:
            found.setdefault(endpoint.site, []).append(name)
    return {site: tuple(names) for site, names in found.items()}


def _digest(
    sources: Iterable[str],
    grants: Iterable[Clause],
    denials: Iterable[Clause],
    worded: Mapping[frozenset[str], str],
) -> str:
    return _hashed(
        [
            list(sources),
            *(
                [
                    [one.statement, worded[one.destinations], [_plain(service) for service in one.services]]
                    for one in clauses
                ]
                for clauses in (grants, denials)
            ),
        ]
    )


def _hashed(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _plain(service: Service) -> tuple[int, int, int]:
    return (int(service.protocol), service.low, service.high)


def _fingerprint(
    everything: Mapping[str, Endpoint],
    blocks: Iterable[Block],
    nested: Mapping[str, tuple[Nested, ...]],
    platform: Platform,
) -> str:
    content = [
        [[name, one.kind.value, one.tenant, str(one.network)] for name, one in sorted(everything.items())],
        [block.digest for block in blocks],
        [[one.tenant, one.group, sorted(one.members)] for one in nested.get("", ())],
        [_plain(service) for service in platform.forbidden],
        [
            [name, *([_plain(service) for service in side] for side in (one.offers, one.opens))]
            for name, one in sorted(platform.servers.items())
        ],
    ]
    return _hashed(content)
