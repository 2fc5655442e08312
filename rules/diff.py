"""What does a change of policy open and close? As behaviour, (source, destination, service), not as text.

Only tenants whose decision differs are looked at, and in them only sources whose lines differ (rules.matrix). A change
of the platform's file can open and close a million rows: they are counted, and written when they are asked for.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import overload

from rules.compile import RuleSet
from rules.matrix import NO_LINE, Classes, Matrix, Pair, Places, Services, Way
from rules.reach import BY_NAMES, Listing, Reach, listing
from rules.services import merged, of_family, subtracted


@dataclass(frozen=True, slots=True)
class Source:
    """A home from which something opens or closes: how many pairs, and the rows when they are asked for."""

    home: str
    pairs: int
    listing: Callable[[], Listing]


class Rows(Sequence[Reach]):
    """Rows by the source's home, then by names. Reading them all makes them all: there may be very many.

    ``pairs``: how many pairs of source and destination they are about.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = sorted(sources, key=lambda one: one.home)
        self.pairs = sum(one.pairs for one in self._sources)

    def __iter__(self) -> Iterator[Reach]:
        homes: dict[str, list[Source]] = {}
        for one in self._sources:
            homes.setdefault(one.home, []).append(one)
        for own in homes.values():
            if len(own) == 1:
                yield from own[0].listing().rows()
            else:  # a shared server, with rows for several tenants
                yield from sorted(chain.from_iterable(one.listing().rows() for one in own), key=BY_NAMES)

    def ends(self) -> Iterator[Pair]:
        """The pairs, each once, by the source's home."""
        for one in self._sources:
            yield from one.listing().ends()

    def without(self, others: "Rows") -> Iterator[Pair]:
        """The pairs that are not among the others'."""
        by_home: dict[str, list[Source]] = {}
        for one in others._sources:
            by_home.setdefault(one.home, []).append(one)
        taken: set[Pair] = set()
        home = None
        for one in self._sources:
            if one.home != home:
                home = one.home
                taken = {pair for other in by_home.get(home, ()) for pair in other.listing().ends()}
            yield from (pair for pair in one.listing().ends() if pair not in taken)

    def first(self, pairs: int) -> list[Reach]:
        """The rows of the first so many pairs."""
        found: list[Reach] = []
        for row in self:
            if not found or BY_NAMES(row) != BY_NAMES(found[-1]):
                if not pairs:
                    break
                pairs -= 1
            found.append(row)
        return found

    def __bool__(self) -> bool:
        return self.pairs > 0

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Reach: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Reach]: ...
    def __getitem__(self, index: int | slice) -> Reach | Sequence[Reach]:
        if isinstance(index, int) and index >= 0:
            for row in islice(self, index, None):
                return row
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Difference:
    """A device is not listed where its whole site is, unless it differs from it.

    ``digest`` is a number for all of it: equal if the rows are, as long as the tenants it is about have the same sites.
    """

    opened: Rows
    closed: Rows
    digest: str


def diff(old: RuleSet | None, new: RuleSet) -> Difference:
    """What ``new`` opens and closes against ``old``; None is the gateway that drops everything.

    Speaks of names: a site that moved to another prefix and may reach the same is no difference.
    """
    opened: list[Source] = []
    closed: list[Source] = []
    digest = hashlib.sha256()
    classes = Classes([() if old is None else old.platform.forbidden, new.platform.forbidden])
    for tenants in _territories(old, new):
        territory = _Territory(old, new, tenants, classes)
        named = False
        for home in territory.places.of:
            table = territory.changes(home)
            if not any(table):
                continue
            if not named:  # bits mean nothing without them
                digest.update(repr(territory.places.parts).encode())
                named = True
            digest.update(repr((home, [sorted(one) for one in table])).encode())
            for found, position in ((opened, 0), (closed, 1)):
                if pairs := territory.listed(home, table, position).pairs:
                    found.append(Source(home, pairs, territory.asked(home, position)))
    return Difference(Rows(opened), Rows(closed), digest.hexdigest())


def _territories(old: RuleSet | None, new: RuleSet) -> list[list[str]]:
    """The tenants of which something may differ, sorted; those between which a name moved belong together."""
    before: Mapping[str, object] = {} if old is None else old.domains
    tenants = sorted(before.keys() | new.domains.keys())
    together = {tenant: tenant for tenant in tenants}

    def first(tenant: str) -> str:
        while together[tenant] != tenant:
            tenant = together[tenant]
        return tenant

    for name, endpoint in () if old is None else old.endpoints.items():
        now = new.endpoints.get(name)
        if now is not None and now.tenant != endpoint.tenant and None not in (now.tenant, endpoint.tenant):
            together[first(str(now.tenant))] = first(str(endpoint.tenant))
    found: dict[str, list[str]] = {}
    for tenant in tenants:
        found.setdefault(first(tenant), []).append(tenant)
    differ = _differing(old, new)
    return [one for one in found.values() if any(differ(tenant) for tenant in one)]


def _differing(old: RuleSet | None, new: RuleSet) -> Callable[[str], bool]:
    """Tells for a tenant whether anything that its decision depends on differs."""
    if old is None:
        return lambda tenant: True
    forbids = merged(old.platform.forbidden) != merged(new.platform.forbidden)
    names = old.shared.keys() | new.shared.keys()
    moved = {name for name in names if old.shared.get(name) != new.shared.get(name)}

    def differs(tenant: str) -> bool:
        was, now = old.domains.get(tenant), new.domains.get(tenant)
        if forbids or was is None or now is None:
            return True
        return (was is not now and was.digest != now.digest) or not moved.isdisjoint(now.rules.named)

    return differs


#: For each part of a home: other parts (bits) with what opens and closes. No bits twice, no change twice.
_Table = list[list[tuple[int, tuple[Services, Services]]]]


class _Territory:
    """Some tenants before and after."""

    def __init__(self, old: RuleSet | None, new: RuleSet, tenants: Sequence[str], classes: Classes) -> None:
        rule_sets = [one for one in (old, new) if one is not None]
        self.places = Places(rule_sets, tenants)
        self._old = None if old is None else Matrix(old, tenants, self.places)
        self._new = Matrix(new, tenants, self.places)
        self._classes = classes

    def changes(self, home: str) -> _Table:
        table: _Table = []
        for part in self.places.of[home]:
            after = self._new.line(part, Way.FROM)
            before = NO_LINE if self._old is None else self._old.line(part, Way.FROM)
            bits_of: dict[tuple[Services, Services], int] = {}
            for bits, (was, now) in self._classes.of([before, after]):
                if any(change := (_more(now, was, after.version), _more(was, now, before.version))):
                    bits_of[change] = bits_of.get(change, 0) | bits
            table.append([(bits, change) for change, bits in bits_of.items()])
        return table

    def listed(self, home: str, table: _Table, position: int) -> Listing:
        """The rows: ``position`` 0 what opens, 1 what closes."""
        own = [name for name, _ in self.places.of[home]]
        tables = [[(bits, change[position]) for bits, change in part] for part in table]
        return listing(self.places, home, own, tables, Way.FROM)

    def asked(self, home: str, position: int) -> Callable[[], Listing]:
        """The same once more, when it is asked for: a million rows are not kept."""
        return lambda: self.listed(home, self.changes(home), position)


# Pairs are many, combinations of services few.
@lru_cache(maxsize=4096)
def _more(services: Services, taken: Services, version: int) -> Services:
    # “any” less something would have the other version's ICMP left over.
    return of_family(subtracted(services, taken), version) if taken else services
