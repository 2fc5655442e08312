"""Mutants of rendered rules and sets: each is the proof world's text with one thing wrong. Deterministic.

A mutant that decides no packet otherwise than the original is *equivalent*: some second guard makes what was taken away
redundant. EQUIVALENT names them with the guard; that none of them differs is found out by walking through both, with
every class of addresses that either of them tells apart.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_network
from itertools import pairwise, product

from cloudside.datapath.skeleton import marking_rules
from cloudside.datapath.snapshot import parse_chains, parse_sets
from rules.compile import RuleSet
from rules.render import GRANT_CHAIN, REFUSED_CHAIN, SetContent, chains_text, render, set_text
from rules.vectors import ALL, PENDING
from tests.lab.rules_wires import SIDES
from tests.property.rules_interpreter import Kernel

VERSION = 2
TOP = f"ky.{VERSION}"
ACME, BIRCH, CEDAR, ZETA, DELTA = (f"ky{0x0A000000 + (block << 16):08x}" for block in (10, 20, 30, 40, 41))

Chains = Mapping[str, tuple[str, ...]]
Sets = Mapping[str, SetContent]


@dataclass(frozen=True)
class Text:
    """Rules and sets of one version as data."""

    sets: Sets
    chains: Chains

    def set_lines(self) -> str:
        return "".join(set_text(name, content) for name, content in self.sets.items())

    def chain_lines(self) -> str:
        return f"*mangle\n{chains_text(self.chains)}COMMIT\n"

    def kernel(self) -> Kernel:
        """The same, ready for walking."""
        return Kernel.read(self.set_lines(), self.chain_lines())


@dataclass(frozen=True)
class Mutant:
    """``where`` is the chain or the set that is wrong."""

    name: str
    where: str
    text: Text


def original(rule_set: RuleSet) -> Text:
    """What is rendered."""
    rendered = render(rule_set, version=VERSION, sides=SIDES)
    return Text(parse_sets(rendered.sets), parse_chains(rendered.chains).rules)


def mutants(text: Text) -> list[Mutant]:
    """All of them, each once; the name says what is wrong."""
    dropped = [one for one in _rule_mutants(text) if ": without " in one.name]
    reworded = [one for one in _rule_mutants(text) if ": without " not in one.name]
    known: dict[str, Mutant] = {}
    for one in (*dropped, *reworded[::2], *[*_set_mutants(text)][::3]):
        if one.text != text:
            known.setdefault(one.name, one)
    return list(known.values())


# -- rules ------------------------------------------------------------------------------------------------------------


def _rules(text: Text, chain: str, rules: tuple[str, ...], what: str) -> Mutant:
    return Mutant(f"{chain}: {what}", chain, replace(text, chains={**text.chains, chain: rules}))


def _rule_mutants(text: Text) -> Iterator[Mutant]:
    acme, birch, cedar, delta = (f"{tenant}.{VERSION}" for tenant in (ACME, BIRCH, CEDAR, DELTA))
    for chain in (TOP, f"{TOP}s0", f"{TOP}d0", ACME, acme, f"{acme}w", f"{cedar}g3"):
        rules = text.chains[chain]
        for place, rule in enumerate(rules):
            yield _rules(text, chain, rules[:place] + rules[place + 1 :], f"without {place} {rule}")
    for chain, place in (*_last_words(text, f"{birch}w", 6), *_last_words(text, f"{delta}w", 8)):
        rules = text.chains[chain]
        yield _rules(text, chain, rules[:place] + rules[place + 1 :], f"without {place} {rules[place]}")
    for chain in (TOP, acme, f"{acme}w", f"{cedar}g2", f"{cedar}w"):
        rules = text.chains[chain]
        for place, rule in enumerate(rules):
            for what, other in _reworded(rule):
                changed = (*rules[:place], other, *rules[place + 1 :])
                yield _rules(text, chain, changed, f"{what} in {place} {rule}")
    yield from _swapped(text, f"{acme}w")
    yield from _swapped(text, f"{cedar}g1")
    yield from _misled(text)
    grant = marking_rules()[GRANT_CHAIN]
    flipped = (grant[0].replace("0x4b590001", "0x4b590003"), grant[1])
    yield _rules(text, GRANT_CHAIN, flipped, "another mark")
    yield _rules(text, GRANT_CHAIN, grant[1:], "no mark")


def _last_words(text: Text, chain: str, count: int) -> list[tuple[str, int]]:
    """The last so many rules before the one about timed grants."""
    end = len(text.chains[chain]) - 2
    return [(chain, place) for place in range(end - count, end)]


_INTERFACE = {"ipsec0": "lan0", "lan0": "ipsec0"}
_END = {"src": "dst", "dst": "src"}


def _reworded(rule: str) -> Iterator[tuple[str, str]]:
    """The rule with one word wrong."""
    if (found := re.search(r"-([io]) (\S+)", rule)) is not None:
        yield "wrong interface", rule.replace(found[0], f"-{found[1]} {_INTERFACE[found[2]]}", 1)
    if (found := re.search(r"(--match-set|--map-set) (ky\S+) (src|dst)(?= |$)", rule)) is not None:
        yield "src and dst exchanged", rule.replace(found[0], f"{found[1]} {found[2]} {_END[found[3]]}")
    if rule.endswith(f"-g {GRANT_CHAIN}"):
        yield "drop for grant", rule.replace(f"-g {GRANT_CHAIN}", "-j DROP")
    elif rule.endswith(f" -g {REFUSED_CHAIN}"):
        yield "grant for drop", rule.replace(f"-g {REFUSED_CHAIN}", f"-g {GRANT_CHAIN}")
    if " ! --" in f" {rule}":
        yield "not negated", rule.replace("! --", "--", 1)
    elif (found := re.search(r"--(mark|match-set) ", rule)) is not None and "--map" not in rule:
        yield "negated", rule.replace(found[0], f"! {found[0]}", 1)
    if f"{PENDING:#x}" in rule:
        yield "a bit of the mark", rule.replace(f"{PENDING:#x}", f"{PENDING >> 1:#x}")
    if f"--set-xmark {PENDING:#x}" in rule:
        yield "never pending", rule.replace(f"--set-xmark {PENDING:#x}", "--set-xmark 0x0")
    if (found := re.search(r"--dport (\d+):(\d+)", rule)) is not None:
        low, high = int(found[1]), int(found[2])
        for ports in ((low - 1, high), (low + 1, high), (low, high - 1), (low, high + 1)):
            yield f"ports {ports[0]}:{ports[1]}", rule.replace(found[0], f"--dport {ports[0]}:{ports[1]}")
    if "--icmp-type 8" in rule:
        yield "type 13", rule.replace("--icmp-type 8", "--icmp-type 13")


def _swapped(text: Text, chain: str) -> Iterator[Mutant]:
    """Neighbours whose order matters."""
    rules = text.chains[chain]
    for place, (one, other) in enumerate(pairwise(rules)):
        kinds = {("MARK" in one, "SET" in one), ("MARK" in other, "SET" in other)}
        both_destination = (
            "SET" in one and "SET" in other and one.endswith("src --map-mark") == other.endswith("src --map-mark")
        )
        if len(kinds) == 1 and (both_destination or "SET" not in one):
            continue  # an OR of two, or two verdicts: either order is the same
        changed = (*rules[:place], other, one, *rules[place + 2 :])
        yield _rules(text, chain, changed, f"{place} {one} after {other}")
    granting = [place for place, rule in enumerate(rules) if "g0" in rule.split("--map-set ")[-1].split(" ")[0][-4:]]
    denying = [place for place, rule in enumerate(rules) if ".2d0" in rule]
    if granting and denying:
        d0, g0, end = denying[0] - 1, granting[0] - 1, granting[-1] + 2
        changed = (*rules[:d0], *rules[g0:end], *rules[d0:g0], *rules[end:])
        yield _rules(text, chain, changed, "grants before denials")


def _misled(text: Text) -> Iterator[Mutant]:
    """Wrong ways through the trees and gates."""
    for chain in (f"{TOP}s0", f"{TOP}d0"):
        rules = text.chains[chain]
        narrow = tuple(rule.replace("10.10.0.0/16", "10.10.0.0/21") for rule in rules)
        wide = tuple(rule.replace("10.10.0.0/16", "10.10.0.0/15") for rule in rules)
        other = tuple(rule.replace(ACME, ZETA) for rule in rules)
        yield _rules(text, chain, narrow, "a block too narrow")
        yield _rules(text, chain, wide, "a block too wide")
        yield _rules(text, chain, other, "another tenant's gate")
    yield _rules(text, ACME, (f"-g {ZETA}.{VERSION}",), "another tenant's chain")
    yield _rules(text, f"{ACME}.{VERSION}", (f"-g {GRANT_CHAIN}",), "grants everything")
    yield _rules(text, f"{ACME}.{VERSION}", (f"-g {ACME}.{VERSION}w",), "asks nobody who he is")


# -- sets -------------------------------------------------------------------------------------------------------------

Entry = tuple[str, tuple[int, int]]
Change = Callable[[Entry], Entry | None]


def _set_mutants(text: Text) -> Iterator[Mutant]:
    chance = random.Random(4)
    suffixes = {ACME: r"h|n0[ds]|[dg]0.*", BIRCH: r"[dg]1.*", CEDAR: r"h|g3.*|g1s", DELTA: r"n1[ds]"}
    patterns = [re.compile(rf"{tenant}\.{VERSION}({rest})") for tenant, rest in suffixes.items()]
    wanted = [name for pattern in patterns for name in text.sets if pattern.fullmatch(name)]
    wanted += [name for name in text.sets if name.startswith(TOP)]
    for name in wanted:
        entries = sorted(text.sets[name].entries.items())
        for what, change in _CHANGES.items():
            suited = [one for one in entries if (other := change(one)) not in (one, None) and other[0] != ""]
            suited += [one for one in entries if what == "without"]
            if not suited:
                continue
            entry = chance.choice(suited)
            left = {key: value for key, value in entries if key != entry[0]}
            if what != "without" and (made := change(entry)) is not None:
                left[made[0]] = made[1]
            words = f"{entry[0]} {entry[1][0]:#x}/{entry[1][1]:#x}"
            content = replace(text.sets[name], entries=left)
            yield Mutant(f"{name}: {what} {words}", name, replace(text, sets={**text.sets, name: content}))


def _prefix(entry: Entry, longer: int) -> Entry | None:
    network, comma, port = entry[0].partition(",")
    found = ip_network(network)
    length = found.prefixlen + longer
    if not 8 <= length <= 32 or (longer > 0 and found.prefixlen >= 30):
        return None
    other = ip_network((int(found.network_address) >> (32 - length) << (32 - length), length))
    return str(other).removesuffix("/32") + comma + port, entry[1]


def _port(entry: Entry) -> Entry | None:
    network, _, port = entry[0].partition(",")
    protocol, _, number = port.partition(":")
    return (f"{network},{protocol}:{int(number) + 1}", entry[1]) if number.isdigit() else None


def _mark_bit(entry: Entry) -> Entry | None:
    mark, mask = entry[1]
    if mark & PENDING:
        return entry[0], (mark ^ PENDING, mask)
    return (entry[0], (mark ^ (mark & -mark), mask)) if mark else None


def _mask_bit(entry: Entry) -> Entry | None:
    """One of the source's blocks too many, or the pending bit left standing."""
    mark, mask = entry[1]
    if mark or not mask:
        return None
    lacking = ~mask & ALL
    return entry[0], (mark, mask | (lacking & -lacking) if lacking else mask ^ PENDING)


