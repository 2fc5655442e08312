"""Timed grants in answers: what each lets pass between endpoints, beside the policies. rules.timed says how they hold.

Agrees with rules.evaluate, for all addresses of a part: a grant from one address of a site is no answer for the site.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rules.compile import RuleSet
from rules.evaluate import Lineage, cannot_pass, denials, enclosing, parts
from rules.matrix import Services, Way
from rules.model import Address, Endpoint, Grant, Network
from rules.reach import BY_NAMES, Reach, rows
from rules.services import intersected, of_family, subtracted
from rules.timed import effective, ends_of, kept, network_of


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant with the rows that it lets pass, sorted. A source that is a single address goes by it."""

    grant: Grant
    rows: tuple[Reach, ...]


def letting(rule_set: RuleSet, source: Network, destination: Sequence[str]) -> list[Grant]:
    """The grants that hold from all of those addresses to an endpoint that goes by these names."""
    found = []
    for grant in rule_set.grants:
        if grant.destination in destination and (ends := _ends(rule_set, grant)) is not None:
            origin = network_of(ends[0])
            if _within(source, origin):
                found.append(grant)
    return found


def passes(rule_set: RuleSet, grant: Grant, source: Lineage, destination: Lineage) -> Services:
    """What of a grant between the two passes: nothing that is forbidden, denied or enclosed."""
    if cannot_pass(source[0], destination[0]) is not None or enclosing(rule_set, source, destination):
        return ()
    denied = {one for clause in denials(rule_set, source, destination) for one in clause.services}
    left = subtracted(effective(rule_set, grant), denied.union(rule_set.platform.forbidden))
    return of_family(left, destination[0].network.version)


def granted(rule_set: RuleSet, name: str, way: Way, services: Services | None = None) -> tuple[Granted, ...]:
    """The grants from or towards the endpoint and its devices that let anything (of ``services``) pass; those that end
    first come first.

    Raises KeyError if the rule set has no endpoint of that name.
    """
    wanted = rule_set.endpoints[name]
    found = []
    for grant in sorted(rule_set.grants, key=lambda one: (one.until, one.id)):
        if (ends := _ends(rule_set, grant)) is None:
            continue
        asked = ends[0] if way is Way.FROM else ends[1]
        if not _within(wanted.network, network_of(asked)) and not _within(network_of(asked), wanted.network):
            continue
        # Of a grant about a whole site only what is asked about: one of its devices.
        inner = wanted if _within(wanted.network, network_of(asked)) and isinstance(asked, Endpoint) else None
        source = inner if inner is not None and way is Way.FROM else ends[0]
        destination = inner if inner is not None and way is Way.TOWARDS else ends[1]
        origins = (
            [(one[0].name, one) for one in parts(rule_set, source)]
            if isinstance(source, Endpoint)
            else [(str(source), rule_set.whereabouts.at(source))]
        )
        table = {
            (one, other[0].name): passes(rule_set, grant, lined, other)
            for one, lined in origins
            for other in parts(rule_set, destination)
        }
        if services is not None:
            table = {pair: intersected(passing, services) for pair, passing in table.items()}
        if told := sorted(rows(table, (origins[0][0], destination.name)), key=BY_NAMES):
            found.append(Granted(grant, tuple(told)))
    return tuple(found)


def _ends(rule_set: RuleSet, grant: Grant) -> tuple[Endpoint | Address, Endpoint] | None:
    """The ends of a grant that the kernel keeps."""
    ends = ends_of(rule_set, grant)
    if ends is None or not kept(network_of(ends[0]), network_of(ends[1]), effective(rule_set, grant)):
        return None
    return ends


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer
