"""What the rules cost a packet, beside no rules at all and beside the same policy as one linear chain; and what a
stream that has nothing to do with a change loses by it.

Three gateways stand side by side, each with connection tracking: ``empty`` has no rule in filter and mangle, ``ours``
the product's, ``linear`` one FORWARD chain with ipset groups. The sender writes frames straight to its interface, so
one call carries a packet through the whole gateway on the same core before it returns: the time is the packet's.
"""

import ctypes
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from statistics import median

from cloudside.datapath.skeleton import Doors
from linux.netfilter import Netfilter
from linux.runner import SubprocessRunner
from rules.compile import RuleSet
from rules.evaluate import evaluate
from rules.model import Endpoint, Inventory, Packet, PolicySource, Service
from rules.services import BUILT_IN, merged, numeric

#: The product's names; the sender's side is a veth, the other end a dummy: who is there does not matter.
TUNNEL, CLOUD = "ipsec0", "lan0"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class Flow:
    """The first packet of a flow; the sender's port is varied."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    selector: int


class Frames:
    """Frames of flows that no gateway has seen, ready for one sendmmsg after the other."""

    def __init__(self, flows: Sequence[Flow], count: int, mac: bytes) -> None:
        self._buffers = [
            ctypes.create_string_buffer(_frame(flows[number % len(flows)], number, mac)) for number in range(count)
        ]
        self._vectors = (_IoVector * count)()
        self._messages = (_Message * count)()
        for number, buffer in enumerate(self._buffers):
            self._vectors[number].base = ctypes.addressof(buffer)
            self._vectors[number].length = len(buffer) - 1
            self._messages[number].vectors = ctypes.pointer(self._vectors[number])
            self._messages[number].vector_count = 1
        self.count = count

    def send(self, sender: socket.socket) -> float:
        """Send all; microseconds a packet."""
        size = ctypes.sizeof(_Message)
        begun = time.perf_counter()
        sent = 0
        while sent < self.count:
            done = _LIBC.sendmmsg(
                sender.fileno(),
                ctypes.c_void_p(ctypes.addressof(self._messages) + sent * size),
                min(1024, self.count - sent),
                0,
            )
            if done < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += done
        return (time.perf_counter() - begun) / self.count * 1e6


def _frame(flow: Flow, number: int, mac: bytes) -> bytes:
    port = 1024 + number % 60000
    if flow.protocol == 1:
        body = struct.pack("!BBHHHI", *divmod(flow.selector, 256), 0, port, 1, number)
        body = body[:2] + struct.pack("!H", _checksum(body)) + body[4:]
    elif flow.protocol == 17:
        body = struct.pack("!HHHHI", port, flow.selector, 12, 0, number)
    else:
        body = struct.pack("!HHIIBBHHH", port, flow.selector, number, 0, 5 << 4, 2, 1024, 0, 0)
        pseudo = flow.source.packed + flow.destination.packed + struct.pack("!BBH", 0, 6, len(body))
        body = body[:16] + struct.pack("!H", _checksum(pseudo + body)) + body[18:]
    head = struct.pack("!BBHHHBBH", 69, 0, 20 + len(body), 0, 0, 64, flow.protocol, 0)
    head += flow.source.packed + flow.destination.packed
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return mac + b"\x02\0\0\0\0\x09\x08\0" + head + body


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 65535) + (total >> 16)
    return ~total & 65535


class Gateway:
    """One gateway and the two places that send to it."""

    def __init__(self, name: str) -> None:
        self.namespace = f"rp-{name}"
        self.runner = SubprocessRunner(["ip", "netns", "exec", self.namespace])
        self.netfilter = Netfilter(self.runner)
        run = SubprocessRunner().run
        run(["ip", "netns", "add", self.namespace])
        for key in ("all.rp_filter", "default.rp_filter", "all.send_redirects", "default.send_redirects"):
            self.runner.run(["sysctl", "-qw", f"net.ipv4.conf.{key}=0"])
        self.runner.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        # What the gateway sends out is counted: no word of its own among it.
        self.runner.run(["sysctl", "-qew", "net.ipv6.conf.default.disable_ipv6=1"])
        self.sides: dict[str, str] = {}
        self.senders: dict[str, tuple[socket.socket, bytes]] = {}
        for interface, net in ((TUNNEL, "169.254.1"), (CLOUD, "169.254.2")):
            side = f"{self.namespace}-{interface}"
            run(["ip", "netns", "add", side])
            link = ["ip", "-n", self.namespace, "link"]
            run([*link, "add", interface, "type", "veth", "peer", "name", "wire0", "netns", side])
            run(["ip", "-n", side, "link", "set", "wire0", "up"])
            run([*link, "set", interface, "up"])
            run(["ip", "-n", self.namespace, "addr", "add", f"{net}.1/24", "dev", interface])
            # The next hop is known and is not the other end, which drops what comes at its door.
            neighbour = ["ip", "-n", self.namespace, "neigh", "add", f"{net}.2", "lladdr", "02:00:00:00:00:77"]
            run([*neighbour, "dev", interface, "nud", "permanent"])
            self.runner.run(
                ["ip", "route", "add", "default" if interface == TUNNEL else "172.16.0.0/12", "via", f"{net}.2"]
            )
            mac = self.runner.run(["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()
            with _inside(side):
                sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                sender.bind(("wire0", 0))
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
            self.sides[interface] = side
            self.senders[interface] = (sender, bytes.fromhex(mac.replace(":", "")))
        # Connection tracking works as soon as some rule somewhere asks for it; this one is never come to.
        self.netfilter.restore_rules("*raw\n:asks - [0:0]\n-A asks -m conntrack --ctstate NEW\nCOMMIT\n")

    def policy(self, verdict: str) -> None:
        """What happens at the end of FORWARD."""
        self.netfilter.restore_rules(f"*filter\n:FORWARD {verdict} [0:0]\nCOMMIT\n")

    def forget_flows(self) -> None:
        self.runner.run(["conntrack", "-F"])

    def sent_out(self, interface: str) -> int:
        """Packets that the gateway has sent out of the interface."""
        path = f"/sys/class/net/{interface}/statistics/tx_packets"
        return int(self.runner.run(["cat", path]).stdout)

    def close(self) -> None:
        for interface, (sender, _) in self.senders.items():
            sender.close()
            SubprocessRunner().run(["ip", "netns", "del", f"{self.namespace}-{interface}"], check=False)
        SubprocessRunner().run(["ip", "netns", "del", self.namespace], check=False)


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread in another network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if _LIBC.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        _LIBC.setns(home, _CLONE_NEWNET)
        os.close(home)
        os.close(there)


def doors() -> Doors:
    return Doors(ip_address("10.255.255.1"), CLOUD, "wan0", (25,), (25,), ())


def linear_text(inventory: Inventory, sources: Sequence[PolicySource]) -> tuple[str, str]:
    """The same statements as a person would write them: a set for each group, one rule after the other, the cheapest
    match first. For policies of the bench's world: groups, allows, one service each. (sets, rules)
    """
    network = {site.name: str(site.prefix) for site in inventory.sites}
    network |= {f"{one.site}/{one.name}": str(one.address) for one in inventory.devices}
    network |= {one.name: str(one.address) for one in inventory.servers}
    sets: list[str] = []
    rules = ["*filter", ":FORWARD DROP [0:0]", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    for source in sources:
        for line in source.text.splitlines():
            if line.startswith("  g"):
                group, members = line.strip().rstrip("]").split(": [")
                sets.append(f"create {source.tenant}-{group} hash:net maxelem 100000\n")
                sets += [f"add {source.tenant}-{group} {network[one]}\n" for one in members.split(", ")]
            elif line.startswith("  - {name: n"):
                words = dict(word.split(": ") for word in line.strip(" -{}").split(", "))
                target = words["to"]
                end = f"-d {network[target]}" if target in network else ""
                ends = f"-m set --match-set {source.tenant}-{words['from']} src"
                ends += "" if end else f" -m set --match-set {source.tenant}-{target} dst"
                for service in _services(words["services"]):
                    match = _linear_match(service)
                    rules.append(" ".join(filter(None, ["-A FORWARD", end, match, ends, "-j ACCEPT"])))
    return "".join(sets), "\n".join([*rules, "COMMIT", ""])


def _services(name: str) -> Sequence[Service]:
    found = numeric(name) if name not in BUILT_IN else None
    return [one for one in (merged(BUILT_IN[name]) if found is None else [found]) if one.protocol != 58]


def _linear_match(service: Service) -> str:
    if service.protocol == 1:
        return f"-p icmp -m icmp --icmp-type {service.low // 256}"
    if service.protocol in (6, 17):
        protocol = {6: "tcp", 17: "udp"}[int(service.protocol)]
        return f"-p {protocol} -m {protocol} --dport {service.low}:{service.high}"
    return ""


# -- classes of packets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PacketClass:
    """Flows of one kind. ``side``: the interface that they come in by. ``granted``: their fate in the rules."""

    name: str
    side: str
    flows: tuple[Flow, ...]
    granted: bool


def packet_classes(rule_set: RuleSet, words: Callable[[str], int], *, pairs: int = 64) -> list[PacketClass]:
    """Kinds of packets that go different ways through the rules. ``words``: how many words a tenant's grants have."""
    chance = random.Random(8)
    largest = max(rule_set.domains, key=words)
    some = [name for name in rule_set.domains if words(name) == 1] or [largest]
    found = [
        ("granted, a tenant of one word", TUNNEL, some, True, "site"),
        ("granted, any tenant", TUNNEL, [*rule_set.domains], True, "site"),
        ("dropped, any tenant", TUNNEL, [*rule_set.domains], False, "site"),
        ("granted, the largest tenant", TUNNEL, [largest], True, "site"),
        ("dropped, the largest tenant", TUNNEL, [largest], False, "site"),
        ("site to server, the largest tenant", TUNNEL, [largest], True, "server"),
        ("site to server, dropped", TUNNEL, [largest], False, "server"),
    ]
    classes = []
    for name, side, tenants, granted, target in found:
        flows = _flows(chance, rule_set, tenants, granted=granted, to_server=target == "server", count=pairs)
        classes.append(PacketClass(name, side, tuple(flows), granted))
    last = _last_word(chance, rule_set, largest, pairs)
    if last:
        classes.append(PacketClass("granted in the last word of the largest tenant", TUNNEL, tuple(last), True))
    back = _flows(chance, rule_set, [largest], granted=False, to_server=True, count=pairs)
    turned = tuple(Flow(one.destination, one.source, one.protocol, one.selector) for one in back)
    classes.append(PacketClass("server to site, dropped", CLOUD, turned, False))
    return [one for one in classes if one.flows]


