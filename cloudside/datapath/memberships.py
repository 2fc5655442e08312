"""As a member of which groups (VPNs) a site sent and received, by the flows that connection tracking tells of. Pure.

A flow goes by a group if a statement that lets it in names the group on the side where the site is: all the group's
members are there. A site that several such groups have did it as a member of each of them.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cloudside.registry.counted import MembershipUse
from rules.compile import RuleSet
from rules.evaluate import Lineage
from rules.model import Statement, StatementId, TenantPolicy

_NO_GROUPS: tuple[str, ...] = ()


class End(NamedTuple):
    """One end of a flow: what it is, and the bytes that it sent and received."""

    lineage: Lineage
    sent: int
    received: int


class Memberships:
    """Which groups a flow went by, under one rule set; answers are remembered."""

    def __init__(self, rule_set: RuleSet) -> None:
        self._rule_set = rule_set
        self._statements: dict[str, Mapping[StatementId, Statement]] = {}
        #: By tenant and site.
        self._groups: dict[str, dict[str, tuple[str, ...]]] = {}
        self._found: dict[tuple[tuple[StatementId, ...], str, bool], tuple[str, ...]] = {}

    def of(self, statements: tuple[StatementId, ...], end: Lineage, *, sends: bool) -> tuple[str, ...]:
        """The groups of this end's site; ``sends``: it is where the flow began."""
        if not end or end[-1].tenant is None:
            return _NO_GROUPS
        key = (statements, end[0].name, sends)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._look_up(statements, end, sends=sends)
        return found

    def of_site(self, tenant: str, site: str) -> tuple[str, ...]:
        """The groups that have the site as a member, whole or one of its devices."""
        if tenant not in self._groups:
            groups: dict[str, tuple[str, ...]] = {}
            self._groups[tenant] = groups
            policy = self._policy(tenant)
            for name, members in policy.groups.items() if policy is not None else ():
                for one in {member.partition("/")[0] for member in members}:
                    groups[one] = (*groups.get(one, _NO_GROUPS), name)
        return self._groups[tenant].get(site, _NO_GROUPS)

    def _look_up(self, statements: tuple[StatementId, ...], end: Lineage, *, sends: bool) -> tuple[str, ...]:
        tenant = end[-1].tenant or ""
        policy = self._policy(tenant)
        if policy is None:
            return _NO_GROUPS
        if tenant not in self._statements:
            self._statements[tenant] = {one.id: one for one in policy.statements}
        names = {one.name for one in end}
        sides = [
            side
            for identity in statements
            if (one := self._statements[tenant].get(identity)) is not None
            for side in _sides(one, sends=sends)
            if names & side
        ]
        return tuple(
            name
            for name, members in policy.groups.items()
            if members and names & members and any(members <= side for side in sides)
        )

    def _policy(self, tenant: str) -> TenantPolicy | None:
        domain = self._rule_set.domains.get(tenant)
        return None if domain is None else domain.policy


def _sides(statement: Statement, *, sends: bool) -> tuple[frozenset[str], ...]:
    own, other = statement.sources, statement.destinations
    if not sends:
        own, other = other, own
    return (own, other) if statement.both else (own,)


class MembershipCounters:
    """Bytes for each site and group until they are taken. For one thread at a time."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, str], tuple[int, int]] = {}

    def count(
        self, memberships: Memberships, statements: tuple[StatementId, ...], source: End, destination: End
    ) -> None:
        """A flow that these statements let in has ended."""
        for end, sends in ((source, True), (destination, False)):
            for group in memberships.of(statements, end.lineage, sends=sends):
                key = (end.lineage[-1].name, group)
                sent, received = self._bytes.get(key, (0, 0))
                self._bytes[key] = (sent + end.sent, received + end.received)

    def take(self) -> tuple[MembershipUse, ...]:
        """What was counted since the last time."""
        taken, self._bytes = self._bytes, {}
        return tuple(MembershipUse(site, group, *amounts) for (site, group), amounts in taken.items())

    def give_back(self, uses: Iterable[MembershipUse]) -> None:
        """What was taken and could not be told."""
        for use in uses:
            sent, received = self._bytes.get((use.site, use.group), (0, 0))
            self._bytes[use.site, use.group] = (sent + use.from_site, received + use.to_site)
