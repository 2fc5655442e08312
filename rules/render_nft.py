"""RuleSet -> nft scripts: the second renderer, for gateways whose firewall is nftables. IPv4; IPv6 reaches nothing.
Timed grants are not rendered: who has nothing but a grant reaches nothing.

Each version is a table of its own. ``build`` makes it, with everything but the three rules that ask it; ``flip`` gives
it those and takes them from the version before, in one small transaction; `removal` takes old tables away. What fails
or is killed in between leaves the old version or the new one. The *guard* is another table, which stands always and
drops what is neither established nor granted.

One transaction for all would not do, though nft offers it (docs/adr/0009): the kernel begins the new generation of
rules before the contents of its concatenated sets are there, and empties an old hook before it takes it away.

    forward          the hook: the first packet of each flow to `decide`, then the end
    decide           the platform's forbidden services, the side a packet comes from and goes to (anti-spoof)
    senders          tenant block -> t0a0b0000, for packets of sites; `receivers` likewise -> t0a0b0000_c, for servers'
    t0a0b0000        the tenant: nothing within one site; source -> profile
    t0a0b0000_p3     a profile: nested groups, denials, grants, each a look-up of the destination and an AND

A destination's word comes out of a map into the packet's mark, and the profile ANDs it with its own (rules.intervals).
A look-up that finds nothing ends its rule. What comes to the end of a chain comes back to the hook and is dropped.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from rules.compile import RuleSet
from rules.intervals import Intervals, Key, Profile, Range, intervals, rectangles, word_of
from rules.model import ICMP_STARTING, Kind, Protocol
from rules.problems import Problem
from rules.render import GRANTED, Sides, left_out
from rules.services import merged

#: Family and name of the table that stands. ``inet``: its drop holds for IPv6 too.
GUARD = "inet kyoten-guard"
#: What the guard lets pass: answers, errors about flows, and what the rules granted.
GUARD_RULES = ("ct state established,related accept", f"ct state new meta mark {GRANTED:#x} accept")
#: What a version in force is asked; without these it is as if it were not there.
ASKING_RULES = ("ct state != new accept", "jump decide", "drop")
#: The guard's hook comes after the rules'. Of two versions' the older comes first, so a packet that meets a flip
#: midway is decided by the new one, whatever the old one said.
_GUARD_HOOK = "type filter hook forward priority filter; policy drop;"
_RULES_HOOK = "type filter hook forward priority filter - 10; policy accept;"
_VERSION = re.compile(r"^table inet kyoten-([0-9]+)$", re.MULTILINE)
_ADDRESS = ("ipv4_addr",)
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "any": _ADDRESS,
    "port": ("ipv4_addr", "inet_proto", "inet_service"),
    "icmp": ("ipv4_addr", "icmp_type", "icmp_code"),
}
#: What a map is asked with. Ports exist where the protocol is TCP or UDP: connection tracking has dropped shorter ones.
_ASKED = {
    "any": "ip daddr",
    "port": "ip daddr . meta l4proto . th dport",
    "icmp": "ip daddr . icmp type . icmp code",
}
_STARTING = ", ".join(str(kind) for kind in sorted(ICMP_STARTING))


@dataclass(frozen=True, slots=True)
class NftSet:
    """A named set, or a map if ``value`` says of what: ``mark`` (int) or ``verdict`` (text). All have intervals."""

    fields: tuple[str, ...]
    elements: Mapping[Key, int | str | None]
    value: str | None = None


@dataclass(frozen=True, slots=True)
class NftTable:
    """The whole rule set as data: what the kernel gives back is compared with this."""

    sets: Mapping[str, NftSet]
    chains: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class RenderedNft:
    """A version, in two scripts for ``nft -f``: first all of ``build``, then ``flip``."""

    build: str
    flip: str
    problems: tuple[Problem, ...] = ()


def render_nft(rule_set: RuleSet, *, version: int, present: Iterable[int] = (), sides: Sides) -> RenderedNft:
    """The rule set as a version that takes over from those ``present``. Equal rule sets give equal text."""
    table = nft_table(rule_set, sides=sides)
    return RenderedNft(build(table, version), flip(version, present), table.problems)


def nft_table(rule_set: RuleSet, *, sides: Sides) -> NftTable:
    """The rule set as sets, maps and chains."""
    sets: dict[str, NftSet] = {}
    chains: dict[str, tuple[str, ...]] = {}
    senders: dict[Key, int | str | None] = {}
    receivers: dict[Key, int | str | None] = {}
    for _, domain in sorted(rule_set.domains.items()):
        if (own := intervals(domain, rule_set.shared.values())) is None:
            continue
        name = f"t{int(own.block.network_address):08x}"
        block: Key = ((int(own.block.network_address), int(own.block.broadcast_address)),)
        senders[block], receivers[block] = f"goto {name}", f"goto {name}_c"
        _tenant(own, name, sets, chains)
    for kind, plural in ((Kind.SITE, "sites"), (Kind.SERVER, "servers")):
        networks = (one.network for one in rule_set.endpoints.values() if one.kind is kind)
        ranges = sorted(_range(one) for one in networks if isinstance(one, IPv4Network))
        sets[plural] = NftSet(_ADDRESS, {(one,): None for one in ranges})
    sets["senders"] = NftSet(_ADDRESS, senders, "verdict")
    sets["receivers"] = NftSet(_ADDRESS, receivers, "verdict")
    came = f'iifname "{sides.tunnel}"' + (" meta secpath exists" if sides.ipsec else "")
    chains["decide"] = (
        "meta nfproto != ipv4 drop",
        f"icmp type != {{ {_STARTING} }} drop",
        *_forbidden(rule_set, sets),
        f'{came} oifname "{sides.tunnel}" ip daddr @sites ip saddr vmap @senders',
        f'{came} oifname "{sides.cloud}" ip daddr @servers ip saddr vmap @senders',
        f'iifname "{sides.cloud}" oifname "{sides.tunnel}" ip saddr @servers ip daddr @sites ip daddr vmap @receivers',
    )
    # The mark was a register on the way; it leaves as the guard asks for it, and as the other renderer leaves it.
    return NftTable(sets, {"granted": (f"meta mark set {GRANTED:#x} accept",), **chains}, left_out(rule_set))


def _range(network: IPv4Network) -> Range:
    return int(network.network_address), int(network.broadcast_address)


def _forbidden(rule_set: RuleSet, sets: dict[str, NftSet]) -> Iterator[str]:
    ports: dict[Key, int | str | None] = {}
    messages: dict[Key, int | str | None] = {}
    for service in merged(rule_set.platform.forbidden):
        if service.protocol is Protocol.ANY:
            yield "drop"
        elif service.protocol is Protocol.ICMP:
            messages.update(dict.fromkeys(rectangles(service.low, service.high)))
        elif service.protocol in (Protocol.TCP, Protocol.UDP):
            ports[(service.protocol, service.protocol), (service.low, service.high)] = None
    for name, fields, asked, elements in (
        ("forbidden_port", _FIELDS["port"][1:], "meta l4proto . th dport", ports),
        ("forbidden_icmp", _FIELDS["icmp"][1:], "icmp type . icmp code", messages),
    ):
        if elements:
            sets[name] = NftSet(fields, elements)
            yield f"{asked} @{name} drop"


def _tenant(own: Intervals, name: str, sets: dict[str, NftSet], chains: dict[str, tuple[str, ...]]) -> None:
    sources: dict[str, dict[Key, int | str | None]] = {"sites": {}, "servers": {}}
    for part, number in own.sources:
        side = sources["servers" if part.kind is Kind.SERVER else "sites"]
        side[(part.addresses,)] = f"goto {name}_p{number}"
    for plural, elements in sources.items():
        sets[f"{name}_{plural}"] = NftSet(_ADDRESS, elements, "verdict")
    sets[f"{name}_same"] = NftSet(_ADDRESS * 2, dict.fromkeys(own.same_site))
    for word, enclosed in sorted(own.enclosed.items()):
        sets[f"{name}_n{word}"] = NftSet(_ADDRESS, enclosed, "mark")
    for (letter, word, column), opened in sorted(own.opened.items()):
        sets[f"{name}_{letter}{word}_{column}"] = NftSet(_FIELDS[column], opened, "mark")
    tests = _tests(own, name)
    for number, profile in enumerate(own.profiles):
        chains[f"{name}_p{number}"] = tuple(_profile(tests, profile))
    chains[name] = (f"ip saddr . ip daddr @{name}_same drop", f"ip saddr vmap @{name}_sites")
    chains[f"{name}_c"] = (f"ip saddr vmap @{name}_servers",)


@dataclass(frozen=True, slots=True)
class _Test:
    """One map of a tenant as profiles use it. ``bits``: all that are in any of its elements; asking others is idle."""

    vector: str
    word: int
    bits: int
    rule: str


def _tests(own: Intervals, name: str) -> list[_Test]:
    """What a packet may be asked, in order: what it is not inside of, then denials, then grants."""
    found = [
        _Test("outside", word, _union(enclosed), _rule("ip daddr", f"{name}_n{word}", "drop"))
        for word, enclosed in sorted(own.enclosed.items())
    ]
    for (letter, word, column), opened in sorted(own.opened.items()):
        vector, verdict = ("denied", "drop") if letter == "d" else ("granted", "goto granted")
        rule = _rule(_ASKED[column], f"{name}_{letter}{word}_{column}", verdict)
        found.append(_Test(vector, word, _union(opened), rule))
    return found


def _union(elements: Mapping[Key, int]) -> int:
    bits = 0
    for one in elements.values():
        bits |= one
    return bits


def _rule(asked: str, name: str, verdict: str) -> str:
    return f"meta mark set {asked} map @{name} meta mark & {{bits:#010x}} != 0x00000000 {verdict}"


def _profile(tests: Iterable[_Test], profile: Profile) -> Iterator[str]:
    for test in tests:
        if bits := word_of(getattr(profile, test.vector), test.word) & test.bits:
            yield test.rule.format(bits=bits)


# -- text -------------------------------------------------------------------------------------------------------------


def table_name(version: int) -> str:
    """Family and name of a version's table."""
    return f"inet kyoten-{version}"


