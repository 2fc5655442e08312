"""RuleSet -> what ipset and iptables-restore are to put into the kernel, under versioned names. IPv4 only for now.

The gateway's skeleton comes before: the filter table drops whatever does not carry GRANTED, and the mangle table, where
alone sets may change a packet's mark, jumps here with the first packet of each flow. What is granted goes to
GRANT_CHAIN; everything else ends in DROP here already.

    ky.7            the *top*: the platform's forbidden services, the side a packet comes from and goes to (anti-spoof)
    ky.7s0 ky.7d0   trees by source block and by destination block, to a tenant's gate
    ky0a0b0000      the gate of the tenant whose block begins there: one rule, to the version in force
    ky0a0b0000.7    the tenant's chain: are both ends known and not of one site?
    ky0a0b0000.7w   its vectors: nested groups, denials, grants

A gate is as large as a flip has to be, so tenants change one by one, and any number of them in one transaction.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from rules.compile import RuleSet
from rules.dispatch import Level, tree
from rules.match import form, range_match
from rules.problems import Problem
from rules.vectors import ALL, PENDING, Columns, Entries, Shape, Vectors, element, kind_of, vectors

#: Names stay within the kernel's 28 (chain) and 31 (set) characters up to this version.
VERSION_MAX = 10**9
#: Where granted packets go: the skeleton's.
GRANT_CHAIN = "KY-GRANT"
#: The set of timed grants (source, protocol and port, destination; they end in the kernel), and where theirs go.
TIMED_SET = "kyoten-grants"
TIMED_GRANT_CHAIN = "KY-TIMED-GRANT"
#: Where a tenant's refused packets go: the skeleton's; it leaves a trace of them and drops them.
REFUSED_CHAIN = "KY-REFUSED"
_REFUSE = f"-g {REFUSED_CHAIN}"
#: The mark of a granted packet, "KY" and one.
GRANTED = 0x4B590001
#: All of IPv4, as hash:net can say it: it has no /0.
EVERYWHERE = ("0.0.0.0/1", "128.0.0.0/1")
#: As many words as each packet of a tenant goes through; with more of them it first asks whether the source is in one.
INLINE_WORDS = 3

Chains = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SetContent:
    """A set: its ipset type and its entries, element -> (mark, mask); (0, 0) where ``marked`` is false."""

    kind: str
    entries: Mapping[str, tuple[int, int]]
    marked: bool = True


@dataclass(frozen=True, slots=True)
class Sides:
    """How the kernel tells where packets come from and go to. ``ipsec``: the tunnel interface carries kernel ESP, and
    only what was or will be encrypted counts as the tunnel's (``-m policy``).
    """

    tunnel: str
    cloud: str
    ipsec: bool = False

    @property
    def from_tunnel(self) -> str:
        return f"-i {self.tunnel}" + (" -m policy --dir in --pol ipsec --mode tunnel" if self.ipsec else "")


@dataclass(frozen=True, slots=True)
class Piece:
    """One version of a tenant's part, or of the top: sets and chains that only its own names are in."""

    version: int
    sets: Mapping[str, SetContent]
    chains: Chains


@dataclass(frozen=True, slots=True)
class Rendered:
    """A whole rule set. ``sets`` is for ``ipset restore``, ``chains`` for ``iptables-restore --noflush`` after it."""

    sets: str
    chains: str
    entry_chain: str
    problems: tuple[Problem, ...] = ()


def render(rule_set: RuleSet, *, version: int, sides: Sides) -> Rendered:
    """All of the rule set at one version. Equal rule sets give equal text."""
    found = {
        tenant: one
        for tenant, domain in sorted(rule_set.domains.items())
        if (one := vectors(domain, rule_set.shared.values())) is not None and one.shape is not None
    }
    pieces = [tenant_piece(one, version, sides) for one in found.values()]
    gates = dict(gate(one.number, version) for one in found.values())
    top = top_piece(rule_set, found, version, sides)
    chains: dict[str, tuple[str, ...]] = {**gates}
    for piece in (*pieces, top):
        chains |= piece.chains
    return Rendered(
        "".join(set_text(name, content) for piece in (*pieces, top) for name, content in piece.sets.items()),
        f"*mangle\n{chains_text(chains)}COMMIT\n",
        top_chain(version),
        left_out(rule_set),
    )


