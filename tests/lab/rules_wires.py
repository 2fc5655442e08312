"""Three namespaces for probing rules with real packets. Assumes the box.

``rk-sites`` stands for all sites, ``rk-servers`` for the cloud servers, ``rk-gateway`` lies between them with
interfaces named as the product names them. Receivers see whether a packet arrived, so replies and their own fate do
not blur the answer.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.skeleton import Doors
from linux.netfilter import Netfilter
from linux.readback import ReadBack
from linux.runner import SubprocessRunner
from rules.compile import RuleSet
from rules.evaluate import evaluate
from rules.model import Packet, Protocol, Service
from rules.render import Sides
from tests.property.rules_interpreter import Kernel

SIDES = Sides("ipsec0", "lan0")
RUNNER = SubprocessRunner(["ip", "netns", "exec", "rk-gateway"])
NETFILTER = Netfilter(RUNNER)
INTERFACES = {"rk-sites": "ipsec0", "rk-servers": "lan0"}


def ports(*numbers: int) -> tuple[Service, ...]:
    """TCP services of these ports."""
    return tuple(Service(Protocol.TCP, number, number) for number in numbers)


def enforcement() -> Enforcement:
    """The product's own, on the gateway's kernel, with the skeleton in place."""
    found = Enforcement(NETFILTER, Doors(ip_address("10.255.255.1"), "lan0", "wan0", (25,), (25,), ()))
    found.hold()
    return found


#: Sends the probes of standard input, one raw IPv4 packet each, so that any source can be claimed.
SENDER = """
import json, socket, struct, sys
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 65535) + (total >> 16)
    return ~total & 65535
def body(protocol, selector, number, source, destination):
    mark = struct.pack("!I", number)
    if protocol == 1:
        head = struct.pack("!BBHHH", selector // 256, selector % 256, 0, 1, 1) + mark
        return head[:2] + struct.pack("!H", checksum(head)) + head[4:]
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination)
    if protocol == 17:
        head = struct.pack("!HHHH", 40000, selector, 12, 0) + mark
        total = checksum(pseudo + struct.pack("!BBH", 0, 17, 12) + head)
        return head[:6] + struct.pack("!H", total) + head[8:]
    if protocol == 6:
        head = struct.pack("!HHIIBBHHH", 40000, selector, number, 0, 5 << 4, 2, 1024, 0, 0)
        total = checksum(pseudo + struct.pack("!BBH", 0, 6, 20) + head)
        return head[:16] + struct.pack("!H", total) + head[18:]
    return bytes(4) + mark
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for number, source, destination, protocol, selector in json.load(sys.stdin):
    payload = body(protocol, selector, number, source, destination)
    header = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(payload), 0, 0, 64, protocol, 0,
                         socket.inet_aton(source), socket.inet_aton(destination))
    raw.sendto(header + payload, (destination, 0))
"""
#: Prints the number of each probe that comes in on the interface, until standard input closes.
LISTENER = """
import select, socket, struct, sys
taps = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
taps.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
taps.bind((sys.argv[1], 0x0800))
print("ready", flush=True)
seen, ending = [], False
while True:
    ready, _, _ = select.select([taps] if ending else [taps, sys.stdin], [], [], 0.2 if ending else None)
    if taps in ready:
        data, (_, _, kind, _, _) = taps.recvfrom(2048)
        if kind != socket.PACKET_OUTGOING:
            at = {1: 28, 17: 28, 6: 24, 47: 24}[data[9]]
            seen.append(struct.unpack("!I", data[at:at + 4])[0])
    elif ending:
        break
    else:
        ending = not sys.stdin.read()
