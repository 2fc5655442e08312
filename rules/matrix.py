"""A rule set as lines of bits: all that one end has with every other, one bit for each other end.

For explain and evaluate a pair is the question; here it is everything at once, so whatever clauses have in common is
worked out once: a group's members are one number, a block's clauses one number for each combination of services, and
one end's line the union of those of its blocks. Ends that a line's numbers do not tell apart are one class, whose
services are worked out once (``Classes``).

Agrees with rules.evaluate on every pair: a test holds one against the other. Does not know addresses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rules.blocks import Clause
from rules.compile import Domain, RuleSet
from rules.evaluate import Lineage, lineage
from rules.model import Endpoint, Kind, Service
from rules.services import intersected, merged, of_family, subtracted

Services = tuple[Service, ...]
Pair = tuple[str, str]


class Places:
    """Which bit is whose: the parts of several tenants' territory, as far as one of the rule sets tells them apart.

    ``parts``: (name, home): each home (a site or a server), and each device that a clause or a nested group names.
    ``homes`` has the homes' bits, ``divided`` those of homes with such devices.
    """

    def __init__(self, rule_sets: Iterable[RuleSet], tenants: Sequence[str]) -> None:
        devices: dict[str, set[str]] = {}
        for one in rule_sets:
            for domain in (one.domains[tenant] for tenant in tenants if tenant in one.domains):
                for name, endpoint in domain.endpoints.items():
                    if endpoint.kind is not Kind.DEVICE:
                        devices.setdefault(name, set())
                for name in one.shared.keys() & domain.rules.named:
                    devices.setdefault(name, set())
                for site, own in domain.particular.items():
                    devices[site].update(own)
        parts: list[Pair] = []
        #: Home -> its parts, itself first.
        self.of: dict[str, tuple[Pair, ...]] = {}
        #: Home -> the bits of all its parts.
        self.whole: dict[str, int] = {}
        self.homes = self.divided = 0
        for home in sorted(devices):
            bit = 1 << len(parts)
            own_parts = ((home, home), *((device, home) for device in sorted(devices[home])))
            self.of[home] = own_parts
            self.whole[home] = (bit << len(own_parts)) - bit
            self.homes |= bit
            self.divided |= bit if len(own_parts) > 1 else 0
            parts += own_parts
        self.parts = tuple(parts)
        self.bit = {name: 1 << number for number, (name, _) in enumerate(parts)}

    def home(self, name: str) -> str:
        """The home of a part."""
        return self.parts[self.bit[name].bit_length() - 1][1]

    def named(self, bits: int) -> Iterable[str]:
        """The names of those parts, in order."""
        while bits:
            lowest = bits & -bits
            yield self.parts[lowest.bit_length() - 1][0]
            bits ^= lowest


@dataclass(frozen=True, slots=True)
class Line:
    """What one end is granted and denied with all others: combination of services -> the others' bits.

    Nothing is listed of ends between which nothing passes whatever is granted. ``version`` is that of IP.
    """

    version: int
    granted: Mapping[Services, int]
    denied: Mapping[Services, int]


#: The line of an end that does not exist.
NO_LINE = Line(4, {}, {})


class Way(Enum):
    """Whether a line's own end is the source or the destination."""

    FROM = "from"
    TOWARDS = "towards"


class Matrix:
    """A rule set's lines over some tenants' territory. ``places`` may be those of several rule sets together."""

    def __init__(self, rule_set: RuleSet, tenants: Sequence[str], places: Places) -> None:
        self._rule_set = rule_set
        self._places = places
        self._shared = {name for name in rule_set.shared if name in places.whole}
        self._domains = {
            tenant: _Of(rule_set.domains[tenant], [rule_set.shared[name] for name in sorted(self._shared)], places)
            for tenant in tenants
            if tenant in rule_set.domains
        }

    def line(self, part: Pair, way: Way) -> Line:
        """The line of a part (name, home). A device that this rule set does not know is an address of its site like
        others; a home that it does not know has nothing."""
        lined: Lineage = ()
        for name in part:
            if (endpoint := self._rule_set.endpoints.get(name)) is not None:
                lined = lineage(self._rule_set, endpoint)
                break
        if not lined:
            return NO_LINE
        granted: dict[Services, int] = {}
        denied: dict[Services, int] = {}
        for tenant, domain in self._domains.items():
            if lined[0].tenant in (tenant, None):
                domain.add(lined, way, granted, denied)
        return Line(lined[0].network.version, granted, denied)


