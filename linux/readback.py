"""What the kernel's packet filter holds, read by python-iptables: a second pair of eyes beside iptables-save.

python-iptables speaks libiptc itself. It takes no lock, keeps one Table a name for as long as a process lives, and
calls iptables' own plugins in our address space; so each reading is a process of its own: ``python -m linux.readback``
prints the tables and the sets as one JSON object and ends. Legacy backend, IPv4. Reads and never writes: at 0.14 to
0.34 ms a rule it is no way to change rules in bulk.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from linux.errors import LinuxError
from linux.netfilter import Netfilter
from linux.runner import Runner, SubprocessRunner

TABLES = ("filter", "mangle")
#: Reading 50,000 rules takes this many seconds at most.
READ_TIMEOUT_S = 60.0
_ANYWHERE = "0.0.0.0/0.0.0.0"


@dataclass(frozen=True, slots=True)
class TableContent:
    """A table. ``rules`` has every chain, in iptables-save's words; ``policies`` those of the built-in ones."""

    rules: Mapping[str, tuple[str, ...]]
    policies: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReadBack:
    """``sets`` is what ipset save gives."""

    tables: Mapping[str, TableContent]
    sets: str


def read(runner: Runner) -> ReadBack:
    """Read in a process of its own, in the network namespace of the runner. Raises LinuxError."""
    argv = [sys.executable, "-m", "linux.readback"]
    text = runner.run(argv, timeout_s=READ_TIMEOUT_S).stdout
    try:
        found = json.loads(text)
    except ValueError:
        raise LinuxError("the reading of the packet filter cannot be understood") from None
    tables = {
        name: TableContent({chain: tuple(rules) for chain, rules in table["rules"].items()}, table["policies"])
        for name, table in found["tables"].items()
    }
    return ReadBack(tables, found["sets"])


def rule_text(words: "RuleWords") -> str:
    """The rule in the words of iptables-save."""
    return " ".join(_words(words))


@dataclass(frozen=True, slots=True)
class RuleWords:
    """A rule's parts as python-iptables gives them; a value that begins with ``!`` is negated.

    ``matches`` and ``target``: name and parameters, whose first value may be ``!``.
    """

    source: str
    destination: str
    came_in: str | None
    goes_out: str | None
    protocol: str
    matches: Sequence[tuple[str, Mapping[str, Sequence[str]]]]
    target: tuple[str, Mapping[str, Sequence[str]]]
    goto: bool


def _words(rule: RuleWords) -> Iterator[str]:
    for flag, address in (("-s", rule.source), ("-d", rule.destination)):
        if address != _ANYWHERE:
            yield from _plain(flag, address, network=True)
    for flag, value in (("-i", rule.came_in), ("-o", rule.goes_out), ("-p", rule.protocol)):
        if value not in (None, "ip"):
            yield from _plain(flag, str(value))
    for name, parameters in rule.matches:
        yield from ("-m", name)
        yield from _parameters(parameters)
    name, parameters = rule.target
    if name:
        yield from ("-g" if rule.goto else "-j", name)
        yield from _parameters(parameters)


def _plain(flag: str, value: str, *, network: bool = False) -> Iterator[str]:
    if value.startswith("!"):
        yield "!"
    value = value.removeprefix("!")
    yield from (flag, str(ip_network(value)) if network else value)


def _parameters(parameters: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for key, values in parameters.items():
        negated = bool(values) and values[0] == "!"
        if negated:
            yield "!"
        yield f"--{key}"
        # iptables-save puts this one, and no other that we use, in quotes.
        shown = [f'"{value}"' for value in values] if key == "u32" else values
        yield from shown[1:] if negated else shown


def _table(name: str) -> dict[str, object]:
    import iptc  # not before it is needed: it loads iptables' plugins

    table = iptc.Table(name)
    table.refresh()
    rules: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    for chain in table.chains:
        if (policy := chain.get_policy()) is not None:
            policies[chain.name] = policy.name
        rules[chain.name] = [
            rule_text(
                RuleWords(
                    rule.src,
                    rule.dst,
                    rule.in_interface,
                    rule.out_interface,
                    rule.protocol,
                    [(match.name, match.get_all_parameters()) for match in rule.matches],
                    (rule.target.name, rule.target.get_all_parameters()),
                    bool(rule.target.goto),
                )
            )
            for rule in chain.rules
        ]
    return {"rules": rules, "policies": policies}


def main() -> int:
    """Print tables and sets of this network namespace."""
    found = {"tables": {name: _table(name) for name in TABLES}, "sets": Netfilter(SubprocessRunner()).save_sets()}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
