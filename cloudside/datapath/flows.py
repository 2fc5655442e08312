"""Connection tracking: established flows pass first, so after a policy tightened, those it no longer allows must go.

A flow is judged by its original direction, as its first packet was. Flows of the gateway itself with sites (mail,
agents, remote work) are judged by who may talk to the gateway at all.
"""

import re
import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from cloudside.config import Address, Network
from linux.runner import Runner
from rules.compile import RuleSet
from rules.evaluate import evaluate
from rules.model import Packet

_FIELD = re.compile(r"(src|dst|sport|dport|type|code|id)=(\S+)")
_ICMP = 1
_PORTED = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked flow, in its original direction. ``identifier`` is ICMP's."""

    source: Address
    destination: Address
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int = 0
    identifier: int | None = None

    @property
    def first_packet(self) -> Packet:
        """The packet that opened it, as rules see it."""
        return Packet(
            self.source, self.destination, self.protocol, self.destination_port, self.icmp_type, self.icmp_code
        )


def parse_flows(text: str) -> list[Flow]:
    """Read ``conntrack -L -o extended``; lines in another form are passed over."""
    return [flow for line in text.splitlines() if (flow := _parse(line)) is not None]


def _parse(line: str) -> Flow | None:
    words = line.split()
    if len(words) < 4 or words[0] not in ("ipv4", "ipv6") or not words[3].isdigit():
        return None
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(line):
        if name in fields:
            if name == "src":
                break  # the reply's direction begins
            continue
        fields[name] = value
    try:
        return Flow(
            source=ip_address(fields["src"]),
            destination=ip_address(fields["dst"]),
            protocol=int(words[3]),
            source_port=_number(fields, "sport"),
            destination_port=_number(fields, "dport"),
            icmp_type=_number(fields, "type"),
            icmp_code=_number(fields, "code") or 0,
            identifier=_number(fields, "id"),
        )
    except (KeyError, ValueError):
        return None


def _number(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def outlived(
    flows: Iterable[Flow],
    rule_set: RuleSet,
    *,
    overlay: Network,
    own: Collection[Address],
    admitted: Callable[[Address], bool],
) -> list[Flow]:
    """The flows that would not be let in today.

    ``own`` are the gateway's addresses; ``admitted`` says whether an overlay address is a known site's or server's.
    Flows that do not touch the overlay (IKE, the smarthost) are none of the rules' business.
    """
    gone: list[Flow] = []
    for flow in flows:
        inside = [end for end in (flow.source, flow.destination) if end in overlay and end not in own]
        if not inside:
            continue
        if flow.source in own or flow.destination in own:
            allowed = all(admitted(end) for end in inside)
        else:
            allowed = evaluate(rule_set, flow.first_packet).allowed
        if not allowed:
            gone.append(flow)
    return gone


def deletion(flow: Flow) -> str:
    """The line for ``conntrack --load-file`` that ends exactly this flow."""
    words = [
        "-D",
        "-s",
        str(flow.source),
        "-d",
        str(flow.destination),
        "-p",
        _PORTED.get(flow.protocol, str(flow.protocol)),
    ]
    if flow.protocol == _ICMP and flow.icmp_type is not None:
        words[-1] = "icmp"
        words += ["--icmp-type", str(flow.icmp_type), "--icmp-code", str(flow.icmp_code)]
        words += ["--icmp-id", str(flow.identifier)] if flow.identifier is not None else []
    elif flow.source_port is not None and flow.destination_port is not None:
        words += ["--sport", str(flow.source_port), "--dport", str(flow.destination_port)]
    return " ".join(words)


class Flows:
    """The kernel's connection table. Methods raise LinuxError."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def list(self) -> list[Flow]:
        """All IPv4 flows."""
        return parse_flows(self._runner.run(["conntrack", "-L", "-f", "ipv4", "-o", "extended"], timeout_s=30).stdout)

    def end(self, flows: Iterable[Flow]) -> int:
        """End these flows; one that ended by itself meanwhile is fine. Returns how many were asked for."""
        lines = [deletion(flow) for flow in flows]
        if lines:
            with tempfile.NamedTemporaryFile("w", suffix=".conntrack") as file:
                file.write("\n".join([*lines, ""]))
                file.flush()
                self._runner.run(["conntrack", "--load-file", file.name], timeout_s=60, check=False)
        return len(lines)
