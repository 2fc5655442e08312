"""Which statements are about a pair of endpoints? An index over a policy, built once and asked often.

Statements of one group share one set of names, so a tenant's distinct sets are few: names lead to sets, sets to
statements. Says nothing about what passes: evaluate does.
"""

from collections.abc import Iterable, Mapping

from rules.model import Policy, Statement, StatementId, TenantPolicy

Names = frozenset[str]


class _Of:
    """One tenant's statements by their sides."""

    def __init__(self, policy: TenantPolicy) -> None:
        self._by_source: dict[Names, dict[Names, list[Statement]]] = {}
        for statement in policy.statements:
            sides = [(statement.sources, statement.destinations)]
            if statement.both and statement.sources != statement.destinations:
                sides.append((statement.destinations, statement.sources))
            for sources, destinations in sides:
                self._by_source.setdefault(sources, {}).setdefault(destinations, []).append(statement)
        self._sets: dict[str, list[Names]] = {}
        for names in self._by_source:
            for name in names:
                self._sets.setdefault(name, []).append(names)

    def about(self, sources: Iterable[str], destinations: Iterable[str]) -> list[Statement]:
        wanted = frozenset(destinations)
        sets = {names for source in sources for names in self._sets.get(source, ())}
        found = [
            statement
            for names in sets
            for targets, statements in self._by_source[names].items()
            if not wanted.isdisjoint(targets)
            for statement in statements
        ]
        return sorted({one.id: one for one in found}.values(), key=lambda one: one.id)


class Covering:
    """The index over all tenants; a tenant's part is made when first asked for."""

    def __init__(self, policy: Policy) -> None:
        self._tenants: Mapping[str, TenantPolicy] = policy.tenants
        self._made: dict[str, _Of] = {}

    def about(self, tenant: str, sources: Iterable[str], destinations: Iterable[str]) -> list[Statement]:
        """The tenant's statements, allow and deny, holding or not, from one of the sources to one of the
        destinations, by identity."""
        if tenant not in self._made:
            policy = self._tenants.get(tenant)
            if policy is None:
                return []
            self._made[tenant] = _Of(policy)
        return self._made[tenant].about(sources, destinations)


def by_identity(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """Each statement once, by identity."""
    found: dict[StatementId, Statement] = {one.id: one for one in statements}
    return tuple(found[identity] for identity in sorted(found))
