"""Which statement lets how much pass. Pure.

The kernel's sets have many statements in one bit, so its counters cannot tell them apart. Connection tracking tells of
each flow that began or ended instead, and the rule set says which statements let it in. Any one of them would have
done, so each of them is counted.

A flow counts when it begins, its packets and bytes when it ends: nothing is counted twice, whoever listens when.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from ipaddress import ip_address
from typing import NamedTuple

from cloudside.datapath.memberships import End, MembershipCounters, Memberships
from cloudside.registry.counted import StatementUse
from rules.compile import RuleSet
from rules.evaluate import Lineage, evaluate
from rules.model import Packet, Protocol, StatementId

#: Open flows that are remembered: what a gateway's connection table holds by default (nf_conntrack_max). About 35 MB.
FLOWS_MAX = 262_144
#: Addresses, and decisions, kept at most; then they are made anew.
CACHE_MAX = 65_536
#: Seconds after which a statement whose flows stay open counts as used again.
TOUCH_S = 600

_ICMP = int(Protocol.ICMP)
_EVENT = re.compile(
    r"\s*(?:\[(NEW|DESTROY)\]\s+)?ipv4\s+2\s+\S+\s+(\d+) .*?"
    r"src=(\S+) dst=(\S+) (?:sport=\d+ dport=(\d+) |type=(\d+) code=(\d+) id=\d+ )?"
)
_AMOUNT = re.compile(r"packets=(\d+) bytes=(\d+)")
_NOTHING: tuple[StatementId, ...] = ()


class FlowEvent(NamedTuple):
    """A flow that began or ended, in its original direction; ``kind`` is empty in a listing. A tuple: made faster.

    ``identifier`` is connection tracking's; ``selector`` as in `rules.model.Packet`.
    """

    kind: str
    identifier: str
    source: str
    destination: str
    protocol: int
    selector: int
    packets: int
    bytes: int
    #: Of ``bytes`` those that came back.
    reply_bytes: int = 0


def parse_event(line: str) -> FlowEvent | None:
    """Read a line of ``conntrack -E`` or ``-L`` with ``-o extended,id``; None: it is none, or not IPv4."""
    match = _EVENT.match(line)
    at = line.rfind(" id=")
    if match is None or at < 0:
        return None
    kind, protocol, source, destination, port, icmp_type, icmp_code = match.groups()
    selector = int(port) if port else int(icmp_type) * 256 + int(icmp_code) if icmp_type else 0
    packets = total = reply = 0
    if kind == "DESTROY":
        for packet_count, byte_count in _AMOUNT.findall(line):
            packets += int(packet_count)
            reply = int(byte_count)  # the second is the reply's
            total += reply
    identifier = line[at + 4 :].split(None, 1)[0]
    return FlowEvent(kind or "", identifier, source, destination, int(protocol), selector, packets, total, reply)


class Judge:
    """Which statements of a rule set let a flow in, remembered by (source, destination, protocol, selector)."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self.memberships = Memberships(rule_set)
        self._ends: dict[str, Lineage] = {}
        self._decided: dict[tuple[str, str, int, int], tuple[StatementId, ...]] = {}

    def statements(self, event: FlowEvent) -> tuple[StatementId, ...]:
        """None, if the rules do not let it pass, or are not asked about it."""
        source, destination = self.end(event.source), self.end(event.destination)
        if not source or not destination:
            return _NOTHING
        key = (source[0].name, destination[0].name, event.protocol, event.selector)
        found = self._decided.get(key)
        if found is None:
            if len(self._decided) >= CACHE_MAX:
                self._decided.clear()
            verdict = evaluate(
                self.rule_set, packet_of(event.source, event.destination, event.protocol, event.selector)
            )
            found = self._decided[key] = verdict.statements if verdict.allowed else _NOTHING
        return found

    def end(self, address: str) -> Lineage:
        """What stands at an address."""
        found = self._ends.get(address)
        if found is None:
            if len(self._ends) >= CACHE_MAX:
                self._ends.clear()
            found = self._ends[address] = self.rule_set.whereabouts.at(ip_address(address))
        return found


