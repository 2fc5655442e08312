"""Walks a packet through rendered nft sets and chains, as the kernel would. Independent of rules.

Elements of one set must not overlap: the kernel refuses them, so finding two is an error here.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

GRANTED = 0x4B590001
_VMAP = re.compile(r"(.+?) vmap @(\S+)")
_MAP = re.compile(r"meta mark set (.+?) map @(\S+)")
_TEST = re.compile(r"meta mark & (0x[0-9a-f]{8}) != 0x00000000")
_LOOKUP = re.compile(r"((?:ip|icmp|meta|th) [^@]+?) @(\S+)")
_INTERFACE = re.compile(r'([io])ifname "(\S+)"')
_END = re.compile(r"(drop|accept|goto \S+)$")


@dataclass(frozen=True)
class Question:
    """A packet and its way. ``selector`` is a port, or ICMP type * 256 + code."""

    came_in: str
    goes_out: str
    source: str
    destination: str
    protocol: int
    selector: int

    def value(self, name: str) -> int | None:
        """What the packet has in the field; None if it has no such field, or none that can be asked."""
        values = {
            "ip saddr": int(ip_address(self.source)),
            "ip daddr": int(ip_address(self.destination)),
            "meta l4proto": self.protocol,
            # Other protocols have something there too, or end before: then the rule ends.
            "th dport": self.selector if self.protocol in (6, 17) else None,
            "icmp type": self.selector // 256 if self.protocol == 1 else None,
            "icmp code": self.selector % 256 if self.protocol == 1 else None,
        }
        return values[name]


class Walk:
    """One packet's way through a table."""

    def __init__(self, sets, chains, question: Question) -> None:  # type: ignore[no-untyped-def]
        self.sets, self.chains, self.question = sets, chains, question
        self.mark = 0

    def granted(self) -> bool:
        """Whether the packet leaves `decide` as one that the guard lets pass; all that comes back is dropped."""
        return self._chain("decide") == "accept" and self.mark == GRANTED

    def _chain(self, name: str) -> str | None:
        for rule in self.chains[name]:
            verdict = self._rule(rule)
            if verdict is not None:
                return self._chain(verdict.removeprefix("goto ")) if verdict.startswith("goto ") else verdict
        return None

    def _rule(self, rule: str) -> str | None:
        while rule:
            if _END.fullmatch(rule):
                return rule
            if rule.startswith("meta nfproto != ipv4 "):
                return None  # the packet is IPv4
            if rule == f"meta mark set {GRANTED:#x} accept":
                self.mark = GRANTED
                return "accept"
            if rule.startswith("icmp type != { 8, 13, 15, 17 } "):
                if self.question.value("icmp type") in (None, 8, 13, 15, 17):
                    return None
                return "drop"
            if found := _INTERFACE.match(rule):
                if found[2] != (self.question.came_in if found[1] == "i" else self.question.goes_out):
                    return None
            elif found := _MAP.match(rule):
                value = self._find(found[2], found[1])
                if value is None:
                    return None
                self.mark = value
            elif found := _TEST.match(rule):
                if not self.mark & int(found[1], 16):
                    return None
            elif found := _VMAP.fullmatch(rule):
                if " @" not in found[1]:
                    return self._find(found[2], found[1])
                found = _LOOKUP.match(rule)
                if not self._find(found[2], found[1]):
                    return None
            elif found := _LOOKUP.match(rule):
                if not self._find(found[2], found[1]):
                    return None
            else:
                raise AssertionError(rule)
            rule = rule[found.end() :].lstrip()
        return None

    def _find(self, name: str, fields: str):  # type: ignore[no-untyped-def]
        """The element's value, True for a set's, None if there is none."""
        values = [self.question.value(one) for one in fields.split(" . ")]
        if None in values:
            return None
        content = self.sets[name]
        assert len(content.fields) == len(values)
        hits = [
            value
            for key, value in content.elements.items()
            if all(low <= one <= high for one, (low, high) in zip(values, key, strict=True))
        ]
        assert len(hits) <= 1, (name, values, hits)
        return (hits[0] if content.value is not None else True) if hits else None
