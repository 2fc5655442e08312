"""One tenant's policy -> blocks: who is granted and denied what, without regard to which of the names exist.

A *block* holds the clauses that have exactly the same sources. A source meets about as many blocks as it has groups,
not as many as it has statements; and each block is one bit of the kernel's vectors (rules.vectors).

Invariants: what is here depends on the file's text, the platform and the instant only, so it is kept while sites come
and go; the order of statements and members leaves no trace (``digest``). Does not know addresses: rules.compile does.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rules.model import Action, Nested, Platform, Restriction, Service, StatementId, TenantPolicy
from rules.services import ANY, intersected
from rules.validity import holds, next_change


@dataclass(frozen=True, slots=True)
class Clause:
    """What one statement says about packets from the sources of its block. Names are as written."""

    statement: StatementId
    destinations: frozenset[str]
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Clauses about the same sources. ``digest`` stands for sources and clauses together."""

    sources: frozenset[str]
    grants: tuple[Clause, ...]
    denials: tuple[Clause, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class TenantRules:
    """A tenant's policy at one instant. ``sources``: name -> numbers of its blocks.

    ``named`` has every name that a clause or a nested group speaks of: a device that is not in it is an address of its
    site like any other. ``next_change``: when the next statement begins or ends to hold.
    """

    tenant: str
    blocks: tuple[Block, ...]
    nested: tuple[Nested, ...]
    digest: str
    sources: Mapping[str, tuple[int, ...]] = field(repr=False)
    named: frozenset[str] = field(repr=False)
    next_change: datetime | None = None

    def of(self, names: Iterable[str]) -> list[Block]:
        """The blocks of a source that goes by these names (a device's own, and its site's)."""
        numbers = sorted({number for name in names for number in self.sources.get(name, ())})
        return [self.blocks[number] for number in numbers]

    def closed_to(self, names: frozenset[str]) -> list[Nested]:
        """The nested groups that a source of these names is not in."""
        return [group for group in self.nested if names.isdisjoint(group.members)]


def compile_tenant(policy: TenantPolicy, platform: Platform, *, at: datetime | None = None) -> TenantRules:
    """Decide for the instant ``at``; it may be left out if no statement has a validity (else ValueError)."""
    by_sources: dict[frozenset[str], tuple[list[Clause], list[Clause]]] = {}
    changes: list[datetime] = []
    for statement in policy.statements:
        if statement.validity is not None:
            if at is None:
                raise ValueError("a policy with validities is compiled for an instant")
            if (change := next_change(statement.validity, at)) is not None:
                changes.append(change)
            if not holds(statement.validity, at):
                continue
        sources, destinations, services = statement.sources, statement.destinations, statement.services
        if not sources or not destinations or not services:
            continue
        for origin, target in (
            ((sources, destinations), (destinations, sources))
            if statement.both and sources != destinations
            else ((sources, destinations),)
        ):
            if statement.action is Action.DENY:
                _at(by_sources, origin)[1].append(Clause(statement.id, target, services))
                continue
            if not platform.servers:
                _at(by_sources, origin)[0].append(Clause(statement.id, target, services))
                continue
            for some, others, left in _unrestricted(origin, target, services, platform.servers):
                _at(by_sources, some)[0].append(Clause(statement.id, others, left))
    blocks = _ordered(by_sources)
    members: dict[str, list[int]] = {}
    for number, block in enumerate(blocks):
        for name in block.sources:
            members.setdefault(name, []).append(number)
    nested = tuple(sorted(policy.nested, key=lambda group: group.group))
    named = set(members).union(
        *{clause.destinations for block in blocks for clause in (*block.grants, *block.denials)},
        *(group.members for group in nested),
    )
    content = [[block.digest for block in blocks], [[group.group, sorted(group.members)] for group in nested]]
    return TenantRules(
        policy.tenant,
        tuple(blocks),
        nested,
        hashed(content),
        {name: tuple(numbers) for name, numbers in members.items()},
        frozenset(named),
        min(changes, default=None),
    )


_Clauses = tuple[list[Clause], list[Clause]]


def _at(table: dict[frozenset[str], _Clauses], sources: frozenset[str]) -> _Clauses:
    if (found := table.get(sources)) is None:
        found = table[sources] = ([], [])
    return found


def _ordered(by_sources: Mapping[frozenset[str], _Clauses]) -> list[Block]:
    """The blocks in the order of their sources' names, each with its clauses in an order of their own."""
    # Clauses share their sets of names (groups) and their services: each is put in words once.
    texts: dict[frozenset[str], str] = {}
    services: dict[tuple[Service, ...], str] = {}

    def named(names: frozenset[str]) -> str:
        if (found := texts.get(names)) is None:
            found = texts[names] = hashed(sorted(names))
        return found

    def content(clause: Clause) -> str:
        if (found := services.get(clause.services)) is None:
            found = services[clause.services] = written(clause.services)
        return f"{clause.statement} {named(clause.destinations)} {found}"

    blocks = []
    for names in sorted(by_sources, key=sorted):
        grants, denials = (sorted(clauses, key=content) for clauses in by_sources[names])
        digest = hashed([named(names), [content(one) for one in grants], [content(one) for one in denials]])
        blocks.append(Block(names, tuple(grants), tuple(denials), digest))
    return blocks


def hashed(content: object) -> str:
    """A number for content of lists and texts; equal exactly if the content is."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def written(services: Iterable[Service]) -> str:
    """The services as one text; equal exactly if they are."""
    return ",".join(f"{int(one.protocol)}:{one.low}-{one.high}" for one in services)


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
