"""What is in force, and the smallest change from it to another rule set. Pure.

A tenant whose vectors differ gets a new version of its sets and chains beside the old ones, and one iptables
transaction flips its gate: the gates of all that changed at once, and the way to the top with them. Where only sites of
one tenant come, go or move, not even that is needed: their entries are put into the sets in force while nobody may use
them yet, then one swap of the tenant's set of homes lets all of them in or out at once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cloudside.datapath.skeleton import POLICY_CHAIN
from cloudside.datapath.snapshot import Chains as KernelChains
from cloudside.datapath.snapshot import different_chains, different_sets
from rules.collector import paused
from rules.compile import Domain, RuleSet
from rules.render import (
    Chains,
    Piece,
    SetContent,
    Sides,
    chains_text,
    gate,
    set_text,
    tenant_name,
    tenant_piece,
    top_chain,
    top_piece,
)
from rules.vectors import Home, Vectors, vectors


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's part as it is in the kernel. ``domain`` is what it was made of."""

    vectors: Vectors
    version: int
    domain: Domain


@dataclass(frozen=True, slots=True)
class InForce:
    """A rule set in the kernel: its tenants' versions, and the top's."""

    rule_set: RuleSet = field(repr=False)
    tenants: Mapping[str, Tenant]
    top: Piece

    def pieces(self, sides: Sides) -> Iterator[Piece]:
        """Everything but the gates."""
        yield self.top
        for one in self.tenants.values():
            yield tenant_piece(one.vectors, one.version, sides)

    def chains(self, sides: Sides) -> Chains:
        """All chains that belong to the rule set, with their rules."""
        found = dict(gate(one.vectors.number, one.version) for one in self.tenants.values())
        for piece in self.pieces(sides):
            found |= piece.chains
        return found

    def sets(self, sides: Sides) -> Mapping[str, SetContent]:
        """All sets that belong to the rule set."""
        return {name: content for piece in self.pieces(sides) for name, content in piece.sets.items()}


@dataclass(frozen=True, slots=True)
class Change:
    """How to get to ``result``: ``sets`` for ipset restore, then ``chains`` for iptables-restore on the mangle table.

    ``chains`` empty: the sets alone did it, in place. ``flip``: KY-POLICY has to lead to another top.
    """

    result: InForce
    sets: str
    chains: str
    flip: bool


def change(old: InForce | None, rule_set: RuleSet, version: int, sides: Sides, *, in_place: bool = True) -> Change:
    """The change to ``rule_set``; new pieces take ``version``, which nothing in the kernel has yet.

    ``in_place`` false: by versions only, for when the kernel did not take the other way.
    """
    before = old.tenants if old is not None else {}
    shared_alike = old is not None and old.rule_set.shared == rule_set.shared
    wanted: dict[str, Tenant] = {}
    changed: list[str] = []
    for name, domain in rule_set.domains.items():
        kept = before.get(name)
        if kept is not None and shared_alike and kept.domain is domain:
            wanted[name] = kept
            continue
        with paused():
            found = vectors(domain, rule_set.shared.values(), kept.vectors if kept is not None else None)
        if found is None or found.shape is None:
            continue
        if kept is not None and _alike(kept.vectors, found):
            wanted[name] = Tenant(found, kept.version, domain)
            continue
        wanted[name] = Tenant(found, version, domain)
        changed.append(name)
    if old is not None and _same_top(old, rule_set, wanted):
        top, flip = old.top, False
    else:
        top, flip = top_piece(rule_set, {name: one.vectors for name, one in wanted.items()}, version, sides), True
    if in_place and not flip and len(changed) == 1 and (kept := before.get(changed[0])) is not None:
        only = wanted[changed[0]]
        if _swappable(kept.vectors, only.vectors):
            wanted[changed[0]] = Tenant(only.vectors, kept.version, only.domain)
            text = _swap_text(kept.vectors, only.vectors, kept.version)
            return Change(InForce(rule_set, wanted, top), text, "", flip=False)
    pieces = [tenant_piece(wanted[name].vectors, version, sides) for name in changed]
    gates = dict(gate(wanted[name].vectors.number, version) for name in changed)
    if flip:
        pieces.append(top)
    chains: dict[str, tuple[str, ...]] = dict(gates)
    for piece in pieces:
        chains |= piece.chains
    return Change(
        InForce(rule_set, wanted, top),
        "".join(set_text(name, content) for piece in pieces for name, content in piece.sets.items()),
        chains_text(chains),
        flip=flip,
    )