_Columns = dict[Services, int]


class _Of:
    """One domain's part of the matrix."""

    def __init__(self, domain: Domain, shared: Sequence[Endpoint], places: Places) -> None:
        self._rules = domain.rules
        self._places = places
        self._masks: dict[frozenset[str], int] = {}
        self._columns: dict[int, tuple[_Columns, _Columns]] = {}
        #: Name -> the bits that it covers: a site's name covers its devices, known or not.
        self._covers: dict[str, int] = {}
        self._sites = self._servers = self._common = 0
        self._versions = {4: 0, 6: 0}
        for name, endpoint in (*domain.endpoints.items(), *((one.name, one) for one in shared)):
            if endpoint.kind is Kind.DEVICE:
                self._covers[name] = places.bit.get(name, 0)
                continue
            bits = self._covers[name] = places.whole[name]
            self._versions[endpoint.network.version] |= bits
            if endpoint.tenant is None:
                self._common |= bits
            elif endpoint.kind is Kind.SERVER:
                self._servers |= bits
            else:
                self._sites |= bits

    def add(self, lined: Lineage, way: Way, granted: _Columns, denied: _Columns) -> None:
        """Add the clauses about an endpoint on this side to what is known of it."""
        names = frozenset(endpoint.name for endpoint in lined)
        others = self._others(lined[0]) & ~self._closed(lined[0], names, way)
        found = list(self._outgoing(names) if way is Way.FROM else self._incoming(names))
        reached = 0
        for grants, _ in found:
            for services, bits in grants.items():
                if bits := bits & others:
                    granted[services] = granted.get(services, 0) | bits
                    reached |= bits
        for _, denials in found:
            for services, bits in denials.items():
                if bits := bits & reached:
                    denied[services] = denied.get(services, 0) | bits

    def _others(self, one: Endpoint) -> int:
        """The ends that this one can have to do with, whatever is granted: what evaluate.cannot_pass leaves."""
        if one.kind is Kind.SERVER:
            others = self._sites
        else:
            others = (self._sites | self._servers | self._common) & ~self._places.whole.get(one.site or "", 0)
        return others & self._versions[one.network.version]

    def _closed(self, one: Endpoint, names: frozenset[str], way: Way) -> int:
        """The ends that nested groups keep it from. Shared servers stay open, members or not."""
        closed = 0
        if way is Way.FROM:
            for group in self._rules.closed_to(names):
                closed |= self._mask(group.members) & ~self._common
        elif one.tenant is not None:
            for group in self._rules.nested:
                if not names.isdisjoint(group.members):
                    closed |= ~self._mask(group.members)
        return closed

    def _outgoing(self, names: frozenset[str]) -> Iterable[tuple[_Columns, _Columns]]:
        for number in {number for name in names for number in self._rules.sources.get(name, ())}:
            if (found := self._columns.get(number)) is None:
                block = self._rules.blocks[number]
                found = self._columns[number] = self._spread(block.grants), self._spread(block.denials)
            yield found

    def _spread(self, clauses: Iterable[Clause]) -> _Columns:
        found: _Columns = {}
        for clause in clauses:
            found[clause.services] = found.get(clause.services, 0) | self._mask(clause.destinations)
        return found

    def _incoming(self, names: frozenset[str]) -> Iterable[tuple[_Columns, _Columns]]:
        for block in self._rules.blocks:
            grants, denials = (
                {clause.services for clause in clauses if not names.isdisjoint(clause.destinations)}
                for clauses in (block.grants, block.denials)
            )
            if grants or denials:
                bits = self._mask(block.sources)
                yield dict.fromkeys(grants, bits), dict.fromkeys(denials, bits)

    def _mask(self, names: frozenset[str]) -> int:
        if (found := self._masks.get(names)) is None:
            found = 0
            for name in names:
                found |= self._covers.get(name, 0)
            self._masks[names] = found
        return found


