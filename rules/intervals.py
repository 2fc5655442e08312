"""A domain as maps over intervals: where a packet goes and what it is -> the blocks that are open to it there.

The same idea as rules.vectors (each block one bit, a destination's word AND a source's word), in the form that nftables
takes: a look-up gives one word, not one word for each column, so whatever covers the same address and port is put
together here, in ranges that do not overlap. Nothing is expanded: a range of ports or of addresses is one entry.

A site is cut at those of its devices that the rules name, because concatenated sets know no "most particular" entry.
Sources that may do the same share one *profile*. IPv4 only: endpoints with IPv6 addresses are left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from itertools import pairwise
from typing import Literal

from rules.blocks import TenantRules
from rules.compile import Domain
from rules.model import Endpoint, Kind, Protocol, Service

#: Bits of one word: a packet's mark is the register.
WORD_BITS = 32
_WORD = (1 << WORD_BITS) - 1

#: A closed range of numbers (addresses, protocols, ports, ICMP types, ICMP codes).
Range = tuple[int, int]
#: One range for each field of a key.
Key = tuple[Range, ...]
#: What a destination is asked by: any service by address alone, TCP and UDP by port, ICMP by type and code.
Column = Literal["any", "port", "icmp"]


@dataclass(frozen=True, slots=True)
class Part:
    """Addresses that no rule tells apart, and the names they go by: (device, site), (site,) or (server,)."""

    addresses: Range
    names: tuple[str, ...]
    kind: Kind
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """What a source is asked, as bits: nested groups that it is not in, blocks that deny it, blocks that grant it."""

    outside: int
    denied: int
    granted: int


@dataclass(frozen=True, slots=True)
class Intervals:
    """One tenant's part. ``opened``: (kind of clause, word, column) -> key -> bits; ``enclosed``: word -> key -> bits.

    ``sources`` has the parts that anything is granted to, with the number of their profile. ``same_site``: pairs of a
    site with itself.
    """

    block: IPv4Network
    profiles: tuple[Profile, ...]
    sources: tuple[tuple[Part, int], ...]
    opened: Mapping[tuple[str, int, Column], Mapping[Key, int]]
    enclosed: Mapping[int, Mapping[Key, int]]
    same_site: tuple[Key, ...] = field(repr=False)


def intervals(domain: Domain, shared: Iterable[Endpoint]) -> Intervals | None:
    """The domain's maps; None if its block is not IPv4 or nobody in it is granted anything."""
    if not isinstance(domain.block, IPv4Network):
        return None
    rules = domain.rules
    parts = sorted(_parts(domain, shared), key=lambda part: part.addresses)
    nested = [group for group in rules.nested if group.members]
    denials, grants = _Side(rules, "denials"), _Side(rules, "grants")
    everyone = (1 << len(nested)) - 1
    profiles: dict[Profile, int] = {}
    sources: list[tuple[Part, int]] = []
    opened: dict[tuple[str, int, Column], dict[Key, int]] = {}
    enclosed: dict[int, dict[Key, int]] = {}
    for part in parts:
        inside = sum(1 << bit for bit, group in enumerate(nested) if not group.members.isdisjoint(part.names))
        if granted := grants.of(part.names):
            profile = Profile(everyone & ~inside, denials.of(part.names), granted)
            sources.append((part, profiles.setdefault(profile, len(profiles))))
        if not part.shared:  # a shared server stays open, whatever group it is a member of
            for word, bits in _words(inside):
                enclosed.setdefault(word, {})[(part.addresses,)] = bits
        for letter, side in (("d", denials), ("g", grants)):
            for column, key, vector in side.open_at(part.names):
                for word, bits in _words(vector):
                    opened.setdefault((letter, word, column), {})[part.addresses, *key] = bits
    if not sources:
        return None
    sites = [_range(one.network) for one in domain.endpoints.values() if _is_site(one)]
    return Intervals(
        domain.block,
        tuple(profiles),
        tuple(sources),
        opened,
        enclosed,
        tuple((site, site) for site in sorted(sites)),
    )


def _words(vector: int) -> Iterator[tuple[int, int]]:
    """The words of a vector in which any bit is set."""
    word = 0
    while vector:
        if bits := vector & _WORD:
            yield word, bits
        vector >>= WORD_BITS
        word += 1


def word_of(vector: int, word: int) -> int:
    """One word of a vector."""
    return vector >> (word * WORD_BITS) & _WORD


def _range(network: object) -> Range:
    if not isinstance(network, IPv4Network):
        raise ValueError(f"{network} is not an IPv4 network")
    return int(network.network_address), int(network.broadcast_address)