def left_out(rule_set: RuleSet) -> tuple[Problem, ...]:
    """A problem for each member that has an IPv6 address: it reaches nothing."""
    names = [name for name, one in rule_set.shared.items() if one.network.version == 6]
    names += [name for domain in rule_set.domains.values() for name in domain.ipv6]
    return tuple(
        Problem("rules.ipv6-not-rendered", {"name": name, "network": str(rule_set.endpoints[name].network)})
        for name in sorted(names)
    )


# -- the top ----------------------------------------------------------------------------------------------------------


def top_chain(version: int) -> str:
    """The chain that the skeleton jumps to. Raises ValueError: the version does not fit a name."""
    if not 0 <= version < VERSION_MAX:
        raise ValueError(f"version {version} does not fit a chain's name")
    return f"ky.{version}"


def top_piece(rule_set: RuleSet, tenants: Mapping[str, Vectors], version: int, sides: Sides) -> Piece:
    """What all tenants share, and the way to the gates of ``tenants``."""
    top = top_chain(version)
    servers = {
        element(one.network): (0, 0)
        for _, one in sorted(rule_set.servers.items())
        if isinstance(one.network, IPv4Network)
    }
    sets = {f"{top}v": SetContent("hash:net", servers, marked=False)}
    chains: dict[str, tuple[str, ...]] = {}
    leaves = [
        (block, f"-g {gate(one.number, 0)[0]}")
        for tenant, one in tenants.items()
        if isinstance(block := rule_set.domains[tenant].block, IPv4Network)
    ]
    for side, match in (("s", "-s"), ("d", "-d")):
        _dispatch(chains, f"{top}{side}", match, tree(leaves))
    into, out = f"-o {sides.tunnel}", f"-o {sides.cloud}"
    chains[top] = (
        *_forbidden(rule_set, top, sets),
        f"{_joined(sides.from_tunnel, into)} -g {top}s0",
        f"{_joined(sides.from_tunnel, out)} -m set --match-set {top}v dst -g {top}s0",
        f"-i {sides.cloud} {into} -m set --match-set {top}v src -g {top}d0",
        "-j DROP",
    )
    return Piece(version, sets, chains)


def _joined(came_in: str, goes_out: str) -> str:
    """Interfaces first, then matches: the order that iptables-save has."""
    interface, _, rest = came_in.partition(" -m ")
    return f"{interface} {goes_out}" + (f" -m {rest}" if rest else "")


def _forbidden(rule_set: RuleSet, top: str, sets: dict[str, SetContent]) -> Iterator[str]:
    written = form(rule_set.platform.forbidden)
    halves = dict.fromkeys(EVERYWHERE, (0, 0))
    if written.whole:
        yield _REFUSE
    if written.entries:
        entries = {f"{half},{entry}": (0, 0) for half in EVERYWHERE for entry in written.entries}
        sets[f"{top}fp"] = SetContent("hash:net,port", entries, marked=False)
        yield f"-m set --match-set {top}fp dst,dst {_REFUSE}"
    if written.wide:
        sets[f"{top}fa"] = SetContent("hash:net", halves, marked=False)
    for service in written.wide:
        yield f"{range_match(service)} -m set --match-set {top}fa dst {_REFUSE}"


def _dispatch(chains: dict[str, tuple[str, ...]], prefix: str, match: str, level: Level[str]) -> str:
    """Chains that find the block among the level's cases; the first is ``prefix`` and 0."""
    number = sum(name.startswith(prefix) for name in chains)
    name = f"{prefix}{number}"
    chains[name] = ()
    rules = [
        f"{match} {network} " + (f"-g {_dispatch(chains, prefix, match, to)}" if isinstance(to, Level) else to)
        for network, to in level.cases
    ]
    chains[name] = (*rules, "-j DROP")
    return name


# -- a tenant ---------------------------------------------------------------------------------------------------------


def tenant_name(number: int) -> str:
    """What the names of a tenant's chains and sets begin with, and its gate's."""
    return f"ky{number:08x}"


def gate(number: int, version: int) -> tuple[str, tuple[str, ...]]:
    """The tenant's gate and its only rule."""
    name = tenant_name(number)
    return name, (f"-g {name}.{version}",)


def tenant_piece(one: Vectors, version: int, sides: Sides) -> Piece:
    """A tenant's sets and chains. Raises ValueError: it has no sites, so it has none."""
    if one.shape is None:
        raise ValueError("a tenant without sites has no chains")
    prefix = f"{tenant_name(one.number)}.{version}"
    sets = {f"{prefix}{key}": SetContent(kind_of(key), entries) for key, entries in one.sets.items()}
    return Piece(version, sets, tenant_chains(one.shape, prefix, sides))