class Classes:
    """Lines of the same end in several rule sets -> classes of others with what passes in each of them.

    Combinations are few and lines many: what a combination comes to is kept.
    """

    def __init__(self, forbidden: Sequence[Services]) -> None:
        self._forbidden = forbidden
        self._number: dict[tuple[int, bool, Services], int] = {}
        self._columns: list[tuple[int, bool, Services]] = []
        self._known: dict[tuple[int, tuple[int, ...]], tuple[Services, ...]] = {}
        self._touched: dict[Services, bool] = {}
        first = merged(forbidden[0])
        self._alike = all(merged(one) == first for one in forbidden)

    def of(self, lines: Sequence[Line]) -> list[tuple[int, tuple[Services, ...]]]:
        """(bits, what passes in each rule set) of those others with which anything may pass in one of them, and
        something else in another; with one rule set, of all."""
        considered = self._differing(lines)
        if not considered:
            return []
        bits_of: dict[int, int] = {}
        for number, line in enumerate(lines):
            for grants, table in ((True, line.granted), (False, line.denied)):
                for services, bits in table.items():
                    if bits := bits & considered:
                        bits_of[bits] = bits_of.get(bits, 0) | self._column(number, grants, services)
        classes = {0: considered}
        for bits, columns in bits_of.items():
            refined: dict[int, int] = {}
            for known, members in classes.items():
                if inside := members & bits:
                    refined[known | columns] = inside
                if outside := members ^ inside:
                    refined[known] = outside
            classes = refined
        versions = tuple(line.version for line in lines)
        return [(members, self._passing(columns, versions)) for columns, members in classes.items() if columns]

    def _differing(self, lines: Sequence[Line]) -> int:
        """The others that are worth a look."""
        bits = 0
        first = lines[0]
        for line in lines[1:] or (NO_LINE,):
            if line.version != first.version:
                return _all(lines)
            for one, other in ((first.granted, line.granted), (first.denied, line.denied)):
                for services in one.keys() | other.keys():
                    bits |= one.get(services, 0) ^ other.get(services, 0)
                    if not self._alike and self._touches(services):
                        bits |= one.get(services, 0) | other.get(services, 0)
        return bits & _all(lines)

    def _touches(self, services: Services) -> bool:
        """Whether what is forbidden of these services differs."""
        if (found := self._touched.get(services)) is None:
            left = {intersected(services, one) for one in self._forbidden}
            found = self._touched[services] = len(left) > 1
        return found

    def _column(self, number: int, grants: bool, services: Services) -> int:
        key = (number, grants, services)
        if (found := self._number.get(key)) is None:
            found = self._number[key] = 1 << len(self._columns)
            self._columns.append(key)
        return found

    def _passing(self, columns: int, versions: tuple[int, ...]) -> tuple[Services, ...]:
        key = columns, versions
        if (found := self._known.get(key)) is None:
            granted: list[set[Service]] = [set() for _ in versions]
            denied: list[set[Service]] = [set(one) for one in self._forbidden]
            for position, (number, grants, services) in enumerate(self._columns):
                if columns >> position & 1:
                    (granted if grants else denied)[number].update(services)
            found = self._known[key] = tuple(
                of_family(subtracted(one, other) if other else merged(one), version)
                for one, other, version in zip(granted, denied, versions, strict=True)
            )
        return found


def _all(lines: Iterable[Line]) -> int:
    bits = 0
    for line in lines:
        for granted in line.granted.values():
            bits |= granted
    return bits
