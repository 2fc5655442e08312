"""Policy files -> Policy. Reports every mistake at once, each with its place; no text makes it raise anything else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rules.collector import paused
from rules.draft import Draft, against
from rules.inventory import check_inventory
from rules.model import Inventory, Platform, PlatformSource, Policy, PolicySource, endpoints
from rules.names import Names
from rules.parts import Parts, parts_of
from rules.platform_file import PlatformDraft, draft_platform
from rules.problems import PolicyError, Problem
from rules.tenant_file import COMES_WITH_TIME, draft


@dataclass(frozen=True, slots=True)
class _Held:
    """A draft, and what of it does not hold against a part of an inventory (None: there is no such tenant)."""

    draft: Draft
    shared: Inventory
    part: Inventory | None
    problems: tuple[Problem, ...]

    @property
    def told(self) -> tuple[Problem, ...]:
        return self.draft.problems + self.problems


class Drafts:
    """What was read last. Its owner gives it to each reading, which then costs what changed since the one before."""

    def __init__(self) -> None:
        self._platform: tuple[PlatformSource, PlatformDraft] | None = None
        self._parts = Parts()
        self._held: dict[tuple[str, str], _Held] = {}

    def platform(self, source: PlatformSource) -> PlatformDraft:
        """The platform's file; of an unchanged one the very draft of before."""
        if self._platform is None or self._platform[0] != source:
            self._platform = source, draft_platform(source)
        return self._platform[1]

    def parts(self, inventory: Inventory) -> Parts:
        """The inventory's parts; unchanged ones are the very objects of before."""
        self._parts = parts_of(inventory, self._parts)
        return self._parts

    def hold(self, sources: Sequence[PolicySource], parts: Parts, platform: Platform) -> list[_Held]:
        """Each file against the inventory; forgets the files that are not among them any more."""
        names = _NamesOf(parts)
        found = [self._hold(source, parts, platform, names) for source in sources]
        self._held = {(one.draft.source.tenant, one.draft.source.file_name): one for one in found}
        return found

    def _hold(self, source: PolicySource, parts: Parts, platform: Platform, names: "_NamesOf") -> _Held:
        part = parts.own.get(source.tenant)
        before = self._held.get((source.tenant, source.file_name))
        if before is None or before.draft.source != source or before.draft.platform != platform:
            own = draft(source, platform)
        elif before.shared is parts.shared and before.part is part:
            return before
        else:
            own = before.draft
        told = against(own, names.of(source.tenant), known_tenant=part is not None)
        return _Held(own, parts.shared, part, told)


class _NamesOf:
    """What names mean, for one tenant after the other."""

    def __init__(self, parts: Parts) -> None:
        self._shared = endpoints(parts.shared)
        self._own = parts.own

    def of(self, tenant: str) -> Names:
        part = self._own.get(tenant)
        return Names({} if part is None else endpoints(part), self._shared)


def parse(sources: Sequence[PolicySource], inventory: Inventory, platform: PlatformSource | None = None) -> Policy:
    """Read policies that someone wants to put in force.

    Raises PolicyError with every problem of every file and of the inventory.
    """
    with paused():
        drafts = Drafts()
        parts = drafts.parts(inventory)
        above, problems = _platform(platform, parts, drafts)
        held = drafts.hold(sources, parts, above)
        problems += check_inventory(inventory) + [found for one in held for found in one.told]
        problems += filter(None, _two_files(sources))
    if problems:
        raise PolicyError(problems)
    return _policy(held, above)


def parse_stored(
    sources: Sequence[PolicySource],
    inventory: Inventory,
    platform: PlatformSource | None = None,
    *,
    drafts: Drafts | None = None,
) -> tuple[Policy, tuple[Problem, ...]]:
    """Read policies that were accepted earlier, against the inventory of now. For the gateway.

    A name that is gone (its site is revoked) is kept and told, and reaches nothing; groups and services mean what they
    meant. A tenant whose file no longer holds for any other reason gets nothing, and other tenants do not suffer for
    it; if the platform's does not, nobody gets anything. The problems are what to tell. With ``drafts`` of the reading
    before, what did not change since is not read again. Raises PolicyError only for an inconsistent inventory.
    """
    if problems := check_inventory(inventory):
        raise PolicyError(problems)
    drafts = drafts or Drafts()
    return parse_parts(sources, drafts.parts(inventory), platform, drafts=drafts)


def parse_parts(
    sources: Sequence[PolicySource],
    parts: Parts,
    platform: PlatformSource | None = None,
    *,
    drafts: Drafts | None = None,
) -> tuple[Policy, tuple[Problem, ...]]:
    """The same for an inventory in parts, which is not checked here. With ``drafts``, a tenant whose text is equal and
    whose part is the very object of before costs next to nothing.
    """
    with paused():
        drafts = drafts or Drafts()
        above, told = _platform(platform, parts, drafts)
        if any(found.kind not in COMES_WITH_TIME | {"rules.no-such-tenant"} for found in told):
            return Policy({}), tuple(told)
        held = drafts.hold(sources, parts, above)
        told += [found for one in held for found in one.told]
        double = _two_files(sources)
        kept = [
            one
            for one, second in zip(held, double, strict=True)
            if second is None and all(found.kind in COMES_WITH_TIME for found in one.told)
        ]
        return _policy(kept, above), (*told, *filter(None, double))


def _platform(source: PlatformSource | None, parts: Parts, drafts: Drafts) -> tuple[Platform, list[Problem]]:
    if source is None:
        return Platform(), []
    found = drafts.platform(source)
    return found.platform, found.against({server.name for server in parts.shared.servers}, parts.own.keys())


def _policy(held: Iterable[_Held], platform: Platform) -> Policy:
    own = {one.draft.source.tenant: one.draft.policy for one in held}
    return Policy({tenant: own[tenant] for tenant in sorted(own)}, platform)


def _two_files(sources: Iterable[PolicySource]) -> list[Problem | None]:
    """For each file what is wrong with its being there: it is the tenant's second."""
    problems: list[Problem | None] = []
    seen: dict[str, str] = {}
    for source in sources:
        params = {"tenant": source.tenant, "first": seen.get(source.tenant, "")}
        known = source.tenant in seen
        problems.append(Problem("rules.two-files", params, source.file_name, 1, 1) if known else None)
        seen[source.tenant] = source.file_name
    return problems
