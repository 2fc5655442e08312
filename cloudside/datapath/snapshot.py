"""What iptables-save and ipset-save say, as data that can be compared with what was rendered. Pure.

Counters, comments of the tools and sizes of hash tables are left out: they change by themselves.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rules.render import SetContent
from rules.vectors import ALL

_TABLE = re.compile(r"\*(\S+)")
_CHAIN = re.compile(r":(\S+) (\S+) \[\d+:\d+\]")
_RULE = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+) (.*)")
_UNMARKED = (0, 0)


@dataclass(frozen=True, slots=True)
class Chains:
    """A table. ``rules`` has every chain, empty ones too; ``policies`` the built-in ones'."""

    rules: Mapping[str, tuple[str, ...]]
    policies: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Heading:
    """What is known of a set without reading its entries."""

    kind: str
    marked: bool
    count: int


def parse_chains(text: str) -> Chains:
    """Read one table of iptables-save."""
    rules: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    for line in text.splitlines():
        if (rule := _RULE.fullmatch(line)) is not None:
            rules[rule[1]].append(rule[2].strip())
        elif (chain := _CHAIN.fullmatch(line)) is not None:
            rules[chain[1]] = []
            if chain[2] != "-":
                policies[chain[1]] = chain[2]
    return Chains({name: tuple(lines) for name, lines in rules.items()}, policies)


def parse_sets(text: str) -> dict[str, SetContent]:
    """Read ipset-save text."""
    sets: dict[str, tuple[str, dict[str, tuple[int, int]], bool]] = {}
    for line in text.splitlines():
        words = line.split(" ")
        if words[0] == "create":
            sets[words[1]] = (words[2], {}, "skbinfo" in words)
        elif words[0] == "add":
            sets[words[1]][1][words[2]] = _marked(words)
    return {name: SetContent(*content) for name, content in sets.items()}


def _marked(words: list[str]) -> tuple[int, int]:
    """The entry's mark and mask; a mask of all bits is not written."""
    if len(words) < 5 or words[3] != "skbmark":
        return _UNMARKED
    mark, slash, mask = words[4].partition("/")
    return int(mark, 16), int(mask, 16) if slash else ALL


def parse_headings(text: str) -> dict[str, Heading]:
    """Read ``ipset list -terse``."""
    found: dict[str, Heading] = {}
    for part in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.splitlines() if ": " in line)
        if {"Name", "Type", "Header", "Number of entries"} <= fields.keys():
            found[fields["Name"]] = Heading(
                fields["Type"], "skbinfo" in fields["Header"].split(), int(fields["Number of entries"])
            )
    return found


def different_chains(wanted: Mapping[str, tuple[str, ...]], found: Chains) -> tuple[str, ...]:
    """The chains that are not as wanted, by name."""
    return tuple(f"chain {name}" for name, rules in wanted.items() if found.rules.get(name) != rules)


def different_headings(wanted: Mapping[str, SetContent], found: Mapping[str, Heading]) -> tuple[str, ...]:
    """The sets that are not there, of another type, or of another size than wanted, by name."""
    return tuple(
        f"set {name}"
        for name, content in wanted.items()
        if found.get(name) != Heading(content.kind, content.marked, len(content.entries))
    )


def different_sets(wanted: Mapping[str, SetContent], found: Mapping[str, SetContent]) -> tuple[str, ...]:
    """The sets that are not as wanted, entry by entry, by name."""
    return tuple(f"set {name}" for name, content in wanted.items() if found.get(name) != content)


def strangers(names: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Those names that are not wanted, in their order."""
    known = frozenset(wanted)
    return tuple(name for name in names if name not in known)