def _pending_left(entry: Entry) -> Entry | None:
    mark, mask = entry[1]
    return (entry[0], (mark, mask & ~PENDING)) if not mark and mask & PENDING else None


def _source_more(entry: Entry) -> Entry | None:
    """All blocks, as if it were a source of each."""
    mark, mask = entry[1]
    return (entry[0], (0, PENDING)) if not mark and mask & PENDING else None


_CHANGES: Mapping[str, Change] = {
    "without": lambda entry: None,
    "wider": lambda entry: _prefix(entry, -1),
    "narrower": lambda entry: _prefix(entry, 1),
    "another port": _port,
    "a bit of the mark of": _mark_bit,
    "a bit of the mask of": _mask_bit,
    "pending left by": _pending_left,
    "a source of everything:": _source_more,
}


# -- equivalent ones --------------------------------------------------------------------------------------------------

_NOBODY = "what it takes in besides has no home and is dropped for that, or is a site whose own longer entry is found"
_COVERED = "other statements say the same about these packets, or nothing is granted there anyway"
#: Pattern of a mutant's name -> why no packet is decided otherwise.
EQUIVALENT: Mapping[str, str] = {
    r"ky\.2[sd]?0?: without \d -j DROP": "the end of the chain leads back to a table that drops what has no mark",
    r".*w: without \d+ -g KY-REFUSED": "the end of the chain leads back to a table that drops what is unmarked",
    r".*: without 0 -i lan0 .*h dst -g KY-REFUSED": "an address that is nobody's is in no set of destinations",
    r".*: without 2 -j MARK --set-xmark 0x0/0xffffffff": "nobody else marks packets here, so the mark is zero already",
    r".*: without \d+ -m mark (! )?--mark 0x80000000/0x80000000 -g KY-REFUSED": "who has no home is in no set",
    r".*: a bit of the mark in \d+ -m mark (! )?--mark 0x80000000/0x80000000 -g KY-REFUSED": "who has none is in none",
    r".*: without \d+ -j MARK --set-xmark 0x(8000000)?0/0xffffffff": "the word before left what this one begins with,"
    " or more bits pending, and what is not pending any more was decided",
    r".*: .*--set-xmark 0x80000000/0xffffffff": "who comes to this word is a source in it, and that clears the bit",
    r".*kyoten-grants.*": "no grant is timed in this world; a test of its own sends packets of timed grants",
    r".*: a block too wide": "the tenant's chain drops what has no home in it",
    r"ky.{8}\.2h: without .*": "a site of which no statement speaks",
    r".*: ports .*": _COVERED,
    r"ky\.2: src and dst exchanged in 1 .*2fa dst.*": "the set holds every address",
    r".*: src and dst exchanged .*": _COVERED,
    r".*\.2w: a bit of the mark in 9 .*": _COVERED,
    r".*: wider .*": _NOBODY,
    r".*\.2[dgn]\d+[a-z]\d*: (without|narrower|another port|a bit of|pending left|a source) .*": _COVERED,
    r"ky\.2fa: without 128\.0\.0\.0/1 .*": "every destination of this world lies in the lower half",
}