def versions(tables: str) -> list[int]:
    """The versions that there are, in force or not, from what ``nft list tables`` says."""
    return sorted(int(number) for number in _VERSION.findall(tables))


def guard_script() -> str:
    """The guard alone: what a gateway has before it has rules. One that stands goes on standing."""
    return "\n".join(
        [
            f"table {GUARD} {{ chain forward {{ {_GUARD_HOOK} }}; }}",
            f"flush chain {GUARD} forward",
            *(f"add rule {GUARD} forward {rule}" for rule in GUARD_RULES),
            "",
        ]
    )


def flip(version: int, present: Iterable[int] = ()) -> str:
    """The script that puts a version in force, and out of force whichever is among those ``present``."""
    others = [table_name(one) for one in present if one != version]
    lines = [f"flush chain {table} forward" for table in (*others, table_name(version))]
    lines += [f"add rule {table_name(version)} forward {rule}" for rule in ASKING_RULES]
    return "\n".join([*lines, ""])


def removal(present: Iterable[int]) -> str:
    """The script that takes versions away that are out of force."""
    return "".join(f"delete table {table_name(one)}\n" for one in present)


def build(table: NftTable, version: int) -> str:
    """The script that makes a version's table (a rest of the same number goes first), and the guard if need be."""
    name = table_name(version)
    lines = [f"table {name}", f"delete table {name}", f"table {name} {{"]
    for name, content in table.sets.items():
        kind = " . ".join(content.fields) + (f" : {content.value}" if content.value is not None else "")
        lines.append(f"\t{'set' if content.value is None else 'map'} {name} {{ type {kind}; flags interval")
        if content.elements:
            lines.append(f"\t\telements = {{ {_elements(content)} }}")
        lines.append("\t}")
    for name, rules in table.chains.items():
        lines += [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
    lines.append(f"\tchain forward {{ {_RULES_HOOK} }}")
    return guard_script() + "\n".join([*lines, "}", ""])


def _elements(content: NftSet) -> str:
    addresses = [field == "ipv4_addr" for field in content.fields]
    found = []
    for key, value in content.elements.items():
        text = " . ".join(
            _addresses(one) if is_address else _numbers(one) for one, is_address in zip(key, addresses, strict=True)
        )
        if value is not None:
            text += f" : {value:#x}" if isinstance(value, int) else f" : {value}"
        found.append(text)
    return ", ".join(found)


@lru_cache(maxsize=65536)
def _addresses(span: Range) -> str:
    low, high = span
    return f"{IPv4Address(low)}" + (f"-{IPv4Address(high)}" if high != low else "")


@lru_cache(maxsize=4096)
def _numbers(span: Range) -> str:
    low, high = span
    return f"{int(low)}" + (f"-{int(high)}" if high != low else "")
