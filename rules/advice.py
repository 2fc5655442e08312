"""What in a policy says nothing: warnings for its author, no mistakes.

Each is certain: what is told has no effect, whatever packet comes, as long as the inventory stays. Statements with a
validity are held only against such as hold whenever they do. Not everything is found: no allow is held against several
others together, and looking has a limit (`PAIRS_MAX`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from rules.draft import listed
from rules.model import (
    Action,
    Endpoint,
    Inventory,
    Nested,
    Platform,
    Policy,
    Service,
    Statement,
    StatementId,
    TenantPolicy,
    endpoints,
)
from rules.names import visible
from rules.overlap import Index, Known, Names, directions
from rules.problems import Problem, problem
from rules.services import ANY, intersected, of_family, subtracted
from rules.validity import holds, next_change

#: As many pairs of classes of endpoints are looked at for one tenant, at up to 0.1 ms each. It is reached only where
#: hundreds of denials between many overlapping groups leave nearly nothing open; a statement that one single denial
#: takes away is found without.
PAIRS_MAX = 5_000


_ALL = (ANY,)


# Statements and pairs are many, combinations of services few.
@lru_cache(maxsize=4096)
def _left(
    services: tuple[Service, ...],
    taken: frozenset[Service],
    opens: tuple[Service, ...],
    offers: tuple[Service, ...],
    version: int,
) -> tuple[Service, ...]:
    return of_family(intersected(intersected(subtracted(services, taken), opens), offers), version)


def advise(policy: Policy, inventory: Inventory, at: datetime | None = None) -> list[Problem]:
    """Everything without effect, in reading order: statements that others cover or take away altogether, that nobody
    can match, or (given ``at``) that never hold again; denials of what nobody allows; groups and services that nobody
    uses; names that stand twice in a group.
    """
    table = visible(endpoints(inventory).values())
    shared = table.get("", {})
    found: list[Problem] = []
    for tenant, own in policy.tenants.items():
        known = Known({**shared, **table.get(tenant, {})})
        found += _Tenant(own, policy.platform, known).advice(at)
        found += [problem(remark.key, remark.place, **remark.params) for remark in own.remarks]
    return sorted(found, key=lambda one: (one.file, one.line, one.column, one.kind))


@dataclass(frozen=True, slots=True)
class _Class:
    """Endpoints that are alike to all denials, nested groups and restrictions. ``server``: one with a restriction."""

    version: int
    shared: bool
    denials: frozenset[Names]
    inside: frozenset[str]
    server: str


@dataclass(slots=True)
class _Members:
    """Who of a set is in a class."""

    servers: bool
    sites: set[str]

    def passes(self, other: "_Members") -> bool:
        """Whether some pair is neither two servers nor of one site."""
        if (self.servers and other.sites) or (self.sites and other.servers):
            return True
        return bool(self.sites and other.sites) and (len(self.sites) > 1 or self.sites != other.sites)


class _Tenant:
    """One tenant's statements, asked for those without effect."""

    def __init__(self, policy: TenantPolicy, platform: Platform, known: Known) -> None:
        self._statements = policy.statements
        self._nested = policy.nested
        self._platform = platform
        self._known = known
        self._indexes = {
            action: Index((one for one in policy.statements if one.action is action), known) for action in Action
        }
        self._pairs_left = PAIRS_MAX
        self._class_of: dict[str, _Class] = {}
        self._classes: dict[Names, dict[_Class, _Members]] = {}

    def advice(self, at: datetime | None) -> Iterable[Problem]:
        for statement in self._statements:
            if (found := self._about(statement, at)) is not None:
                kind, params = found
                yield problem(kind, statement.place, name=statement.id, **params)

    def _about(self, statement: Statement, at: datetime | None) -> tuple[str, Mapping[str, str | int]] | None:
        for names in (statement.sources, statement.destinations):
            if not self._known.live(names):
                return "rules.advice-nobody", {"names": listed(sorted(names))}
        validity = statement.validity
        if validity is not None and at is not None and not holds(validity, at) and next_change(validity, at) is None:
            return "rules.advice-past", {}
        if not statement.services:
            return None
        if statement.action is Action.ALLOW and (denials := self._denied_at_once(statement)):
            return "rules.advice-all-denied", {"statements": listed(sorted(denials))}
        if statement.action is Action.ALLOW and not self._opens(statement, self._nested, self._platform, denied=True):
            # Where nothing takes anything away, no packet between the two passes the gateway: the reader tells that.
            nothing_passes = not self._opens(statement, (), Platform(), denied=False)
            return None if nothing_passes else self._taken(statement)
        if statement.action is Action.DENY and not self._takes(statement):
            return "rules.advice-takes-nothing", {}
        if (other := self._covered_by(statement)) is not None:
            return "rules.advice-covered", {"by": other.id, "line": other.place.line}
        return None

    # -- one statement against another ----------------------------------------------------------------------------

    def _covered_by(self, statement: Statement) -> Statement | None:
        """A statement that says all that this one says; of two that say the same, the first covers the second."""
        found: dict[StatementId, Statement] | None = None
        for sources, destinations in directions(statement, self._known):
            wider = {
                one.id: one
                for bucket in self._indexes[statement.action].wider(sources, destinations)
                for one in bucket.covering(statement.services)
                if one.id != statement.id and one.validity in (None, statement.validity)
            }
            found = wider if found is None else {name: one for name, one in found.items() if name in wider}
        for name in sorted(found or ()):
            other = (found or {})[name]
            if (other.place.line, other.place.column) < (statement.place.line, statement.place.column):
                return other
            if not self._covers(statement, other):
                return other
        return None

    def _covers(self, one: Statement, other: Statement) -> bool:
        index = self._indexes[one.action]
        mine = directions(one, self._known)
        return (
            one.validity in (None, other.validity)
            and not subtracted(other.services, one.services)
            and all(
                any(source in index.covering(sources) and target in index.covering(targets) for source, target in mine)
                for sources, targets in directions(other, self._known)
            )
        )

    def _takes(self, denial: Statement) -> bool:
        """Whether it takes anything away from any allow."""
        services = subtracted(denial.services, self._platform.forbidden)
        return any(
            intersected(services, bucket.services())
            for sides in directions(denial, self._known)
            for bucket in self._indexes[Action.ALLOW].meeting(*sides)
        )

    def _denied_at_once(self, statement: Statement) -> set[StatementId]:
        """Denials of which each takes away the whole of one direction, together the whole; none if there are none."""
        found: set[StatementId] = set()
        for sides in directions(statement, self._known):
            wider = (
                one.id
                for bucket in self._indexes[Action.DENY].wider(*sides)
                for one in bucket.covering(statement.services)
                if one.validity in (None, statement.validity)
            )
            if (first := next(wider, None)) is None:
                return set()
            found.add(first)
        return found

    # -- one statement against all that takes away ----------------------------------------------------------------

    def _taken(self, statement: Statement) -> tuple[str, Mapping[str, str | int]]:
        """What leaves nothing of it."""
        nothing = Platform()
        if not self._opens(statement, self._nested, nothing, denied=False):
            groups = {name for sides in directions(statement, self._known) for name in self._enclosing(*sides)}
            return "rules.advice-all-enclosed", {"groups": listed(sorted(groups))}
        if not self._opens(statement, (), self._platform, denied=False):
            return "rules.advice-all-restricted", {}
        denials = {
            one.id
            for sides in directions(statement, self._known)
            for bucket in self._indexes[Action.DENY].meeting(*sides)
            for one in bucket.statements
            if one.validity in (None, statement.validity) and intersected(one.services, statement.services)
        }
        kind = "rules.advice-all-denied"
        if self._opens(statement, (), nothing, denied=True):
            kind = "rules.advice-all-blocked"
        return kind, {"statements": listed(sorted(denials))}

    def _enclosing(self, sources: Names, destinations: Names) -> Iterable[str]:
        for mine in self._members(sources):
            for theirs in self._members(destinations):
                if not theirs.shared:
                    yield from theirs.inside - mine.inside

    def _opens(self, statement: Statement, nested: tuple[Nested, ...], platform: Platform, *, denied: bool) -> bool:
        """Whether any packet passes by it, if these alone take away from it."""
        for sources, destinations in directions(statement, self._known):
            for mine, some in self._members(sources).items():
                for theirs, others in self._members(destinations).items():
                    self._pairs_left -= 1
                    if self._pairs_left < 0:
                        return True  # unknown: nothing is told that is not certain
                    if mine.version != theirs.version or not some.passes(others):
                        continue
                    if nested and not theirs.shared and theirs.inside - mine.inside:
                        continue
                    taken = self._denied(mine, theirs, statement) if denied else frozenset()
                    opens = platform.servers[mine.server].opens if mine.server in platform.servers else _ALL
                    offers = platform.servers[theirs.server].offers if theirs.server in platform.servers else _ALL
                    if _left(statement.services, taken.union(platform.forbidden), opens, offers, mine.version):
                        return True
        return False

    def _denied(self, source: _Class, destination: _Class, statement: Statement) -> frozenset[Service]:
        buckets = self._indexes[Action.DENY].buckets
        return frozenset(
            service
            for names in source.denials
            if names in buckets
            for target in buckets[names].keys() & destination.denials
            for service in buckets[names][target].services((None, statement.validity))
        )

    def _members(self, names: Names) -> dict[_Class, _Members]:
        """The classes of what is in a set: a site's devices are in it too, as they may be inside a nested group."""
        if names not in self._classes:
            found: dict[_Class, _Members] = {}
            for name in {inner for outer in names for inner in self._known.within(outer)}:
                endpoint = self._known.endpoints[name]
                members = found.setdefault(self._class(endpoint), _Members(False, set()))
                if endpoint.site is None:
                    members.servers = True
                else:
                    members.sites.add(endpoint.site)
            self._classes[names] = found
        return self._classes[names]

    def _class(self, endpoint: Endpoint) -> _Class:
        if endpoint.name not in self._class_of:
            around = self._known.around(endpoint.name)
            self._class_of[endpoint.name] = _Class(
                endpoint.network.version,
                endpoint.tenant is None,
                self._indexes[Action.DENY].about(endpoint.name),
                frozenset(group.group for group in self._nested if not group.members.isdisjoint(around)),
                endpoint.name if endpoint.name in self._platform.servers else "",
            )
        return self._class_of[endpoint.name]
