"""A domain as bit vectors: what an address is a source of, AND what a destination is open to; any bit left grants.

Each block of a tenant's rules is one bit. A packet's destination and service give the blocks that open it, its source
the blocks that it is a source of: two look-ups and an AND answer for 31 blocks at once, however many statements they
are made of. (Lakshman and Stiliadis, High-speed policy-based packet forwarding, SIGCOMM 1998.) The kernel's packet mark
is the register, and ipset's map target does the arithmetic: each entry carries a mark and a mask, and the mark
becomes ``(mark & ~mask) ^ entry's mark``.

Everything is by *home* (a site with those of its devices that the rules name, or a server): a home that comes, goes or
moves changes its own entries and no others. IPv4 only: homes with IPv6 addresses are left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from rules.blocks import Clause, TenantRules
from rules.compile import Domain
from rules.match import form
from rules.model import Endpoint, Kind, Service

#: The mark has 32 bits; the highest says that the source has not been found yet.
WORD_BITS = 31
PENDING = 1 << 31
ALL = (1 << 32) - 1
_WORD = PENDING - 1

#: A set's key within its tenant: what for (n nested, d denials, g grants), the word, and the column: ``s`` source,
#: ``d`` destination (nested), ``a`` any service, ``p`` single ports, ``w0`` the first wide range. ``h``: the homes.
Key = str
Entries = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Columns:
    """What destinations are asked for by one kind of clause, in words of WORD_BITS blocks."""

    words: int
    whole: bool
    ports: tuple[str, ...]
    wide: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a tenant's chain depends on. Equal shapes: equal chains, whatever is in the sets."""

    nested_words: int
    denials: Columns
    grants: Columns


@dataclass(frozen=True, slots=True)
class Home:
    """A site or a server with its network; a site with the devices that the rules name. Networks as the kernel's.

    ``first`` and ``last`` are the network's addresses as numbers. ``number`` tells sites apart; a server's is 0.
    """

    name: str
    network: str
    first: int
    last: int
    number: int
    shared: bool = False
    devices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Vectors:
    """The sets of a tenant's part of the kernel. ``number`` is its block's address: names in the kernel are made of it.

    ``sets``: the entries of each set, element -> (mark, mask). A tenant without sites (``shape`` None) needs nothing.
    """

    number: int
    shape: Shape | None
    homes: Mapping[str, Home]
    sets: Mapping[Key, Entries]
    rules: TenantRules = field(compare=False, repr=False)
    encoder: "Encoder" = field(compare=False, repr=False)


def kind_of(key: Key) -> str:
    """The ipset type of the set."""
    return "hash:net,port" if key.endswith("p") else "hash:net"


def vectors(domain: Domain, shared: Iterable[Endpoint], previous: Vectors | None = None) -> Vectors | None:
    """The domain's vectors; None if its block is not IPv4.

    With ``previous`` of the same rules only homes that differ are worked out; ``previous`` itself stays as it is.
    """
    if not isinstance(domain.block, IPv4Network):
        return None
    number = int(domain.block.network_address)
    homes = _homes(domain, shared, previous.homes if previous is not None else {})
    same = previous is not None and previous.rules is domain.rules and previous.number == number
    encoder = previous.encoder if previous is not None and same else Encoder(domain.rules)
    if not any(home.number for home in homes.values()):
        return Vectors(number, None, {}, {}, domain.rules, encoder)
    sets: dict[Key, Entries]
    if previous is not None and same and previous.shape is not None:
        sets = {key: dict(entries) for key, entries in previous.sets.items()}
        gone = [home for name, home in previous.homes.items() if homes.get(name) != home]
        come = [home for name, home in homes.items() if previous.homes.get(name) != home]
    else:
        sets = {key: {} for key in encoder.set_keys()}
        gone, come = [], list(homes.values())
    for home in gone:
        for key, element, _ in encoder.entries(home):
            sets[key].pop(element, None)
    for home in come:
        for key, element, value in encoder.entries(home):
            sets[key][element] = value
    return Vectors(number, encoder.shape, homes, sets, domain.rules, encoder)


def _homes(domain: Domain, shared: Iterable[Endpoint], known: Mapping[str, Home]) -> dict[str, Home]:
    """The domain's homes; of those that are as ``known`` the very objects."""
    block = int(domain.block.network_address)
    found: dict[str, Home] = {}
    for name, endpoint in sorted(domain.endpoints.items()):
        network = endpoint.network
        if endpoint.kind is Kind.DEVICE or not isinstance(network, IPv4Network):
            continue
        devices = tuple((one, element(domain.endpoints[one].network)) for one in domain.particular.get(name, ()))
        first = int(network.network_address)
        last = first | ALL >> network.prefixlen
        old = known.get(name)
        # Prefixes do not overlap, so the distance from the block's beginning is the site's alone.
        number = first - block + 1 if endpoint.kind is Kind.SITE else 0
        if old is not None and (old.first, old.last, old.number, old.devices) == (first, last, number, devices):
            found[name] = old
        else:
            found[name] = Home(name, element(network), first, last, number, False, devices)
    for server in sorted(shared, key=lambda one: one.name):
        if isinstance(server.network, IPv4Network) and server.name in domain.rules.named:
            address = int(server.network.network_address)
            found[server.name] = Home(server.name, element(server.network), address, address, 0, True)
    return found


def element(network: object) -> str:
    """A network as ipset writes it: a host without its prefix length."""
    return str(network).removesuffix("/32")


