"""The rendered rules on the real kernel: every probe's fate must be what the evaluator says. Assumes the box.

Three namespaces: ``sites`` stands for all sites, ``servers`` for the cloud servers, ``gateway`` lies between them with
interfaces named as the product names them and carries nothing but the skeleton and the rendered rules.
Receivers see whether a packet arrived, so replies and their own fate do not blur the answer.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from linux.netfilter import Netfilter
from linux.runner import SubprocessRunner
from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Device, Inventory, Packet, PlatformSource, PolicySource, Protocol, Server, Site
from rules.parse import parse
from rules.render import render

TCP, UDP, ICMP, GRE = int(Protocol.TCP), int(Protocol.UDP), int(Protocol.ICMP), 47

INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16"), "zeta": ip_network("10.20.0.0/16")},
    sites=(
        *(Site(f"acme-{n}", "acme", ip_network(f"10.10.{n}.0/24")) for n in range(1, 13)),
        Site("acme-half", "acme", ip_network("10.10.128.128/25")),
        Site("zeta-1", "zeta", ip_network("10.20.0.0/20")),
        Site("zeta-2", "zeta", ip_network("10.20.16.0/28")),
    ),
    devices=(
        Device("acme-1", "plc", ip_address("10.10.1.20")),
        Device("acme-2", "plc", ip_address("10.10.2.20")),
        Device("acme-2", "panel", ip_address("10.10.2.21")),
        Device("acme-10", "plc", ip_address("10.10.10.77")),
        Device("zeta-1", "meter", ip_address("10.20.15.254")),
    ),
    servers=(
        Server("web", None, ip_address("10.200.0.10")),
        Server("db", "acme", ip_address("10.200.0.11")),
        Server("vault", "zeta", ip_address("10.200.0.12")),
    ),
)
ACME = """
tenant: acme
groups:
  plant: [acme-1, acme-2/plc, acme-3]
  everyone: [acme-1, acme-2, acme-3, acme-4, acme-5, acme-6, acme-7, acme-8, acme-9, acme-10, acme-11, acme-half]
  vault: {members: [acme-8, acme-9, acme-10/plc, db], inside: everyone}
  safe: {members: [acme-9], inside: vault}
allow:
  - {name: mesh, from: plant, to: plant, services: [bacnet-ip, icmp/8], both: true}
  - {name: inner, from: everyone, to: [everyone, acme-9], services: [opc-ua, ping]}
  - {name: web, from: everyone, to: web, services: [https, tcp/8000-8040, icmp/255]}
  - {name: panel, from: acme-2/panel, to: [acme-half, db], services: any}
  - {name: service, from: db, to: everyone, services: [ssh, icmp/13/0]}
  - {name: to-device, from: acme-4, to: acme-1/plc, services: [modbus-tcp, udp]}
deny:
  - {name: quiet, from: everyone, to: acme-2/plc, services: icmp/8/1}
  - {name: locked, from: [acme-2/panel, acme-6], to: web, services: [tcp/8000-8020, https]}
  - {name: only-devices, from: acme-1/plc, to: [acme-3, web], services: [icmp/8/0, tcp/1-8039]}
"""
ZETA = """
tenant: zeta
allow:
  - {from: zeta-1, to: [vault, web], services: [tcp, icmp]}
  - {from: [web, vault], to: zeta-1/meter, services: [opc-ua, ping]}
  - {from: zeta-2, to: zeta-1, services: udp/1-1024}
deny:
  - {from: zeta-1, to: web, services: [tcp/1-400, icmp/8/0]}
  - {from: zeta-2, to: zeta-1/meter, services: any}
"""
PLATFORM = """
forbidden: [tcp/8020, icmp/42, udp/1025-2000]
servers:
  web: {offers: [https, tcp/8000-8040, tcp/21, icmp], opens: [opc-ua]}
