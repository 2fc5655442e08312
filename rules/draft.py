"""What a tenant's text says by itself, and what of that does not hold against an inventory.

A draft follows from the text and the platform's file alone. Whoever keeps it holds it against the next inventory
without reading the text again (`against`): sites come and go more often than policies change.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rules.document import Scalar
from rules.model import Kind, Place, Platform, PolicySource, TenantPolicy
from rules.names import Names, nearest, never_passes
from rules.problems import Problem, problem
from rules.shapes import short

#: As many names of a long list as a message shows.
_SHOWN = 5
Sides = tuple[frozenset[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Group:
    """A group: the name where it is defined, and the members, those of groups inside it among them."""

    name: Scalar
    members: frozenset[str]
    nested: bool


@dataclass(frozen=True, slots=True)
class Use:
    """A statement or an expectation that names these sides, as written."""

    place: Place
    sources: tuple[str, ...]
    destinations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """One file. ``problems`` are those that no inventory changes.

    ``tenant`` is where the file names its tenant rightly; ``mentions`` and ``listed`` are where it names endpoints: in
    statements, and where no group may stand. ``apart`` are the lists of groups that may share no site. ``defined`` has
    the names of services that the file defines.
    """

    source: PolicySource
    platform: Platform
    policy: TenantPolicy
    problems: tuple[Problem, ...]
    tenant: Scalar | None
    groups: tuple[Group, ...]
    members_max: int | None
    mentions: Mapping[str, list[Scalar]]
    listed: Mapping[str, list[Scalar]]
    apart: tuple[tuple[tuple[Scalar, frozenset[str]], ...], ...]
    uses: Mapping[Sides, list[Use]]


def against(draft: Draft, names: Names, *, known_tenant: bool) -> tuple[Problem, ...]:
    """What of the draft does not hold against an inventory, in reading order."""
    tenant, file_name = draft.source.tenant, draft.source.file_name
    problems: list[Problem] = []

    def wrong(kind: str, at: Scalar, **params: str | int) -> None:
        problems.append(Problem(kind, params, file_name, at.line, at.column))

    if draft.tenant is not None and not known_tenant:
        wrong("rules.no-such-tenant", draft.tenant, tenant=tenant)
    groups = [group.name.text for group in draft.groups]
    for mentions, candidates in ((draft.listed, ()), (draft.mentions, groups)):
        for name in mentions.keys() - names.all():
            params = {"name": short(name), "tenant": tenant}
            kind = "rules.unknown-name"
            if (guess := nearest(name, {*names.all(), *candidates})) is not None:
                kind, params = "rules.unknown-name-similar", {**params, "suggestion": guess}
            for text in mentions[name]:
                wrong(kind, text, **params)
    for group in draft.groups:
        if names.endpoint(group.name.text) is not None:
            wrong("rules.name-taken", group.name, name=group.name.text)
        if draft.members_max is not None and len(group.members) > draft.members_max:
            found = sum(names.endpoint(member) is not None for member in group.members)
            if found > draft.members_max:
                wrong("rules.limit-members", group.name, found=found, limit=draft.members_max)
    for row in draft.apart:
        problems += _dual_membership(row, names, file_name)
    problems += _nothing_passes(draft.uses, names)
    return tuple(sorted(problems, key=lambda one: (one.line, one.column, one.kind)))


def _dual_membership(row: Iterable[tuple[Scalar, frozenset[str]]], names: Names, file_name: str) -> Iterable[Problem]:
    """Each site that is, with any of its devices, in two groups that may share none."""
    seen: list[tuple[str, set[str]]] = []
    for text, members in row:
        found = (names.endpoint(member) for member in members)
        sites = {one.site for one in found if one is not None and one.site is not None}
        for other, theirs in seen:
            if both := sorted(sites & theirs):
                params = {"first": other, "second": text.text, "sites": listed(both)}
                yield Problem("rules.dual-membership", params, file_name, text.line, text.column)
        seen.append((text.text, sites))


@dataclass(frozen=True, slots=True)
class _Side:
    """What decides whether packets between two sides can pass the gateway, for one IP version."""

    servers: bool
    sites: frozenset[str]


_NOBODY = _Side(False, frozenset())


def _nothing_passes(uses: Mapping[Sides, list[Use]], names: Names) -> Iterable[Problem]:
    """Statements of which not one pair can pass the gateway. One with a side of which nobody exists is not told."""
    sides: dict[frozenset[str], tuple[_Side, _Side]] = {}
    for both in uses:
        for members in both:
            if members not in sides:
                sides[members] = _side(members, names, 4), _side(members, names, 6)
    for (sources, destinations), places in uses.items():
        if not any(map(_passes, sides[sources], sides[destinations])):
            why = _first_reason(sources, destinations, names)
            if why is not None:
                for use in places:
                    params = {"source": listed(use.sources), "destination": listed(use.destinations)}
                    yield problem(why, use.place, **params)


def _side(members: frozenset[str], names: Names, version: int) -> _Side:
    found = [
        one for member in members if (one := names.endpoint(member)) is not None and one.network.version == version
    ]
    if not found:
        return _NOBODY
    sites = frozenset([one.site for one in found if one.site is not None])
    return _Side(any(one.kind is Kind.SERVER for one in found), sites)


def _passes(one: _Side, other: _Side) -> bool:
    """Whether a pair of them is not both servers and not of the same site."""
    if (one.servers and other.sites) or (one.sites and other.servers):
        return True
    return bool(one.sites and other.sites) and (len(one.sites) > 1 or one.sites != other.sites)


def _first_reason(sources: frozenset[str], destinations: frozenset[str], names: Names) -> str | None:
    pairs = ((names.endpoint(one), names.endpoint(other)) for one in sorted(sources) for other in sorted(destinations))
    return next((never_passes(one, other) for one, other in pairs if one is not None and other is not None), None)


def listed(names: Collection[str]) -> str:
    """Names as a message shows them."""
    return ", ".join(short(name) for name in list(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