def reason_of(mutant: Mutant) -> str | None:
    """Why the mutant is said to be equivalent; None: it is not said to be."""
    return next((reason for pattern, reason in EQUIVALENT.items() if re.match(pattern, mutant.name)), None)


_FEW = [(6, 22), (6, 443), (6, 502), (6, 8010), (6, 8021), (17, 123), (17, 150), (17, 47808), (1, 2048), (1, 13 * 256)]
_MANY = [
    *_FEW,
    *((6, port) for port in (1, 25, 399, 401, 1005, 4840, 7999, 8000, 8019, 8020, 8040, 8041, 65535)),
    *((17, port) for port in (1, 99, 100, 200, 201, 1024, 1025, 2000, 2001, 47807, 47809)),
    *((1, kind * 256 + code) for kind, code in ((8, 1), (13, 1), (17, 0))),
]
_WAYS = [("ipsec0", "ipsec0"), ("ipsec0", "lan0"), ("lan0", "ipsec0")]


def difference(text: Text, mutant: Mutant) -> str | None:
    """A packet that the two decide differently; None: there is none.

    Asked are all classes of addresses that are told apart: for a set's mutant on one side both sides of what is wrong,
    with any other; for a rule's every pair.
    """
    before, after = text.kernel(), mutant.text.kernel()
    everybody = _addresses(text, mutant.where[:10])
    wrong = _wrong(text, mutant)
    ports = {int(port) + step for port in re.findall(r"\b\d+(?=[: ])", mutant.name) for step in (-1, 0, 1)}
    selectors = (
        _MANY if wrong else [*_FEW, *((number, port) for number in (6, 17) for port in ports if 0 < port < 65536)]
    )
    pairs = [*product(wrong, everybody), *product(everybody, wrong)] if wrong else [*product(everybody, everybody)]
    for (source, destination), (came_in, goes_out) in product(pairs, _WAYS):
        if (destination.startswith("10.200.")) != (goes_out == "lan0"):
            continue
        for protocol, selector in selectors:
            way = (came_in, goes_out, source, destination, protocol, selector)
            if before.accepts(TOP, *way) != after.accepts(TOP, *way):
                return f"{mutant.name}: {way}"
    return None


