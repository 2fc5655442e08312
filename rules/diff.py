"""What does a change of policy open and close? As behaviour, (source, destination, service), not as text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rules.compile import RuleSet
from rules.evaluate import cannot_pass, lineage
from rules.model import Endpoint, Inventory, Kind, Service
from rules.services import merged, of_family, subtracted


@dataclass(frozen=True, slots=True, order=True)
class Reach:
    """One thing that may pass: from an endpoint's name to an endpoint's name."""

    source: str
    destination: str
    service: Service


@dataclass(frozen=True, slots=True)
class Difference:
    """Sorted. A device is not listed where its whole site is."""

    opened: tuple[Reach, ...]
    closed: tuple[Reach, ...]


def diff(old: RuleSet | None, new: RuleSet, inventory: Inventory) -> Difference:
    """What ``new`` opens and closes against ``old``; None is the gateway that drops everything.

    Speaks of names: a site that moved to another prefix and may reach the same is no difference. ``inventory`` is the
    one of now: a device that it has and no statement names is not listed, it goes with its site.
    """
    homes = {f"{device.site}/{device.name}": device.site for device in inventory.devices}
    opened: list[Reach] = []
    closed: list[Reach] = []
    particular = _devices(new) | (set() if old is None else _devices(old))
    for name in sorted(set(new.sources) | (set() if old is None else set(old.sources)) | particular):
        if old is not None and _signature(old, name) == _signature(new, name):
            continue
        before = {} if old is None else _reachable(old, name, particular)
        after = _reachable(new, name, particular)
        for destination in sorted(before.keys() | after.keys()):
            was, now = before.get(destination, ()), after.get(destination, ())
            opened.extend(_rows(new, name, destination, _subtracted(now, was)))
            if old is not None:
                closed.extend(_rows(old, name, destination, _subtracted(was, now)))
    return Difference(_without_implied(opened, homes), _without_implied(closed, homes))


def _devices(rule_set: RuleSet) -> set[str]:
    """Devices that statements name, on either side: they may differ from their sites."""
    named = set(rule_set.sources)
    for block in rule_set.blocks:
        for grant in block.grants:
            named |= grant.destinations
    return {name for name in named if rule_set.endpoints[name].kind is Kind.DEVICE}


def _names(rule_set: RuleSet, name: str) -> tuple[Endpoint, ...]:
    endpoint = rule_set.endpoints.get(name)
    return () if endpoint is None else lineage(rule_set, endpoint)


def _signature(rule_set: RuleSet, name: str) -> list[str]:
    """Equal signatures, equal reach: the blocks' contents, found without opening them."""
    numbers = {number for one in _names(rule_set, name) for number in rule_set.sources.get(one.name, ())}
    return sorted(rule_set.blocks[number].digest for number in numbers)


def _reachable(rule_set: RuleSet, name: str, particular: Iterable[str]) -> Mapping[str, tuple[Service, ...]]:
    """Everything this source may reach, by destination; named devices of reachable sites too."""
    source = _names(rule_set, name)
    if not source:
        return {}
    offered: dict[str, set[Service]] = {}
    for grant in rule_set.grants_of(one.name for one in source):
        for destination in grant.destinations:
            offered.setdefault(destination, set()).update(grant.services)
    for device in particular:
        if (endpoint := rule_set.endpoints.get(device)) is not None and endpoint.site in offered:
            offered.setdefault(device, set()).update(offered[endpoint.site])
    return {
        destination: _merged(frozenset(services))
        for destination, services in offered.items()
        if cannot_pass(source[0], rule_set.endpoints[destination]) is None
    }


# Pairs are many, combinations of services few.
@lru_cache(maxsize=4096)
def _merged(services: frozenset[Service]) -> tuple[Service, ...]:
    return merged(services)


@lru_cache(maxsize=4096)
def _subtracted(services: tuple[Service, ...], taken: tuple[Service, ...]) -> tuple[Service, ...]:
    return subtracted(services, taken)


def _rows(rule_set: RuleSet, source: str, destination: str, services: Iterable[Service]) -> Iterable[Reach]:
    version = rule_set.endpoints[destination].network.version
    return (Reach(source, destination, service) for service in of_family(services, version))


def _without_implied(found: list[Reach], homes: Mapping[str, str]) -> tuple[Reach, ...]:
    """Found is in order already: by source, destination, service."""
    if not any(one.source in homes or one.destination in homes for one in found):
        return tuple(found)
    every = set(found)

    def implied(one: Reach) -> bool:
        for source in {one.source, homes.get(one.source, one.source)}:
            for destination in {one.destination, homes.get(one.destination, one.destination)}:
                wider = Reach(source, destination, one.service)
                if wider != one and wider in every:
                    return True
        return False

    return tuple(one for one in found if not implied(one))
