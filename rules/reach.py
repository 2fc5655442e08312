"""What can A reach, and who can reach B? Everything at once, as rows of names, where explain answers one question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from rules.compile import RuleSet
from rules.evaluate import parts
from rules.matrix import Classes, Matrix, Pair, Places, Services, Way
from rules.model import Service
from rules.services import intersected

#: The order of rows, as far as names go; a pair's services are in order already.
BY_NAMES = attrgetter("source", "destination")


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
    return _asked(rule_set, source, Way.FROM, None)


def who_can_reach(rule_set: RuleSet, destination: str, services: Sequence[Service]) -> tuple[Reach, ...]:
    """Everyone who may open any of these services towards the destination, with what of them they may; sorted.

    Raises KeyError if the rule set has no endpoint of that name.
    """
    return _asked(rule_set, destination, Way.TOWARDS, services)


def _asked(rule_set: RuleSet, name: str, way: Way, services: Sequence[Service] | None) -> tuple[Reach, ...]:
    wanted = rule_set.endpoints[name]
    own = [(part[0].name, part[-1].name) for part in parts(rule_set, wanted)]
    classes = Classes([rule_set.platform.forbidden])
    chosen: dict[Services, Services] = {}

    def of_these(passing: Services) -> Services:
        if services is None:
            return passing
        if (found := chosen.get(passing)) is None:
            found = chosen[passing] = intersected(passing, services)
        return found

    found: list[Reach] = []
    for domain in rule_set.about(wanted):
        tenant = [domain.rules.tenant]
        places = Places([rule_set], tenant)
        matrix = Matrix(rule_set, tenant, places)
        table = [
            [(bits, of_these(passing)) for bits, (passing,) in classes.of([matrix.line(part, way)])] for part in own
        ]
        found.extend(listing(places, name, [part[0] for part in own], table, way).rows())
    return tuple(sorted(found, key=BY_NAMES))


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows about one end, as yet unwritten. ``plain``: other homes (bits) with services that hold for both as wholes;
    ``particular``: rows where devices have a say, in no order."""

    places: Places
    end: str
    way: Way
    plain: tuple[tuple[int, Services], ...]
    particular: tuple[Reach, ...]

    @property
    def pairs(self) -> int:
        """How many pairs the rows are about."""
        return sum(bits.bit_count() for bits, _ in self.plain) + len(set(map(BY_NAMES, self.particular)))

    def ends(self) -> list[Pair]:
        """The pairs, sorted, each once."""
        plain = (self._pair(name) for bits, _ in self.plain for name in self.places.named(bits))
        return sorted({*plain, *map(BY_NAMES, self.particular)})

    def rows(self) -> list[Reach]:
        """The rows, sorted."""
        found = [
            Reach(*pair, service)
            for bits, services in self.plain
            for pair in map(self._pair, self.places.named(bits))
            for service in services
        ]
        return sorted((*found, *self.particular), key=BY_NAMES)

    def _pair(self, other: str) -> Pair:
        return (self.end, other) if self.way is Way.FROM else (other, self.end)


#: Of one part: other parts (bits) with what passes. No other part is in two of them.
PartTable = Sequence[tuple[int, Services]]


def listing(places: Places, end: str, own: Sequence[str], tables: Sequence[PartTable], way: Way) -> Listing:
    """``own`` are the names of the end's parts, the end itself first; ``tables`` have what each has with the others."""
    alike = places.homes & ~places.divided
    for table in tables[1:]:
        alike &= _agreeing(tables[0], table)
    plain = tuple((members, services) for bits, services in tables[0] if services and (members := bits & alike))
    some = 0
    for table in tables:
        for bits, services in table:
            some |= bits if services else 0
    if not (left := some & ~alike):
        return Listing(places, end, way, plain, ())
    opened = [
        {name: services for bits, services in table if services for name in places.named(bits & left)}
        for table in tables
    ]
    particular: list[Reach] = []
    for home in sorted({places.home(name) for name in places.named(left)}):
        pairs = {
            (name, other) if way is Way.FROM else (other, name): table.get(other, ())
            for name, table in zip(own, opened, strict=True)
            for other, _ in places.of[home]
        }
        particular.extend(rows(pairs, (end, home) if way is Way.FROM else (home, end)))
    return Listing(places, end, way, plain, tuple(particular))


def _agreeing(one: PartTable, other: PartTable) -> int:
    """The others with which both have the same."""
    bits = 0
    rest = -1
    for members, services in one:
        rest &= ~members if services else -1
        for others, same in other:
            if services and services == same:
                bits |= members & others
    for others, services in other:
        rest &= ~others if services else -1
    return bits | rest


def rows(table: Mapping[Pair, Services], whole: Pair) -> list[Reach]:
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