def _flows(
    chance: random.Random, rule_set: RuleSet, tenants: Sequence[str], *, granted: bool, to_server: bool, count: int
) -> list[Flow]:
    """Random flows with that fate."""
    found: list[Flow] = []
    servers = [*rule_set.shared.values()]
    services = ((6, 443), (17, 47808), (6, 502), (6, 22), (1, 2048), (17, 161), (6, 8001), (6, 4840))
    for _ in range(400 * count):
        if len(found) == count:
            break
        domain = rule_set.domains[chance.choice(list(tenants))]
        sites = _sites(domain.endpoints.values())
        source, target = chance.choice(sites), chance.choice(servers if to_server else sites)
        flow = Flow(_host(source), _host(target), *chance.choice(services))
        if source is not target and _passes(rule_set, flow) == granted:
            found.append(flow)
    return found


def _last_word(chance: random.Random, rule_set: RuleSet, tenant: str, count: int) -> list[Flow]:
    """Flows that only the last blocks of the tenant grant: everything before is looked at."""
    domain = rule_set.domains[tenant]
    last = [block for block in domain.rules.blocks if block.grants][-20:]
    before = {block.digest for block in domain.rules.blocks} - {block.digest for block in last}
    found: list[Flow] = []
    for _ in range(200 * count):
        if len(found) == count:
            break
        block = chance.choice(last)
        clause = chance.choice(block.grants)
        source = domain.endpoints.get(chance.choice(sorted(block.sources)))
        target = rule_set.endpoints.get(chance.choice(sorted(clause.destinations)))
        service = clause.services[0]
        if source is None or target is None or service.protocol not in (1, 6, 17) or target.tenant is None:
            continue
        flow = Flow(_host(source), _host(target), int(service.protocol), service.low)
        names = {target.name, target.site}
        earlier = any(
            names & clause.destinations and any(part.covers(flow.protocol, flow.selector) for part in clause.services)
            for other in domain.rules.of([source.name])
            if other.digest in before
            for clause in other.grants
        )
        if not earlier and _passes(rule_set, flow):
            found.append(flow)
    return found