def _networks(sets: Sets, name: str) -> set[IPv4Network]:
    entries = sets[name].entries if name in sets else ()
    return {IPv4Network(element.partition(",")[0]) for element in entries}


def _addresses(text: Text, tenant: str) -> list[str]:
    """One address of each network in the tenant's sets, one of each tenant's, and some of nobody."""
    found = {IPv4Address("172.16.0.1"), IPv4Address("10.200.0.9")}
    for name in text.sets:
        ours = {one for one in _networks(text.sets, name) if one.prefixlen > 1}
        if name.startswith(tenant):
            found |= {one[-1] for one in ours}
        elif name.endswith("h"):
            found |= {one[1] for one in sorted(ours)[:2]}
        elif tenant.startswith(TOP):
            found |= {one[0] for one in ours if one.prefixlen == 32}
    return [str(one) for one in sorted(found)]


def _wrong(text: Text, mutant: Mutant) -> list[str]:
    """Both sides of the ends of the networks of the entries that are wrong."""
    if mutant.where not in text.sets:
        return []
    one, other = text.sets[mutant.where].entries, mutant.text.sets[mutant.where].entries
    names = {name for name in {*one, *other} if one.get(name) != other.get(name)}
    found = {IPv4Network(name.partition(",")[0]) for name in names}
    near = {end for one in found if one.prefixlen > 1 for end in (one[0] - 1, one[0], one[-1], one[-1] + 1)}
    middle = {one[one.num_addresses // 2 + step] for one in found if one.num_addresses > 1 for step in (-1, 0)}
    return [str(address) for address in sorted(near | middle)]