def _alike(one: Vectors, other: Vectors) -> bool:
    return one.number == other.number and one.shape == other.shape and one.sets == other.sets


def _same_top(old: InForce, rule_set: RuleSet, tenants: Mapping[str, Tenant]) -> bool:
    """Whether the top would say the same: it knows blocks, servers and what is forbidden, and nothing else."""
    return (
        old.rule_set.platform.forbidden == rule_set.platform.forbidden
        and old.rule_set.servers == rule_set.servers
        and old.tenants.keys() == tenants.keys()
        and all(one.domain.block == tenants[name].domain.block for name, one in old.tenants.items())
    )


def _swappable(old: Vectors, new: Vectors) -> bool:
    """Whether sites alone came, went or moved, and none came to where another was until now: then what comes can be
    written before anybody may use it. A hash:net finds the longest prefix, so it must not lie in a living one either.
    """
    if old.number != new.number or old.shape != new.shape:
        return False
    gone, come = _moved(old, new)
    if not all(home.number for home in (*gone, *come)):
        return False
    living = [home for home in old.homes.values() if home.number]
    return not any(one.first <= other.last and other.first <= one.last for one in come for other in living)


def _moved(old: Vectors, new: Vectors) -> tuple[list[Home], list[Home]]:
    """The homes that went and those that came; one that differs did both."""
    gone = [home for name, home in old.homes.items() if new.homes.get(name) != home]
    come = [home for name, home in new.homes.items() if old.homes.get(name) != home]
    return gone, come


def _swap_text(old: Vectors, new: Vectors, version: int) -> str:
    prefix = f"{tenant_name(new.number)}.{version}"
    gone, come = _moved(old, new)
    kept = {(key, one) for home in come for key, one, _ in new.encoder.entries(home)}
    before = [
        f"add {prefix}{key} {one} skbmark {mark:#x}/{mask:#x}\n"
        for home in come
        for key, one, (mark, mask) in new.encoder.entries(home)
        if key != "h"
    ]
    after = [
        f"del {prefix}{key} {one}\n"
        for home in gone
        for key, one, _ in old.encoder.entries(home)
        if key != "h" and (key, one) not in kept
    ]
    homes, beside = f"{prefix}h", f"{prefix}h+"
    swap = [set_text(beside, SetContent("hash:net", new.sets["h"])), f"swap {beside} {homes}\n", f"destroy {beside}\n"]
    return "".join([*before, *swap, *after])


def adopted(
    rule_set: RuleSet, chains: KernelChains, sets: Mapping[str, SetContent], sides: Sides
) -> tuple[InForce | None, bool]:
    """What of the kernel's content is as this rule set would have it, and whether that is all of the rule set.

    None if the top is not: then nothing that is there can be relied on.
    """
    jump = chains.rules.get(POLICY_CHAIN, ())
    version = version_names(rule.removeprefix("-g ") for rule in jump).get(jump[0][3:]) if len(jump) == 1 else None
    if version is None or jump != (f"-g {top_chain(version)}",):
        return None, False
    wanted = change(None, rule_set, 0, sides).result
    tenants: dict[str, Tenant] = {}
    for name, one in wanted.tenants.items():
        rules = chains.rules.get(tenant_name(one.vectors.number), ())
        found = version_names(rule.removeprefix("-g ") for rule in rules).get(rules[0][3:]) if rules else None
        if found is None or gate(one.vectors.number, found)[1] != rules:
            continue
        if _present(tenant_piece(one.vectors, found, sides), chains, sets):
            tenants[name] = Tenant(one.vectors, found, one.domain)
    top = top_piece(rule_set, {name: one.vectors for name, one in wanted.tenants.items()}, version, sides)
    if not _present(top, chains, sets):
        return None, False
    return InForce(rule_set, tenants, top), tenants.keys() == wanted.tenants.keys()


def _present(piece: Piece, chains: KernelChains, sets: Mapping[str, SetContent]) -> bool:
    return not different_chains(piece.chains, chains) and not different_sets(piece.sets, sets)


def version_names(names: Iterable[str]) -> dict[str, int | None]:
    """Of these names of chains or sets those that belong to rule sets, with their version; None: a gate."""
    found: dict[str, int | None] = {}
    for name in names:
        head, dot, rest = name.partition(".")
        if not head.startswith("ky") or not all(one in "0123456789abcdef" for one in head[2:]):
            continue
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if dot and digits:
            found[name] = int(digits)
        elif not dot and len(head) == 10:
            found[name] = None
    return found