print(" ".join(map(str, seen)))
"""


@dataclass(frozen=True)
class Probe:
    """A packet and the side it is put on the wire."""

    side: str
    packet: Packet


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextlib.contextmanager
def wires() -> Iterator[None]:
    """rk-sites -- ipsec0 [rk-gateway] lan0 -- rk-servers. The outer two own no probed address, so nothing answers."""
    names = ("rk-sites", "rk-gateway", "rk-servers")
    try:
        for name in names:
            run("ip", "netns", "add", name)
            for key in ("all.rp_filter", "default.rp_filter", "all.send_redirects", "default.send_redirects"):
                run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.conf.{key}=0")
            run("ip", "-n", name, "link", "set", "lo", "up")
        for side, interface, net in (("rk-sites", "ipsec0", "169.254.1"), ("rk-servers", "lan0", "169.254.2")):
            run(
                *("ip", "-n", "rk-gateway", "link", "add", interface, "type", "veth"),
                *("peer", "name", "wire0", "netns", side),
            )
            for place, link, host in (("rk-gateway", interface, 1), (side, "wire0", 2)):
                run("ip", "-n", place, "addr", "add", f"{net}.{host}/24", "dev", link)
                run("ip", "-n", place, "link", "set", link, "up")
            run("ip", "-n", side, "route", "add", "default", "via", f"{net}.1")
        run("ip", "-n", "rk-gateway", "route", "add", "default", "via", "169.254.1.2")
        run("ip", "-n", "rk-gateway", "route", "add", "10.200.0.0/24", "via", "169.254.2.2")
        run("ip", "netns", "exec", "rk-gateway", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def arrivals(probes: Sequence[Probe]) -> dict[str, set[int]]:
    """Send all probes; the numbers of those that came out at each side."""
    sides = ("rk-sites", "rk-servers")
    listeners = {
        side: subprocess.Popen(
            ["ip", "netns", "exec", side, sys.executable, "-c", LISTENER, "wire0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in sides
    }
    arrived = {}
    try:
        for listener in listeners.values():
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
        for side in sides:
            chosen = [
                (number, str(p.packet.source), str(p.packet.destination), p.packet.protocol, p.packet.selector)
                for number, p in enumerate(probes)
                if p.side == side
            ]
            argv = ["ip", "netns", "exec", side, sys.executable, "-c", SENDER]
            subprocess.run(argv, input=json.dumps(chosen), text=True, check=True)
    finally:
        for side, listener in listeners.items():
            output, _ = listener.communicate(timeout=30)
            arrived[side] = {int(number) for number in output.split()}
    return arrived


def expectations(rule_set: RuleSet, probes: Sequence[Probe]) -> list[bool]:
    """What the evaluator says of each probe. One from where its source does not live never passes."""
    return [probe.side == side_of(probe.packet.source) and evaluate(rule_set, probe.packet).allowed for probe in probes]


def side_of(address: object) -> str:
    """Where the address lives."""
    return "rk-servers" if str(address).startswith("10.200.") else "rk-sites"


def disagreements(probes: Sequence[Probe], expected: Sequence[bool]) -> list[str]:
    """Probes whose fate in the kernel is not the expected one, or that came out where they do not belong."""
    run("ip", "netns", "exec", "rk-gateway", "conntrack", "-F")
    arrived = arrivals(probes)
    found = []
    for number, (probe, passes) in enumerate(zip(probes, expected, strict=True)):
        target = side_of(probe.packet.destination)
        other = "rk-sites" if target == "rk-servers" else "rk-servers"
        if (number in arrived[target]) != passes or number in arrived[other]:
            found.append(f"{probe}: the evaluator says {passes}")
    return found


def walk(kernel: Kernel, probe: Probe) -> bool:
    """Whether the probe passes, by walking it through the words of the kernel."""
    packet = probe.packet
    return kernel.accepts(
        "KY-POLICY",
        *(INTERFACES[probe.side], INTERFACES[side_of(packet.destination)]),
        *(str(packet.source), str(packet.destination)),
        *(packet.protocol, packet.selector),
    )


def walked_disagreements(kernel: Kernel, probes: Sequence[Probe], expected: Sequence[bool]) -> Iterator[str]:
    """The same by walking; portless protocols are left to real packets."""
    for probe, passes in zip(probes, expected, strict=True):
        if probe.packet.protocol in (1, 6, 17) and walk(kernel, probe) != passes:
            yield f"{probe}: the evaluator says {passes}, walking through what was read back does not"


def read_back_kernel(found: ReadBack) -> Kernel:
    """What was read back, ready for walking."""
    rules = found.tables["mangle"].rules
    heads = [f":{chain} - [0:0]" for chain in rules]
    lines = [f"-A {chain} {rule}" for chain, own in rules.items() for rule in own]
    return Kernel.read(found.sets, "\n".join(["*mangle", *heads, *lines, "COMMIT"]))


def put(sets: str, chains: str, top: str) -> None:
    """Put text in force by hand, in place of whatever is. Raises LinuxError: the kernel does not take it."""
    enforcement().close()
    NETFILTER.restore_sets(sets)
    NETFILTER.restore_rules(chains.removesuffix("COMMIT\n") + f":KY-POLICY - [0:0]\n-A KY-POLICY -g {top}\nCOMMIT\n")
