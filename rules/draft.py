"""What a tenant's text says by itself, and what of that does not hold against an inventory.

A draft follows from the text and the platform's file alone. Whoever keeps it holds it against the next inventory
without reading the text again (`against`): sites come and go more often than policies change.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rules.document import Scalar
from rules.model import Place, Platform, PolicySource, TenantPolicy
from rules.names import Names, nearest, never_passes
from rules.problems import Problem, problem
from rules.shapes import short

#: As many names of a long list as a message shows.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Group:
    """A group: the name where it is defined, and the members, those of groups inside it among them.

    ``nested``: it is inside another. ``outer``: another is inside it. ``doubled``: members where they stand again.
    """

    name: Scalar
    members: frozenset[str]
    nested: bool
    outer: bool
    doubled: tuple[Scalar, ...]


class Use(NamedTuple):
    """A statement or an expectation: its sides as written, and with groups opened up. Sets may be shared."""

    place: Place
    written_from: tuple[str, ...]
    written_to: tuple[str, ...]
    sources: frozenset[str]
    destinations: frozenset[str]


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
    uses: list[Use]


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


#: Who is on a side, for one IP version: servers, and sites.
_Side = tuple[bool, frozenset[str]]


def _nothing_passes(uses: Iterable[Use], names: Names) -> Iterable[Problem]:
    """Statements of which not one pair can pass the gateway. One with a side of which nobody exists is not told."""
    # Half of a gateway's time for a site that comes or goes, so: the usual statement costs two look-ups.
    sides: dict[frozenset[str], tuple[_Side, _Side]] = {}
    wide: dict[frozenset[str], bool] = {}
    for use in uses:
        sources, destinations = use.sources, use.destinations
        for members in (sources, destinations):
            if members not in sides:
                sides[members] = side = _side(members, names)
                wide[members] = len(side[0][1]) > 1
        if wide[sources] and wide[destinations]:
            continue  # two sites on each side: some pair is of two sites
        if not any(map(_passes, sides[sources], sides[destinations])):
            why = _first_reason(sources, destinations, names)
            if why is not None:
                params = {"source": listed(use.written_from), "destination": listed(use.written_to)}
                yield problem(why, use.place, **params)


def _side(members: frozenset[str], names: Names) -> tuple[_Side, _Side]:
    servers, sites = {4: False, 6: False}, {4: set[str](), 6: set[str]()}
    for version, site in filter(None, map(names.whereabouts.get, members)):
        if site is None:
            servers[version] = True
        else:
            sites[version].add(site)
    return (servers[4], frozenset(sites[4])), (servers[6], frozenset(sites[6]))


def _passes(one: _Side, other: _Side) -> bool:
    """Whether a pair of them is not both servers and not of the same site."""
    (servers, sites), (other_servers, other_sites) = one, other
    if (servers and other_sites) or (sites and other_servers):
        return True
    return bool(sites and other_sites) and (len(sites) > 1 or sites != other_sites)


def _first_reason(sources: frozenset[str], destinations: frozenset[str], names: Names) -> str | None:
    pairs = ((names.endpoint(one), names.endpoint(other)) for one in sorted(sources) for other in sorted(destinations))
    return next((never_passes(one, other) for one, other in pairs if one is not None and other is not None), None)


def listed(names: Collection[str]) -> str:
    """Names as a message shows them."""
    return ", ".join(short(name) for name in list(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