def packet_of(source: str, destination: str, protocol: int, selector: int) -> Packet:
    """The packet that a flow begins with."""
    ends = ip_address(source), ip_address(destination)
    if protocol == _ICMP:
        return Packet(*ends, protocol, icmp_type=selector // 256, icmp_code=selector % 256)
    return Packet(*ends, protocol, port=selector or None)


@dataclass(slots=True)
class _Count:
    flows: int
    packets: int
    bytes: int
    last_used: datetime


class StatementCounters:
    """Counts for each statement and day (UTC), until they are taken. For one thread at a time."""

    def __init__(self, *, flows_max: int = FLOWS_MAX) -> None:
        self._flows_max = flows_max
        self._judges: tuple[Judge, ...] = ()
        self._open: dict[str, tuple[StatementId, ...]] = {}
        self._counted: set[str] = set()
        self._counts: dict[tuple[str, date], _Count] = {}
        self._touched_at: datetime | None = None
        #: The same by site and group.
        self.memberships = MembershipCounters()

    def use(self, rule_set: RuleSet) -> None:
        """What decides from now on. The one before is kept for flows that it let in and are told of late."""
        if self._judges and self._judges[0].rule_set.fingerprint == rule_set.fingerprint:
            return
        self._judges = (Judge(rule_set), *self._judges[:1])

    @property
    def remembered(self) -> int:
        """Open flows whose statements are known."""
        return len(self._open)

    def count(self, event: FlowEvent, now: datetime) -> None:
        """A flow began or ended."""
        if event.kind == "NEW":
            if event.identifier in self._counted:
                self._counted.discard(event.identifier)  # the listing was faster
                return
            self._begin(event, now)
            return
        self._counted.discard(event.identifier)
        statements = self._open.pop(event.identifier, None) or self._statements(event)
        for one in statements:
            count = self._count(one, now)
            count.packets += event.packets
            count.bytes += event.bytes
        if statements:
            judge, back = self._judges[0], event.reply_bytes
            there = event.bytes - back
            ends = End(judge.end(event.source), there, back), End(judge.end(event.destination), back, there)
            self.memberships.count(judge.memberships, statements, *ends)

    def hold_against(self, listed: Iterable[FlowEvent], now: datetime, *, count: bool) -> None:
        """After events were lost: what is open. Flows not heard of before are counted if ``count``; at the start of a
        process they are not, because the process before has counted them.
        """
        open_now = {event.identifier: event for event in listed}
        for identifier in self._open.keys() - open_now.keys():
            del self._open[identifier]
        self._counted &= open_now.keys()
        for identifier, event in open_now.items():
            if identifier in self._open:
                continue
            if count:
                self._counted.add(identifier)
                self._begin(event, now)
            else:
                self._remember(event, self._statements(event))

    def take(self, now: datetime) -> tuple[StatementUse, ...]:
        """What was counted since the last time."""
        if self._touched_at is None or (now - self._touched_at).total_seconds() >= TOUCH_S:
            self._touched_at = now
            for one in {statement for statements in self._open.values() for statement in statements}:
                self._count(one, now).last_used = now
        taken = tuple(
            StatementUse(statement, day, one.flows, one.packets, one.bytes, one.last_used)
            for (statement, day), one in self._counts.items()
        )
        self._counts = {}
        return taken

    def give_back(self, uses: Iterable[StatementUse]) -> None:
        """What was taken and could not be told."""
        for use in uses:
            count = self._counts.setdefault((use.statement, use.day), _Count(0, 0, 0, use.last_used))
            count.flows += use.flows
            count.packets += use.packets
            count.bytes += use.bytes
            count.last_used = max(count.last_used, use.last_used)

    def _begin(self, event: FlowEvent, now: datetime) -> None:
        statements = self._statements(event)
        self._remember(event, statements)
        for one in statements:
            count = self._count(one, now)
            count.flows += 1
            count.last_used = now

    def _remember(self, event: FlowEvent, statements: tuple[StatementId, ...]) -> None:
        if not statements:
            return
        if len(self._open) >= self._flows_max:
            del self._open[next(iter(self._open))]  # the oldest; its end is judged by the rules of that time
        self._open[event.identifier] = statements

    def _statements(self, event: FlowEvent) -> tuple[StatementId, ...]:
        for judge in self._judges:
            if statements := judge.statements(event):
                return statements
        return _NOTHING

    def _count(self, statement: str, now: datetime) -> _Count:
        key = (statement, now.astimezone(UTC).date())
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = _Count(0, 0, 0, now)
        return found