"""

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


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wires() -> Iterator[None]:
    """rk-sites -- ipsec0 [rk-gateway] lan0 -- rk-servers. The outer two own no probed address, so nothing answers."""
    names = ("rk-sites", "rk-gateway", "rk-servers")
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            for key in ("all.rp_filter", "default.rp_filter", "all.send_redirects", "default.send_redirects"):
                _run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.conf.{key}=0")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        for side, interface, net in (("rk-sites", "ipsec0", "169.254.1"), ("rk-servers", "lan0", "169.254.2")):
            _run(
                *("ip", "-n", "rk-gateway", "link", "add", interface, "type", "veth"),
                *("peer", "name", "wire0", "netns", side),
            )
            for place, link, host in (("rk-gateway", interface, 1), (side, "wire0", 2)):
                _run("ip", "-n", place, "addr", "add", f"{net}.{host}/24", "dev", link)
                _run("ip", "-n", place, "link", "set", link, "up")
            _run("ip", "-n", side, "route", "add", "default", "via", f"{net}.1")
        _run("ip", "-n", "rk-gateway", "route", "add", "default", "via", "169.254.1.2")
        _run("ip", "-n", "rk-gateway", "route", "add", "10.200.0.0/24", "via", "169.254.2.2")
        _run("ip", "netns", "exec", "rk-gateway", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _rule_set() -> RuleSet:
    sources = [PolicySource("acme", "acme.yaml", ACME), PolicySource("zeta", "zeta.yaml", ZETA)]
    return compile_policy(parse(sources, INVENTORY, PlatformSource("platform.yaml", PLATFORM)), INVENTORY)


def _apply(rule_set: RuleSet, version: int, *, without: str | None = None) -> None:
    """Put the rules behind the gateway's skeleton, in the order the product does: sets, then the flip.

    ``without`` leaves out one line of the sets or the chains, to see that the probes notice.
    """
    rendered = render(rule_set, version=version, tunnel_interface="ipsec0", cloud_interface="lan0")
    netfilter = Netfilter(SubprocessRunner(["ip", "netns", "exec", "rk-gateway"]))

    def kept(text: str) -> str:
        return "".join(line for line in text.splitlines(keepends=True) if line.strip() != without)

    netfilter.restore_sets(kept(rendered.sets))
    netfilter.restore_rules(kept(rendered.chains))
    skeleton = ["*filter", ":FORWARD DROP [0:0]", "-F FORWARD"]
    skeleton.append("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    skeleton += [f"-A FORWARD -j {rendered.entry_chain}", "COMMIT", ""]
    netfilter.restore_rules("\n".join(skeleton))


def _addresses() -> list[str]:
    """Both sides of every boundary: edges of each site, just outside, devices and their neighbours, servers."""
    found = {"10.200.0.9", "10.200.0.13", "172.16.0.1"}
    for site in INVENTORY.sites:
        first, last = site.prefix[0], site.prefix[-1]
        found |= {str(first), str(last), str(last + 1)}
    for host in (*INVENTORY.devices, *INVENTORY.servers):
        found |= {str(host.address), str(host.address + 1)}
    return sorted(found)


def _probes() -> list[Probe]:
    services = [(TCP, port) for port in (21, 22, 443, 502, 4840, 8000, 8020, 8040, 8041)]
    services += [(UDP, port) for port in (1, 1024, 1025, 47808)]
    services += [(ICMP, kind * 256 + code) for kind, code in ((8, 0), (8, 1), (13, 0), (13, 1), (255, 0), (42, 7))]
    probes = []
    addresses = _addresses()
    devices = {str(device.address) for device in INVENTORY.devices}
    for number, source in enumerate(addresses):
        for other, destination in enumerate(addresses):
            # Every pair, with every other service: pairs of the same class differ in which half. A device is a class
            # by itself.
            chosen = list(services) if devices & {source, destination} else services[(number + other) % 2 :: 2]
            # Without ports both directions are one flow to conntrack: asked in one direction only.
            chosen += [(GRE, 0)] if source < destination else []
            ends = ip_address(source), ip_address(destination)
            for protocol, selector in chosen:
                if protocol == ICMP:
                    packet = Packet(*ends, protocol, None, *divmod(selector, 256))
                else:
                    packet = Packet(*ends, protocol, selector or None)
                at_home = "rk-servers" if source.startswith("10.200.") else "rk-sites"
                probes.append(Probe(at_home, packet))
                if (number + other) % 5 == 0:  # spoofed: the same packet from where its source does not live
                    probes.append(Probe("rk-sites" if at_home == "rk-servers" else "rk-servers", packet))
    return probes


def _arrivals(probes: list[Probe]) -> dict[str, set[int]]:
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


def _disagreements(rule_set: RuleSet, probes: list[Probe]) -> list[str]:
    arrived = _arrivals(probes)
    found = []
    for number, probe in enumerate(probes):
        packet = probe.packet
        home = "rk-servers" if str(packet.source).startswith("10.200.") else "rk-sites"
        target = "rk-servers" if str(packet.destination).startswith("10.200.") else "rk-sites"
        other = "rk-sites" if target == "rk-servers" else "rk-servers"
        expected = probe.side == home and evaluate(rule_set, packet).allowed
        if (number in arrived[target]) != expected or number in arrived[other]:
            found.append(f"{probe}: the evaluator says {expected}")
    return found


def test_every_probe_meets_the_fate_the_evaluator_says(wires: None) -> None:
    rule_set = _rule_set()
    probes = _probes()
    _apply(rule_set, 1)
    allowed = [probe for probe in probes if evaluate(rule_set, probe.packet).allowed]
    assert len(probes) > 20_000
    assert len(allowed) > 250
    assert _disagreements(rule_set, probes) == []


def test_probes_notice_what_is_missing_from_the_kernel(wires: None) -> None:
    """The proof can fail: without one line of the rendered text, some probe disagrees."""
    rule_set = _rule_set()
    probes = _probes()
    text = render(rule_set, version=2, tunnel_interface="ipsec0", cloud_interface="lan0")
    grants = [line for line in text.chains.splitlines() if line.endswith("-j ACCEPT")]
    entries = [line for line in text.sets.splitlines() if line.endswith(",tcp:443")]
    denied = [line for line in text.sets.splitlines() if line.endswith(" 10.10.2.20/32,icmp:8/1")]
    closed = {line.split()[-4] for line in text.chains.splitlines() if re.search(r"-A \S+ -m set .* dst -j DROP", line)}
    inside = [line for line in text.sets.splitlines() if line in {f"add {name} 10.10.8.0/24" for name in closed}]
    for version, without in enumerate([grants[0], grants[-1], entries[0], denied[0], inside[0]], start=2):
        _apply(rule_set, version, without=without.replace("ky2", f"ky{version}"))
        assert _disagreements(rule_set, probes) != [], without


def test_a_connection_and_its_replies_pass(wires: None) -> None:
    """A whole TCP exchange, allowed in one direction only: the answers come back by connection tracking."""
    _apply(_rule_set(), 9)
    _run("ip", "-n", "rk-sites", "addr", "add", "10.10.5.7/32", "dev", "lo")
    _run("ip", "-n", "rk-servers", "addr", "add", "10.200.0.10/32", "dev", "lo")
    serve = "s = socket.create_server(('10.200.0.10', 443)); print(flush=True); s.accept()[0].sendall(b'hello')"
    ask = "s = socket.create_connection(('10.200.0.10', 443), 5, ('10.10.5.7', 0)); print(s.recv(9).decode())"
    serve, ask = f"import socket; {serve}", f"import socket; {ask}"
    server = subprocess.Popen(
        ["ip", "netns", "exec", "rk-servers", sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        argv = ["ip", "netns", "exec", "rk-sites", sys.executable, "-c", ask]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "hello\n"
    finally:
        server.kill()
        server.communicate()
        _run("ip", "-n", "rk-sites", "addr", "del", "10.10.5.7/32", "dev", "lo")
        _run("ip", "-n", "rk-servers", "addr", "del", "10.200.0.10/32", "dev", "lo")