class Encoder:
    """A tenant's rules -> the vectors of any name. What depends on rules alone is worked out once."""

    def __init__(self, rules: TenantRules) -> None:
        self._nested = [group for group in rules.nested if group.members]
        self.denials = _Side("d", rules, [block.denials for block in rules.blocks])
        self.grants = _Side("g", rules, [block.grants for block in rules.blocks])
        self.nested_words = -(-len(self._nested) // WORD_BITS)
        self.shape = Shape(self.nested_words, self.denials.columns, self.grants.columns)

    def set_keys(self) -> list[Key]:
        nested = [f"n{word}{side}" for word in range(self.nested_words) for side in "ds"]
        return ["h", *nested, *self.denials.set_keys(), *self.grants.set_keys()]

    def entries(self, home: Home) -> Iterable[tuple[Key, str, tuple[int, int]]]:
        """Each entry of a home: set, element, (mark, mask). A device has those in which it differs from its site."""
        if home.number:
            # XOR of two of them clears the highest bit exactly if both are known, and is zero for a home and itself.
            yield "h", home.network, (PENDING | home.number, 0)
        own = self._of((home.name,), shared=home.shared)
        for (key, suffix), value in own.items():
            yield key, home.network + suffix, value
        for name, network in home.devices:
            for (key, suffix), value in self._of((name, home.name), shared=False).items():
                if own.get((key, suffix)) != value:
                    yield key, network + suffix, value

    def _of(self, names: tuple[str, ...], *, shared: bool) -> Mapping[tuple[Key, str], tuple[int, int]]:
        found: dict[tuple[Key, str], tuple[int, int]] = {}
        inside = sum(1 << bit for bit, group in enumerate(self._nested) if not group.members.isdisjoint(names))
        for word in range(self.nested_words if inside else 0):
            if bits := inside >> (word * WORD_BITS) & _WORD:
                found[f"n{word}s", ""] = (0, bits)
                if not shared:  # a shared server reaches what it is a member of, and stays open to all itself
                    found[f"n{word}d", ""] = (bits, bits)
        for side in (self.denials, self.grants):
            side.add(names, found)
        return found


class _Side:
    """Denials or grants: which blocks' clauses of this kind there are, and what they open."""

    def __init__(self, letter: str, rules: TenantRules, clauses: list[tuple[Clause, ...]]) -> None:
        self._letter = letter
        bit_of = {number: bit for bit, number in enumerate(number for number, own in enumerate(clauses) if own)}
        self.words = -(-len(bit_of) // WORD_BITS)
        self._bits = {
            name: bits
            for name, numbers in rules.sources.items()
            if (bits := sum(1 << bit_of[number] for number in numbers if number in bit_of))
        }
        forms = {services: form(services) for services in {one.services for own in clauses for one in own}}
        written = list(forms.values())
        self.columns = Columns(
            self.words,
            any(one.whole for one in written),
            tuple(sorted({entry for one in written for entry in one.entries})),
            tuple(sorted({part for one in written for part in one.wide})),
        )
        # A destination's vector has a field of one bit a block for each column: whole, then ports, then wide ranges.
        self._span = max(1, len(bit_of))
        place: dict[object, int] = {"": 0}
        for column in (*self.columns.ports, *self.columns.wide):
            place[column] = len(place)
        self._fields = [*self._suffixes()]
        spread = {
            services: sum(1 << place[column] * self._span for column in (*[""] * one.whole, *one.entries, *one.wide))
            for services, one in forms.items()
        }
        by_names: dict[frozenset[str], int] = {}
        for number, bit in bit_of.items():
            for clause in clauses[number]:
                names = clause.destinations
                by_names[names] = by_names.get(names, 0) | spread[clause.services] << bit
        self._open: dict[str, int] = {}
        for names, vector in by_names.items():
            for name in names:
                self._open[name] = self._open.get(name, 0) | vector
        self._decoded: dict[int, list[tuple[tuple[Key, str], tuple[int, int]]]] = {}

    def set_keys(self) -> list[Key]:
        found = []
        for word in range(self.words):
            found += [f"{self._letter}{word}{column}" for column in self._sets()]
            found.append(f"{self._letter}{word}s")
        return found

    def _sets(self) -> list[str]:
        wide = [f"w{number}" for number in range(len(self.columns.wide))]
        return [*(["a"] if self.columns.whole else []), *(["p"] if self.columns.ports else []), *wide]

    def _suffixes(self) -> Iterable[tuple[str, str]]:
        """For each column the letter of its set and what follows the network in an element."""
        yield "a", ""
        for entry in self.columns.ports:
            yield "p", f",{entry}"
        for number in range(len(self.columns.wide)):
            yield f"w{number}", ""

    def add(self, names: tuple[str, ...], found: dict[tuple[Key, str], tuple[int, int]]) -> None:
        """Add what the names are a source of, and what they are open to."""
        source = opened = 0
        for name in names:
            source |= self._bits.get(name, 0)
            opened |= self._open.get(name, 0)
        for word in range(self.words if source else 0):
            if bits := source >> (word * WORD_BITS) & _WORD:
                # The AND: all bits that the source has not are cleared, the pending one too.
                found[f"{self._letter}{word}s", ""] = (0, ALL ^ bits)
        if opened:
            if (entries := self._decoded.get(opened)) is None:
                entries = self._decoded[opened] = list(self._decode(opened))
            found.update(entries)

    def _decode(self, vector: int) -> Iterable[tuple[tuple[Key, str], tuple[int, int]]]:
        mask = (1 << self._span) - 1
        whole = vector & mask  # what is open to any service needs no ports besides
        for letter, suffix in self._fields:
            blocks = vector & mask
            vector >>= self._span
            if letter != "a":
                blocks &= ~whole
            word = 0
            while blocks:
                if bits := blocks & _WORD:
                    yield (f"{self._letter}{word}{letter}", suffix), (bits, bits)
                blocks >>= WORD_BITS
                word += 1
            if not vector:
                return
