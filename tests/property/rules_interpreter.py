"""Reads rendered ipset and iptables text and walks a packet through it, as the kernel would. Independent of rules."""

import shlex
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network

ip_address, ip_network = cache(ip_address), cache(ip_network)
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}


@dataclass
class Kernel:
    """The sets and chains of one namespace. ``steps`` counts rules looked at by the last packet."""

    sets: dict[str, list[str]] = field(default_factory=dict)
    chains: dict[str, list[list[str]]] = field(default_factory=dict)
    steps: int = 0

    @classmethod
    def read(cls, sets: str, chains: str) -> "Kernel":
        kernel = cls()
        for line in sets.splitlines():
            verb, name, rest = line.split(" ", 2)
            if verb == "create":
                assert name not in kernel.sets
                assert len(name) <= 31
                kernel.sets[name] = []
            else:
                assert verb == "add"
                assert rest not in kernel.sets[name]
                kernel.sets[name].append(rest)
        lines = chains.splitlines()
        assert (lines[0], lines[-1]) == ("*filter", "COMMIT")
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
        """The verdict; ``selector`` is a port, or ICMP type * 256 + code."""
        self.steps = 0
        while True:
            for words in self.chains[chain]:
                self.steps += 1
                target = self._target(list(words), came_in, goes_out, source, destination, protocol, selector)
                if target is not None:
                    break
            else:
                return False  # back to FORWARD, whose policy is DROP
            if target[0] == "-j":
                assert target[1] in ("ACCEPT", "DROP")
                return target[1] == "ACCEPT"
            chain = target[1]

    def _target(
        self, words: list[str], came_in: str, goes_out: str, source: str, destination: str, protocol: int, selector: int
    ) -> tuple[str, str] | None:
        while words:
            word = words.pop(0)
            if negated := word == "!":
                word = words.pop(0)
            value = words.pop(0)
            if word in ("-j", "-g"):
                return word, value
            if word == "-m":
                if value != "set":
                    continue
                assert words.pop(0) == "--match-set"
                parts = words[1].split(",")
                name = words.pop(0)
                words.pop(0)
                matches = self._in_set(name, len(parts) == 2, destination, protocol, selector)
            elif word == "-i":
                matches = value == came_in
            elif word == "-o":
                matches = value == goes_out
            elif word == "-s":
                matches = ip_address(source) in ip_network(value)
            elif word == "-d":
                matches = ip_address(destination) in ip_network(value)
            elif word == "-p":
                matches = protocol == PROTOCOLS[value]
            elif word == "--dport":
                low, high = value.split(":")
                matches = int(low) <= selector <= int(high)
            elif word == "--icmp-type":
                matches = int(value) == 255 or selector // 256 == int(value)
            else:
                raise AssertionError(word)
            if matches == negated:
                return None
        raise AssertionError("a rule without a target")

    def _in_set(self, name: str, with_port: bool, address: str, protocol: int, selector: int) -> bool:
        for entry in self.sets[name]:
            network, _, port = entry.partition(",")
            assert bool(port) == with_port
            if ip_address(address) not in ip_network(network):
                continue
            if not port:
                return True
            kind, _, number = port.partition(":")
            if kind == "icmp":
                high, _, low = number.partition("/")
                number = str(int(high) * 256 + int(low))
            if PROTOCOLS[kind] == protocol and int(number) == selector:
                return True
        return False