def tenant_chains(shape: Shape, prefix: str, sides: Sides) -> Chains:
    """The chains of a tenant of this shape. Rules are in the form that iptables-save gives back."""
    chains: dict[str, tuple[str, ...]] = {
        prefix: (
            f"-i {sides.cloud} -m set ! --match-set {prefix}h dst {_REFUSE}",
            f"-i {sides.cloud} -g {prefix}w",
            "-j MARK --set-xmark 0x0/0xffffffff",
            f"-j SET --map-set {prefix}h src --map-mark",
            f"-m mark ! --mark {PENDING:#x}/{PENDING:#x} {_REFUSE}",
            f"-o {sides.cloud} -g {prefix}w",
            f"-j SET --map-set {prefix}h dst --map-mark",
            f"-m mark --mark {PENDING:#x}/{PENDING:#x} {_REFUSE}",
            f"-m mark --mark 0x0 {_REFUSE}",
            f"-g {prefix}w",
        ),
        f"{prefix}w": (),
    }
    words: list[str] = []
    for word in range(shape.nested_words):
        words += [
            "-j MARK --set-xmark 0x0/0xffffffff",
            f"-j SET --map-set {prefix}n{word}d dst --map-mark",
            f"-j SET --map-set {prefix}n{word}s src --map-mark",
            f"-m mark ! --mark 0x0 {_REFUSE}",
        ]
    for letter, columns, target in (("d", shape.denials, _REFUSE), ("g", shape.grants, f"-g {GRANT_CHAIN}")):
        for word in range(columns.words):
            rules = _word(f"{prefix}{letter}{word}", columns, target)
            if columns.words <= INLINE_WORDS:
                words += rules
            else:
                chains[f"{prefix}{letter}{word}"] = tuple(rules)
                words.append(f"-m set --match-set {prefix}{letter}{word}s src -j {prefix}{letter}{word}")
    timed = f"-m set --match-set {TIMED_SET} src,dst,dst -g {TIMED_GRANT_CHAIN}"
    chains[f"{prefix}w"] = (*words, timed, _REFUSE)
    return chains


def _word(name: str, columns: Columns, target: str) -> list[str]:
    """Up to WORD_BITS blocks: OR together what the destination is open to, AND what the source may, then decide."""
    rules = [f"-j MARK --set-xmark {PENDING:#x}/{ALL:#x}"]
    if columns.whole:
        rules.append(f"-j SET --map-set {name}a dst --map-mark")
    if columns.ports:
        rules.append(f"-j SET --map-set {name}p dst,dst --map-mark")
    for number, service in enumerate(columns.wide):
        rules.append(f"{range_match(service)} -j SET --map-set {name}w{number} dst --map-mark")
    rules.append(f"-j SET --map-set {name}s src --map-mark")
    rules.append(f"-m mark ! --mark 0x0 -m mark --mark 0x0/{PENDING:#x} {target}")
    return rules


# -- text -------------------------------------------------------------------------------------------------------------


def set_text(name: str, content: SetContent) -> str:
    """ipset-restore text that makes the set."""
    size = max(64, 1 << (len(content.entries) // 2).bit_length())
    # Twice the room: what changes in place comes before what goes.
    limit = max(64, 2 * len(content.entries))
    extension = " skbinfo" if content.marked else ""
    lines = [f"create {name} {content.kind} family inet hashsize {size} maxelem {limit}{extension}\n"]
    lines += additions(name, content.entries, marked=content.marked)
    return "".join(lines)


def additions(name: str, entries: Mapping[str, tuple[int, int]] | Entries, *, marked: bool = True) -> Iterator[str]:
    """A line of ipset-restore text for each entry."""
    if not marked:
        return (f"add {name} {one}\n" for one in entries)
    return (f"add {name} {one} skbmark {mark:#x}/{mask:#x}\n" for one, (mark, mask) in entries.items())


def chains_text(chains: Chains) -> str:
    """iptables-restore text that makes the chains, or gives those that are there new rules."""
    heads = [f":{name} - [0:0]\n" for name in chains]
    return "".join([*heads, *(f"-A {name} {rule}\n" for name, rules in chains.items() for rule in rules)])


def names_of(pieces: Iterable[Piece]) -> frozenset[str]:
    """The sets of the pieces."""
    return frozenset(name for piece in pieces for name in piece.sets)
