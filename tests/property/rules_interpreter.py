"""Reads ipset and iptables text and walks a packet through it, as the kernel would. Independent of rules.

Takes what is rendered as well as what `ipset save` and `iptables-save` give back.
"""

import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network

ip_address, ip_network = cache(ip_address), cache(ip_network)
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
GRANT, TIMED_GRANT, TIMED = "KY-GRANT", "KY-TIMED-GRANT", "kyoten-grants"
REFUSED = "KY-REFUSED"
_ELEMENT = re.compile(r"(\S+)(?: skbmark (0x[0-9a-f]+)(?:/(0x[0-9a-f]+))?)?")

#: Port part of an element, prefix length, network -> (mark, mask).
Set = dict[str, dict[int, dict[int, tuple[int, int]]]]


@dataclass(frozen=True)
class Question:
    """A packet and its way. ``selector`` is a port, or ICMP type * 256 + code."""

    came_in: str
    goes_out: str
    source: str
    destination: str
    protocol: int
    selector: int


@dataclass
class Kernel:
    """The sets and chains of one namespace. ``steps`` counts rules looked at by the last packet."""

    sets: dict[str, Set] = field(default_factory=dict)
    chains: dict[str, list[list[str]]] = field(default_factory=dict)
    #: The skeleton's set of timed grants: (source, port part, destination).
    grants: list[tuple[str, str, str]] = field(default_factory=list)
    steps: int = 0
    mark: int = 0

    @classmethod
    def read(cls, sets: str, chains: str) -> "Kernel":
        kernel = cls()
        for line in sets.splitlines():
            verb, name, rest = line.split(" ", 2)
            if verb == "create":
                assert name not in kernel.sets
                assert len(name) <= 31
                kernel.sets[name] = {}
                continue
            assert verb == "add"
            if name == TIMED:
                kernel.grants.append(tuple(rest.split(" ")[0].split(",")))
                continue
            if name == "kyoten-refused":
                continue  # what was dropped; it decides nothing
            element, mark, mask = _ELEMENT.fullmatch(rest).groups()
            network, _, port = element.partition(",")
            network = ip_network(network)
            found = kernel.sets[name].setdefault(port, {}).setdefault(network.prefixlen, {})
            assert int(network.network_address) not in found
            found[int(network.network_address)] = int(mark or "0", 16), int(mask or "0xffffffff", 16)
        lines = [line for line in chains.splitlines() if not line.startswith("#")]
        assert (lines[0], lines[-1]) == ("*mangle", "COMMIT")
        for line in lines[1:-1]:
            if line.startswith(":"):
                name = line[1:].split()[0]
                assert len(name) <= 28
                kernel.chains[name] = []
            else:
                verb, name, *words = shlex.split(line)
                assert verb == "-A"
                kernel.chains[name].append(words)
        return kernel

    def accepts(
        self, chain: str, came_in: str, goes_out: str, source: str, destination: str, protocol: int, selector: int
    ) -> bool:
        """Whether the packet comes to the chain of granted ones."""
        self.steps = self.mark = 0
        if protocol == PROTOCOLS["icmp"] and selector // 256 not in (8, 13, 15, 17):
            return False  # invalid to connection tracking, so it does not come to the chain
        return self._walk(chain, Question(came_in, goes_out, source, destination, protocol, selector)) is True

    def _walk(self, chain: str, question: Question) -> bool | None:
        """True granted, False dropped, None come to the end of the chain."""
        if chain in (GRANT, TIMED_GRANT):
            return True
        if chain == REFUSED:
            return False
        for words in self.chains[chain]:
            self.steps += 1
            if (target := self._target(list(words), question)) is None:
                continue
            if target == ("-j", "DROP"):
                return False
            if target[0] == "-g":
                return self._walk(target[1], question)
            if target[0] == "-j" and (verdict := self._walk(target[1], question)) is not None:
                return verdict
        return None

    def _target(self, words: list[str], question: Question) -> tuple[str, str] | None:
        """What the rule does if it matches: ("-j", a chain or DROP), ("-g", a chain), ("", "") for a changed mark."""
        while words:
            word = words.pop(0)
            if negated := word == "!":
                word = words.pop(0)
            value = words.pop(0)
            if word in ("-j", "-g"):
                return self._act(word, value, words, question)
            if word == "-m":
                continue
            if word == "--match-set" and value == TIMED:
                assert words.pop(0) == "src,dst,dst"
                matches = any(self._granted(*one, question) for one in self.grants)
            elif word == "--match-set":
                matches = self._entry(value, words.pop(0), question) is not None
            elif word == "--mark":
                mark, _, mask = value.partition("/")
                matches = self.mark & int(mask or "0xffffffff", 16) == int(mark, 16)
            elif word == "-i":
                matches = value == question.came_in
            elif word == "-o":
                matches = value == question.goes_out
            elif word == "-s":
                matches = ip_address(question.source) in ip_network(value)
            elif word == "-d":
                matches = ip_address(question.destination) in ip_network(value)
            elif word == "-p":
                matches = question.protocol == PROTOCOLS[value]
            elif word == "--dport":
                low, high = value.split(":")
                matches = int(low) <= question.selector <= int(high)
            elif word == "--icmp-type":
                matches = int(value) == 255 or question.selector // 256 == int(value)
            else:
                raise AssertionError(word)
            if matches == negated:
                return None
        raise AssertionError("a rule without a target")

    def _act(self, word: str, target: str, rest: list[str], question: Question) -> tuple[str, str]:
        if target == "MARK":
            assert rest.pop(0) == "--set-xmark"
            mark, mask = (int(part, 16) for part in rest.pop(0).split("/"))
            self.mark = (self.mark & ~mask) ^ mark
        elif target == "SET":
            assert rest.pop(0) == "--map-set"
            entry = self._entry(rest.pop(0), rest.pop(0), question)
            assert rest.pop(0) == "--map-mark"
            if entry is not None:
                self.mark = (self.mark & ~entry[1]) ^ entry[0]
        else:
            assert not rest
            return word, target
        assert not rest
        return "", ""

    def _granted(self, source: str, port: str, network: str, question: Question) -> bool:
        return (
            question.source == source
            and _port(question.protocol, question.selector) == port
            and ip_address(question.destination) in ip_network(network)
        )

    def _entry(self, name: str, directions: str, question: Question) -> tuple[int, int] | None:
        """The entry that the kernel finds: the longest prefix that holds the address, of those with the port."""
        first, _, second = directions.partition(",")
        address = int(ip_address(question.source if first == "src" else question.destination))
        port = ""
        if second:
            port = _port(question.protocol, question.selector)
        prefixes = self.sets[name].get(port, {})
        for length in sorted(prefixes, reverse=True):
            found = prefixes[length].get(address >> (32 - length) << (32 - length))
            if found is not None:
                return found
        return None


_ICMP_NAMES = {(8, 0): "echo-request", (13, 0): "timestamp-request", (17, 0): "address-mask-request"}


def _port(protocol: int, selector: int) -> str:
    if protocol == 1:
        return f"icmp:{_ICMP_NAMES.get(divmod(selector, 256), f'{selector // 256}/{selector % 256}')}"
    return f"{next((name for name, number in PROTOCOLS.items() if number == protocol), protocol)}:{selector}"
