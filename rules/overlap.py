"""Which statements are about the same? Sides of statements by the names in them, so that nobody compares all pairs.

Sets of names are compared, not names: statements of one group share one set, so a tenant's distinct sets are few. A
site stands for its devices too. Names that are not in the inventory are left out of every set.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from rules.model import Endpoint, Kind, Protocol, Service, Statement, Validity
from rules.services import merged, subtracted

Names = frozenset[str]


class Known:
    """The endpoints that a tenant's statements may name, and who lives where."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self._devices: dict[str, list[str]] = {}
        self._live: dict[Names, Names] = {}
        for endpoint in endpoints.values():
            if endpoint.kind is Kind.DEVICE and endpoint.site is not None:
                self._devices.setdefault(endpoint.site, []).append(endpoint.name)

    def live(self, names: Names) -> Names:
        """Those of the names that exist. Of equal sets the very same object."""
        if names not in self._live:
            found = names.intersection(self.endpoints)
            self._live[names] = self._live.setdefault(found, found)
        return self._live[names]

    def around(self, name: str) -> tuple[str, ...]:
        """The name, and for a device its site: who covers one of them covers the name."""
        site = self.endpoints[name].site
        return (name,) if site is None or site == name else (name, site)

    def within(self, name: str) -> tuple[str, ...]:
        """The name, and for a site its devices."""
        return (name, *self._devices.get(name, ()))


def directions(statement: Statement, known: Known) -> list[tuple[Names, Names]]:
    """From whom to whom it speaks, in names that exist."""
    sides = known.live(statement.sources), known.live(statement.destinations)
    return [sides, sides[::-1]] if statement.both and sides[0] != sides[1] else [sides]


class Bucket:
    """The statements of one kind from exactly these to exactly those."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self._narrow: dict[Service, list[Statement]] = {}
        self._wide: dict[Protocol, list[tuple[int, int, Statement]]] = {}
        self._services: dict[Validity | None, tuple[Service, ...]] = {}

    def add(self, statement: Statement) -> None:
        self.statements.append(statement)
        for service in statement.services:
            if service.low == service.high:
                self._narrow.setdefault(service, []).append(statement)
            else:
                self._wide.setdefault(service.protocol, []).append((service.low, service.high, statement))
        self._services = {}

    def covering(self, services: tuple[Service, ...]) -> Iterator[Statement]:
        """The statements that are about all of the services."""
        first = services[0]
        for statement in self._narrow.get(first, ()):
            if not _beyond(services, statement.services):
                yield statement
        for protocol in {first.protocol, Protocol.ANY}:
            for low, high, statement in self._wide.get(protocol, ()):
                if low <= first.low and first.high <= high and not _beyond(services, statement.services):
                    yield statement

    def services(self, validities: Iterable[Validity | None] | None = None) -> tuple[Service, ...]:
        """All services of the statements that hold at these times; of all statements for None."""
        if not self._services:
            by_time: dict[Validity | None, list[Service]] = {}
            for statement in self.statements:
                by_time.setdefault(statement.validity, []).extend(statement.services)
            self._services = {validity: merged(services) for validity, services in by_time.items()}
        wanted = self._services.keys() if validities is None else set(validities)
        return tuple(one for validity in wanted for one in self._services.get(validity, ()))


# Statements are many, combinations of services few.
@lru_cache(maxsize=4096)
def _beyond(services: tuple[Service, ...], others: tuple[Service, ...]) -> tuple[Service, ...]:
    return subtracted(services, others)


class Index:
    """Statements of one kind by their sides."""

    def __init__(self, statements: Iterable[Statement], known: Known) -> None:
        self._known = known
        self.buckets: dict[Names, dict[Names, Bucket]] = {}
        self._containing: dict[str, set[Names]] = {}
        self._covering: dict[Names, set[Names]] = {}
        self._touching: dict[Names, set[Names]] = {}
        for statement in statements:
            for sources, destinations in directions(statement, known):
                self.buckets.setdefault(sources, {}).setdefault(destinations, Bucket()).add(statement)
        for names in {*self.buckets, *(names for targets in self.buckets.values() for names in targets)}:
            for name in names:
                self._containing.setdefault(name, set()).add(names)

    def about(self, name: str) -> frozenset[Names]:
        """The sets that stand for the name, by itself or with its site."""
        return frozenset().union(*(self._containing.get(one, ()) for one in self._known.around(name)))

    def covering(self, names: Names) -> set[Names]:
        """The sets that stand for all of these names."""
        if names not in self._covering:
            found: set[Names] | None = None
            for name in names:
                about = self.about(name)
                found = set(about) if found is None else found & about
                if not found:
                    break
            self._covering[names] = found or set()
        return self._covering[names]

    def touching(self, names: Names) -> set[Names]:
        """The sets that stand for anything of these names."""
        if names not in self._touching:
            near = {one for name in names for inner in self._known.within(name) for one in self._known.around(inner)}
            self._touching[names] = set().union(*(self._containing.get(one, ()) for one in near))
        return self._touching[names]

    def wider(self, sources: Names, destinations: Names) -> Iterator[Bucket]:
        """The statements that speak from all of the one to all of the other."""
        return self._between(self.covering(sources), self.covering(destinations))

    def meeting(self, sources: Names, destinations: Names) -> Iterator[Bucket]:
        """The statements that speak from any of the one to any of the other."""
        return self._between(self.touching(sources), self.touching(destinations))

    def _between(self, sources: Iterable[Names], destinations: set[Names]) -> Iterator[Bucket]:
        for names in sources:
            if (targets := self.buckets.get(names)) is not None:
                for target in targets.keys() & destinations:
                    yield targets[target]