def _sites(known: Sequence[Endpoint] | object) -> list[Endpoint]:
    return [one for one in known if one.kind.value == "site"]  # type: ignore[attr-defined]


def _host(one: Endpoint) -> IPv4Address:
    network = one.network
    found = network[0] if network.num_addresses == 1 else network[2]
    assert isinstance(found, IPv4Address)
    return found


def _passes(rule_set: RuleSet, flow: Flow) -> bool:
    if flow.protocol == 1:
        packet = Packet(flow.source, flow.destination, 1, None, *divmod(flow.selector, 256))
    else:
        packet = Packet(flow.source, flow.destination, flow.protocol, flow.selector)
    return evaluate(rule_set, packet).allowed


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Microseconds a packet in each gateway: the best and the median of the rounds."""

    best: Mapping[str, float]
    middle: Mapping[str, float]

    def over_empty(self, name: str) -> tuple[float, float]:
        """Best, median."""
        return self.best[name] - self.best["empty"], self.middle[name] - self.middle["empty"]


def measure(
    gateways: Mapping[str, Gateway],
    one: PacketClass,
    *,
    count: int,
    linear_count: int,
    rounds: int,
    linear_rounds: int,
) -> Cost:
    """Interleaved rounds. The empty gateway's last word is the fate that the class has, so the rest costs the same.

    Raises RuntimeError: packets did not meet the fate that the rules have for them.
    """
    gateways["empty"].policy("ACCEPT" if one.granted else "DROP")
    frames = {
        name: Frames(one.flows, linear_count if name == "linear" else count, gateway.senders[one.side][1])
        for name, gateway in gateways.items()
    }
    times: dict[str, list[float]] = {name: [] for name in gateways}
    for turn in range(rounds + 1):
        for name, gateway in gateways.items():
            if name == "linear" and turn > linear_rounds:
                continue
            before = gateway.sent_out(TUNNEL) + gateway.sent_out(CLOUD)
            spent = frames[name].send(gateway.senders[one.side][0])
            passed = gateway.sent_out(TUNNEL) + gateway.sent_out(CLOUD) - before
            gateway.forget_flows()
            if passed != (frames[name].count if one.granted else 0):
                raise RuntimeError(f"{one.name}: {passed} of {frames[name].count} passed the gateway {name}")
            if turn:  # the first round warms up
                times[name].append(spent)
    return Cost(
        {name: min(found) for name, found in times.items()}, {name: median(found) for name, found in times.items()}
    )


# -- loss -------------------------------------------------------------------------------------------------------------


#: So many packets a second, half of them of one flow, half the first of a flow each.
STREAM_RATE = 3000


@dataclass(frozen=True)
class Loss:
    """Of so many packets sent in so many seconds, how many the gateway did not send out."""

    sent: int
    seconds: float
    lost: int


def loss_during(gateway: Gateway, flow: Flow, changes: Callable[[], None]) -> Loss:
    """A stream from a site to a server while the changes are made. The flow must be UDP and granted."""
    gateway.forget_flows()
    before = gateway.sent_out(CLOUD)
    argv = ["ip", "netns", "exec", gateway.sides[TUNNEL], sys.executable, "-m", "tests.bench.rules_packets"]
    argv += [str(flow.source), str(flow.destination), str(flow.selector), gateway.senders[TUNNEL][1].hex()]
    stream = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert stream.stdout is not None
        assert stream.stdout.readline() == "ready\n"
        changes()
    finally:
        output, _ = stream.communicate()
    sent, seconds = output.split()
    return Loss(int(sent), float(seconds), int(sent) - (gateway.sent_out(CLOUD) - before))


def _stream(source: str, destination: str, port: str, mac: str) -> None:
    """Send until standard input closes; print how many, and for how many seconds."""
    flow = Flow(IPv4Address(source), IPv4Address(destination), 17, int(port))
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("wire0", 0))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    begun, number = time.monotonic(), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        due = int((time.monotonic() - begun) * STREAM_RATE)
        for one in range(number, due):
            sender.send(_frame(flow, 1 + one // 2 % 59_999 if one % 2 else 0, bytes.fromhex(mac)))
        number = max(number, due)
        time.sleep(0.0003)
    sys.stdout.write(f"{number} {time.monotonic() - begun}\n")


if __name__ == "__main__":
    _stream(*sys.argv[1:])
