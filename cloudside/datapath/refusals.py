"""Who was refused, and why. Pure.

The kernel keeps the last refused (source, service, destination) in a set with a timeout, which costs packets that pass
nothing. The set says who and what; why is read from the rule set.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from cloudside.datapath.accounting import packet_of
from cloudside.errors import Parameter
from cloudside.registry.counted import Refused
from rules.compile import RuleSet
from rules.evaluate import Lineage, evaluate
from rules.model import Protocol, Service
from rules.services import shown

#: Refused triples: source, protocol and port, destination. Made by the skeleton.
REFUSED_SET = "kyoten-refused"
#: Seconds that a triple stays in the kernel after its last packet.
REFUSED_TIMEOUT_S = 600
#: As many triples as the kernel keeps; when there are more, new ones take the places of old ones.
REFUSED_MAX = 8192
#: Refused packets a second that leave a trace. When the set is full each one costs 13 us (measured), for the kernel
#: looks for entries that timed out; so a flood of refused packets costs 1-2 % of a core more, and no more.
REFUSED_PER_S = 1000

_ENTRY = re.compile(r"add (\S+) ([0-9.]+),([^:,]+):([^,]+),([0-9.]+) timeout (\d+)")
#: Names that ipset writes (/etc/protocols) where the protocol is not a number.
_PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "ospf": 89, "sctp": 132,
    "udplite": 136,
}  # fmt: skip
#: ICMP types of code 0 that ipset names; others begin no flow and are never refused by us.
_ICMP_NAMES = {"echo-request": 8 * 256, "timestamp-request": 13 * 256, "address-mask-request": 17 * 256}
#: A number that no protocol has (RFC 3692 2.1, experiments), for names that are not known here.
_UNNAMED = 254


class Triple(NamedTuple):
    """A refused source, service and destination."""

    source: str
    protocol: int
    selector: int
    destination: str


def parse_refused(text: str) -> dict[Triple, int]:
    """Read ``ipset save kyoten-refused``: seconds since the last packet of each triple."""
    found: dict[Triple, int] = {}
    for line in text.splitlines():
        match = _ENTRY.fullmatch(line.strip())
        if match is None or match[1] != REFUSED_SET:
            continue
        _, source, protocol, selector, destination, left_s = match.groups()
        number = int(protocol) if protocol.isdigit() else _PROTOCOLS.get(protocol, _UNNAMED)
        found[Triple(source, number, _selector(selector), destination)] = max(0, REFUSED_TIMEOUT_S - int(left_s))
    return found


def _selector(written: str) -> int:
    if written.isdigit():
        return int(written)
    kind, slash, code = written.partition("/")
    if slash and kind.isdigit() and code.isdigit():
        return int(kind) * 256 + int(code)
    return _ICMP_NAMES.get(written, 0)


def judged(rule_set: RuleSet, triples: Iterable[tuple[Triple, datetime]]) -> Iterator[Refused]:
    """Each triple with the reason that the rule set has for refusing it; those that are no tenant's are left out.

    A triple belongs to its source's tenant, or else its destination's, and tells of no other tenant more than its
    address.
    """
    at = rule_set.whereabouts.at
    for triple, last_seen in triples:
        packet = packet_of(triple.source, triple.destination, triple.protocol, triple.selector)
        source, destination = at(packet.source), at(packet.destination)
        tenant = _tenant(source) or _tenant(destination)
        if tenant is None:
            continue
        if _tenant(destination) not in (tenant, None):
            destination = ()
        verdict = evaluate(rule_set, packet)
        names = _name(source, triple.source), _name(destination, triple.destination)
        params: dict[str, Parameter] = {"source": names[0], "destination": names[1]}
        reason = "datapath.refused-would-pass"
        if source and not destination:
            reason, params = "rules.unknown-destination", {"address": triple.destination}
        elif verdict.reason is not None:
            reason, params = verdict.reason.key, dict(verdict.reason.params)
        yield Refused(
            tenant=tenant,
            source=names[0],
            source_address=triple.source,
            destination=names[1],
            destination_address=triple.destination,
            service=service_written(triple.protocol, triple.selector),
            reason=reason,
            params=params,
            statements=() if verdict.allowed else verdict.statements,
            last_seen=last_seen,
        )


def seen_at(now: datetime, ago_s: int) -> datetime:
    """When the last packet came."""
    return now - timedelta(seconds=ago_s)


def service_written(protocol: int, selector: int) -> str:
    """The service as a policy would write it; protocols that policies do not name as ``ip/47``."""
    if protocol in (Protocol.TCP, Protocol.UDP, Protocol.ICMP):
        return shown(Service(Protocol(protocol), selector, selector))
    return f"ip/{protocol}"


def _tenant(end: Lineage) -> str | None:
    return end[0].tenant if end else None


def _name(end: Lineage, address: str) -> str:
    return end[0].name if end else address
