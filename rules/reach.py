"""What can A reach, and who can reach B? Everything at once, as rows of names, where explain answers one question."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rules.compile import RuleSet
from rules.evaluate import Offers, parts
from rules.model import Kind, Service
from rules.services import intersected

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Reach:
    """One thing that may pass, from an endpoint's name to an endpoint's name. A site's row holds for its devices too.

    ``apart``: pairs within this one that the row does not speak of, because a device differs from its site. They have
    rows of their own, or none.
    """

    source: str
    destination: str
    service: Service
    apart: tuple[Pair, ...] = ()


def reach(rule_set: RuleSet, source: str) -> tuple[Reach, ...]:
    """Everything that may be opened from the source, sorted.

    Raises KeyError if the rule set has no endpoint of that name.
    """
    wanted = rule_set.endpoints[source]
    offers = {part[0].name: Offers(rule_set, part) for part in parts(rule_set, wanted)}
    found: list[Reach] = []
    for target in homes(rule_set, {name for one in offers.values() for name in one.destinations}):
        table = {
            (name, part[0].name): one.to(part)
            for name, one in offers.items()
            for part in parts(rule_set, rule_set.endpoints[target])
        }
        found.extend(rows(table, (source, target)))
    return tuple(sorted(found))


def who_can_reach(rule_set: RuleSet, destination: str, services: Sequence[Service]) -> tuple[Reach, ...]:
    """Everyone who may open any of these services towards the destination, with what of them they may; sorted.

    Raises KeyError if the rule set has no endpoint of that name.
    """
    targets = parts(rule_set, rule_set.endpoints[destination])
    found: list[Reach] = []
    for origin in homes(rule_set, sources(rule_set)):
        table: dict[Pair, tuple[Service, ...]] = {}
        for part in parts(rule_set, rule_set.endpoints[origin]):
            offers = Offers(rule_set, part)
            table |= {(part[0].name, target[0].name): intersected(offers.to(target), services) for target in targets}
        found.extend(rows(table, (origin, destination)))
    return tuple(sorted(found))


def sources(rule_set: RuleSet) -> Iterable[str]:
    """The names that may reach something, or that something is denied to."""
    for tenant, domain in rule_set.domains.items():
        for name in domain.rules.sources:
            endpoint = rule_set.endpoints.get(name)
            if endpoint is not None and endpoint.tenant in (tenant, None):
                yield name


def homes(rule_set: RuleSet, names: Iterable[str]) -> list[str]:
    """The names, sorted, with each device's site in its place."""
    endpoints = (rule_set.endpoints[name] for name in names)
    return sorted({one.site if one.kind is Kind.DEVICE and one.site is not None else one.name for one in endpoints})


def rows(table: Mapping[Pair, tuple[Service, ...]], whole: Pair) -> list[Reach]:
    """Rows for ``whole`` and for those pairs of devices in it that differ from it.

    ``table`` has the services of every pair of parts. A pair is listed if one of the listed pairs around it has other
    services; that one then sets it apart.
    """
    listed: dict[Pair, list[Pair]] = {whole: []}
    if any(services != table[whole] for services in table.values()):
        # From wide to narrow: a pair comes after all that are around it.
        for pair in sorted(table, key=lambda one: (one[0] != whole[0]) + (one[1] != whole[1])):
            around = [wide for wide in listed if wide != pair and _within(pair, wide, whole)]
            differing = [wide for wide in around if table[wide] != table[pair]]
            for wide in differing:
                listed[wide].append(pair)
            if differing:
                listed[pair] = []
    return [Reach(*pair, service, tuple(sorted(apart))) for pair, apart in listed.items() for service in table[pair]]


def _within(pair: Pair, wide: Pair, whole: Pair) -> bool:
    return all(wide[side] in (pair[side], whole[side]) for side in (0, 1))
