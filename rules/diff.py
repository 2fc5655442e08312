"""What does a change of policy open and close? As behaviour, (source, destination, service), not as text."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from rules.compile import RuleSet
from rules.evaluate import Lineage, Offers, lineage
from rules.model import Nested, Service
from rules.reach import Pair, Reach, homes, rows, sources
from rules.services import subtracted


@dataclass(frozen=True, slots=True)
class Difference:
    """Sorted. A device is not listed where its whole site is, unless it differs from it."""

    opened: tuple[Reach, ...]
    closed: tuple[Reach, ...]


def diff(old: RuleSet | None, new: RuleSet) -> Difference:
    """What ``new`` opens and closes against ``old``; None is the gateway that drops everything.

    Speaks of names: a site that moved to another prefix and may reach the same is no difference.
    """
    rule_sets = [new] if old is None else [old, new]
    # Blocks speak of names as written: they are a short cut only where the same names exist.
    alike = old is not None and old.platform == new.platform and old.endpoints.keys() == new.endpoints.keys()
    opened: list[Reach] = []
    closed: list[Reach] = []
    for source in sorted({name for one in rule_sets for name in homes(one, sources(one))}):
        origins = _parts(rule_sets, source)
        if alike and all(_signature(rule_sets[0], origin) == _signature(rule_sets[-1], origin) for origin in origins):
            continue
        offers = [
            {origin: Offers(one, lined) for origin in origins if (lined := _lineage(one, origin))} for one in rule_sets
        ]
        granted = [
            homes(one, {name for offer in table.values() for name in offer.destinations})
            for one, table in zip(rule_sets, offers, strict=True)
        ]
        for destination in sorted({name for names in granted for name in names}):
            tables = []
            for one, table in zip(rule_sets, offers, strict=True):
                targets = {target: _lineage(one, target) for target in _parts(rule_sets, destination)}
                tables.append(
                    {
                        (origin[0], target[0]): table[origin].to(lined) if origin in table and lined else ()
                        for origin in origins
                        for target, lined in targets.items()
                    }
                )
            now = tables[-1]
            was = tables[0] if old is not None else dict.fromkeys(now, ())
            whole = (source, destination)
            opened.extend(rows({pair: _more(now[pair], was[pair]) for pair in now}, whole))
            closed.extend(rows({pair: _more(was[pair], now[pair]) for pair in was}, whole))
    return Difference(tuple(sorted(opened)), tuple(sorted(closed)))


def _parts(rule_sets: Iterable[RuleSet], name: str) -> list[Pair]:
    """(name, home): the endpoint itself, then each device of it that a clause in either rule set names."""
    devices = {device for one in rule_sets for device in _particular(one, name)}
    return [(name, name), *((device, name) for device in sorted(devices))]


def _particular(rule_set: RuleSet, name: str) -> tuple[str, ...]:
    endpoint = rule_set.endpoints.get(name)
    return () if endpoint is None else rule_set.particular(endpoint)


def _lineage(rule_set: RuleSet, part: Pair) -> Lineage:
    """The part as this rule set sees it: a device that it does not know is an address of its site like others."""
    for name in part:
        if (endpoint := rule_set.endpoints.get(name)) is not None:
            return lineage(rule_set, endpoint)
    return ()


def _signature(rule_set: RuleSet, part: Pair) -> list[tuple[str, list[str], list[Nested]]]:
    """Equal signatures, equal reach: the blocks' contents, found without opening them, and what is closed."""
    lined = _lineage(rule_set, part)
    names = frozenset(endpoint.name for endpoint in lined)
    return [
        (domain.rules.tenant, sorted(block.digest for block in domain.rules.of(names)), domain.rules.closed_to(names))
        for domain in (rule_set.about(lined[0]) if lined else ())
    ]


# Pairs are many, combinations of services few.
@lru_cache(maxsize=4096)
def _more(services: tuple[Service, ...], taken: tuple[Service, ...]) -> tuple[Service, ...]:
    return subtracted(services, taken) if taken else services