def _is_site(endpoint: Endpoint) -> bool:
    return endpoint.kind is Kind.SITE and isinstance(endpoint.network, IPv4Network)


def _parts(domain: Domain, shared: Iterable[Endpoint]) -> Iterator[Part]:
    for name, endpoint in domain.endpoints.items():
        if not isinstance(endpoint.network, IPv4Network) or endpoint.kind is Kind.DEVICE:
            continue
        begin, end = _range(endpoint.network)
        if endpoint.kind is Kind.SERVER:
            yield Part((begin, end), (name,), Kind.SERVER)
            continue
        devices = ((*_range(domain.endpoints[one].network), one) for one in domain.particular.get(name, ()))
        for address, _, device in sorted(devices):
            if begin < address:
                yield Part((begin, address - 1), (name,), Kind.SITE)
            yield Part((address, address), (device, name), Kind.DEVICE)
            begin = address + 1
        if begin <= end:
            yield Part((begin, end), (name,), Kind.SITE)
    for server in shared:
        if isinstance(server.network, IPv4Network) and server.name in domain.rules.named:
            yield Part(_range(server.network), (server.name,), Kind.SERVER, shared=True)


class _Side:
    """Denials or grants: which blocks have clauses of this kind, whom they are about, and what they open."""

    def __init__(self, rules: TenantRules, kind: Literal["denials", "grants"]) -> None:
        clauses = [block.denials if kind == "denials" else block.grants for block in rules.blocks]
        bit_of = {number: bit for bit, number in enumerate(number for number, own in enumerate(clauses) if own)}
        self._sources = {
            name: sum(1 << bit_of[number] for number in numbers if number in bit_of)
            for name, numbers in rules.sources.items()
        }
        # Groups are few and large: what is said about one is put together before it is said of each member.
        by_names: dict[frozenset[str], dict[Service, int]] = {}
        for number, bit in bit_of.items():
            for clause in clauses[number]:
                _add(by_names.setdefault(clause.destinations, {}), dict.fromkeys(clause.services, 1 << bit))
        self._open: dict[str, dict[Service, int]] = {}
        for names, services in by_names.items():
            for name in names:
                _add(self._open.setdefault(name, {}), services)

    def of(self, names: Iterable[str]) -> int:
        """The blocks that a source of these names is in."""
        found = 0
        for name in names:
            found |= self._sources.get(name, 0)
        return found

    def open_at(self, names: Iterable[str]) -> Iterator[tuple[Column, Key, int]]:
        """What a destination of these names is open to; keys of one column do not overlap."""
        services: dict[Service, int] = {}
        for name in names:
            _add(services, self._open.get(name, {}))
        whole = services.get(Service(Protocol.ANY), 0)
        if whole:
            yield "any", (), whole
        for protocol in (Protocol.TCP, Protocol.UDP):
            for low, high, bits in _apart(services, protocol, whole):
                yield "port", ((protocol, protocol), (low, high)), bits
        for low, high, bits in _apart(services, Protocol.ICMP, whole):
            for key in rectangles(low, high):
                yield "icmp", key, bits


def _add(table: dict[Service, int], more: Mapping[Service, int]) -> None:
    for service, bits in more.items():
        table[service] = table.get(service, 0) | bits


def _apart(services: Mapping[Service, int], protocol: Protocol, without: int) -> Iterator[tuple[int, int, int]]:
    """One protocol's selectors in ranges that do not overlap: (low, high, bits of all services that cover it)."""
    own = [(one.low, one.high, bits & ~without) for one, bits in services.items() if one.protocol is protocol]
    edges = sorted({low for low, _, _ in own} | {high + 1 for _, high, _ in own})
    last: tuple[int, int, int] | None = None
    for low, after in pairwise(edges):
        bits = 0
        for first, final, some in own:
            if first <= low <= final:
                bits |= some
        if last is not None and last[2] == bits and last[1] + 1 == low:
            last = (last[0], after - 1, bits)
            continue
        if last is not None and last[2]:
            yield last
        last = (low, after - 1, bits)
    if last is not None and last[2]:
        yield last


def rectangles(low: int, high: int) -> Iterator[tuple[Range, Range]]:
    """ICMP selectors ``type * 256 + code`` as (types, codes): at most a head, a body of whole types and a tail."""
    first, first_code = divmod(low, 256)
    last, last_code = divmod(high, 256)
    if first == last:
        yield (first, first), (first_code, last_code)
        return
    if first_code:
        yield (first, first), (first_code, 255)
        first += 1
    if last_code != 255:
        yield (last, last), (0, last_code)
        last -= 1
    if first <= last:
        yield (first, last), (0, 255)
