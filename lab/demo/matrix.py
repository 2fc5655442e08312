"""Every pair of hosts, every probed service: what the rules say, and what packets do.

The evaluator's answer comes from the policy in the registry, through the same compiler the gateway uses; the packet's
answer from real probes. Hosts of one LAN talk over their switch without the gateway: they are expected to reach each
other there.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address

from rich.table import Table

from cloudside.registry.inventory import load, policy_sources
from lab.network import Host
from lab.probes import Probe, Target, run, start_responder
from lab.world import World
from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Packet, Protocol
from rules.parse import parse_stored

#: What every host answers and every pair is probed for: some allowed somewhere, some nowhere.
TCP_PORTS = (80, 502, 5432)
UDP_PORTS = (47808, 9999)
ECHO_REQUEST = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A host of the matrix: where it is found by others, and on its own LAN."""

    name: str
    host: Host
    overlay: IPv4Address
    lan: IPv4Address
    #: Site or "cloud": hosts of one place reach each other without the gateway.
    place: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One probe: what the rules say, and whether an answer came back."""

    source: str
    destination: str
    service: str
    expected: bool
    passed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the matrix found."""

    answers: tuple[Answer, ...]

    @property
    def probes(self) -> int:
        """How many probes were sent."""
        return len(self.answers)

    @property
    def allowed(self) -> int:
        """How many of them the rules allow."""
        return sum(answer.expected for answer in self.answers)

    @property
    def disagreements(self) -> tuple[Answer, ...]:
        """Packets that did not do what the rules say."""
        return tuple(answer for answer in self.answers if answer.expected != answer.passed)


def table(outcome: Outcome) -> Table:
    """The matrix for people: in each cell what passed, a letter a service; in red what the rules say otherwise."""
    services = [name for name, _, _ in _services()]
    letters = dict(zip(services, string.ascii_lowercase, strict=False))
    names = list(dict.fromkeys(answer.source for answer in outcome.answers))
    cells: dict[tuple[str, str], str] = {}
    for answer in outcome.answers:
        mark = letters[answer.service] if answer.passed else "·"
        wrong = answer.expected != answer.passed
        cells.setdefault((answer.source, answer.destination), "")
        cells[answer.source, answer.destination] += f"[bold red]{mark}[/]" if wrong else mark
    legend = ", ".join(f"{letter} {service}" for service, letter in letters.items())
    shown = Table(title=f"Who reached whom ({legend}, · blocked)", title_justify="left", pad_edge=False)
    shown.add_column("from \\ to")
    for name in names:
        shown.add_column(name, no_wrap=True)
    for source in names:
        shown.add_row(source, *(cells.get((source, destination), "") for destination in names))
    return shown


def members(world: World) -> list[Member]:
    """Every controller and every cloud server."""
    found = [
        Member(
            f"{site.plan.name}/{device}",
            host,
            site.plan.overlay_address(device),
            site.plan.controllers[device],
            site.plan.name,
        )
        for site in world.ground.sites.values()
        for device, host in site.controllers.items()
    ]
    for name, host in world.ground.servers.items():
        address = world.plan.servers[name][1]
        found.append(Member(name, host, address, address, "cloud"))
    return found


def start_responders(world: World) -> None:
    """Let every member answer on the probed ports."""
    for member in members(world):
        start_responder(member.host, tcp=TCP_PORTS, udp=UDP_PORTS)


def rule_set(world: World) -> RuleSet:
    """The rules as the registry states them now."""
    with world.reading() as session:
        inventory = load(session)
        sources = policy_sources(session)
    policy, _problems = parse_stored(sources, inventory)  # as the gateway reads it: a revoked site is no mistake
    return compile_policy(policy, inventory, at=datetime.now(UTC))


def _services() -> Iterator[tuple[str, str, int]]:
    yield from ((f"tcp/{port}", "tcp", port) for port in TCP_PORTS)
    yield from ((f"udp/{port}", "udp", port) for port in UDP_PORTS)
    yield "ping", "icmp", 0


def compare(world: World) -> Outcome:
    """Probe every ordered pair on every service and hold the answers against the evaluator's."""
    rules = rule_set(world)
    everyone = members(world)
    asked: list[tuple[str, str, str, bool]] = []
    probes: list[Probe] = []
    for source in everyone:
        for destination in everyone:
            if source is destination:
                continue
            neighbours = source.place == destination.place
            target = destination.lan if neighbours else destination.overlay
            for service, protocol, port in _services():
                packet = packet_of(source.overlay, destination.overlay, protocol, port)
                expected = neighbours or evaluate(rules, packet).allowed
                asked.append((source.name, destination.name, service, expected))
                probes.append(Probe(source.host, Target(str(target), protocol, port)))
    answers = run(probes)
    return Outcome(tuple(Answer(*question, passed) for question, passed in zip(asked, answers, strict=True)))


def packet_of(source: IPv4Address, destination: IPv4Address, protocol: str, port: int) -> Packet:
    """The first packet of a new flow."""
    if protocol == "icmp":
        return Packet(source, destination, Protocol.ICMP, icmp_type=ECHO_REQUEST)
    return Packet(source, destination, Protocol[protocol.upper()], port=port)
