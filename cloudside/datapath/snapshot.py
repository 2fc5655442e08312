"""What iptables-save and ipset-save say, as data that can be compared. Pure.

Counters, comments of the tools and sizes of hash tables are left out: they change by themselves.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Chains and sets of a version of the rule set, as rules.render names them.
VERSIONED = re.compile(r"ky(\d+)(?:-.*)?")
_CHAIN = re.compile(r":(\S+) (\S+) \[\d+:\d+\]")
_RULE = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+) (.*)")


@dataclass(frozen=True, slots=True)
class Chains:
    """The filter table. ``rules`` has every chain, empty ones too; ``policies`` the built-in ones'."""

    rules: Mapping[str, tuple[str, ...]]
    policies: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SetContent:
    """A set: its type and its members."""

    kind: str
    members: frozenset[str]


def parse_chains(text: str) -> Chains:
    """Read the filter table of iptables-save."""
    rules: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    for line in text.splitlines():
        if (chain := _CHAIN.fullmatch(line)) is not None:
            rules[chain[1]] = []
            if chain[2] != "-":
                policies[chain[1]] = chain[2]
        elif (rule := _RULE.fullmatch(line)) is not None:
            rules[rule[1]].append(rule[2].strip())
    return Chains({name: tuple(lines) for name, lines in rules.items()}, policies)


def parse_sets(text: str) -> dict[str, SetContent]:
    """Read ipset-save text."""
    kinds: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    for line in text.splitlines():
        word, name, rest = (*line.split(" ", 2), "", "")[:3]
        if word == "create":
            kinds[name] = rest.split(" ", 1)[0]
            members[name] = set()
        elif word == "add":
            members[name].add(rest)
    return {name: SetContent(kind, frozenset(members[name])) for name, kind in kinds.items()}


def versioned(names: Iterable[str]) -> tuple[str, ...]:
    """Those names that belong to some version of the rule set, in their order."""
    return tuple(name for name in names if VERSIONED.fullmatch(name))


def version_of(name: str) -> int:
    """The version in a versioned name."""
    found = VERSIONED.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} has no version")
    return int(found[1])


def differences(
    wanted: tuple[Chains, Mapping[str, SetContent]],
    found: tuple[Chains, Mapping[str, SetContent]],
    *,
    chains: Iterable[str],
    sets: Iterable[str],
) -> tuple[str, ...]:
    """The chains and sets among those named that are not as wanted, by name."""
    different = [f"chain {name}" for name in chains if wanted[0].rules.get(name) != found[0].rules.get(name)]
    different += [f"set {name}" for name in sets if wanted[1].get(name) != found[1].get(name)]
    return tuple(different)


def digest(state: tuple[Chains, Mapping[str, SetContent]], *, chains: Iterable[str], sets: Iterable[str]) -> str:
    """One number for the content of these chains and sets; a missing one counts as missing."""
    content = [
        [[name, state[0].rules.get(name)] for name in sorted(chains)],
        [
            [name, None if (one := state[1].get(name)) is None else [one.kind, sorted(one.members)]]
            for name in sorted(sets)
        ],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
