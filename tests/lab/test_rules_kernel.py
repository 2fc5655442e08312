"""The rendered rules on the real kernel: every probe's fate must be what the evaluator says. Assumes the box."""

import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
import rules_wires
from rules_interpreter import Kernel
from rules_wires import NETFILTER, SIDES, Probe, disagreements

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


def _rule_set() -> RuleSet:
    sources = [PolicySource("acme", "acme.yaml", ACME), PolicySource("zeta", "zeta.yaml", ZETA)]
    return compile_policy(parse(sources, INVENTORY, PlatformSource("platform.yaml", PLATFORM)), INVENTORY)


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


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with rules_wires.wires():
        yield


def test_every_probe_meets_the_fate_the_evaluator_says() -> None:
    rule_set = _rule_set()
    probes = _probes()
    rules_wires.enforcement().apply(rule_set)
    allowed = [probe for probe in probes if evaluate(rule_set, probe.packet).allowed]
    assert len(probes) > 20_000
    assert len(allowed) > 250
    assert disagreements(rule_set, probes) == []


def test_what_the_kernel_gives_back_is_what_was_rendered_and_says_the_same() -> None:
    """Read back, by two independent ways: word by word, and by walking packets through the kernel's own words."""
    rule_set = _rule_set()
    enforcement = rules_wires.enforcement()
    enforcement.apply(rule_set)
    assert enforcement.repair(thorough=True) == ()
    assert rules_wires.enforcement().apply(rule_set).how == "adopted"
    probes = _probes()
    kernel = Kernel.read(NETFILTER.save_sets(), NETFILTER.save_rules("mangle"))
    interfaces = {"rk-sites": "ipsec0", "rk-servers": "lan0"}
    for probe in probes[::5]:
        packet = probe.packet
        if packet.protocol == GRE:
            continue
        target = "lan0" if str(packet.destination).startswith("10.200.") else "ipsec0"
        home = "rk-servers" if str(packet.source).startswith("10.200.") else "rk-sites"
        expected = probe.side == home and evaluate(rule_set, packet).allowed
        ends = str(packet.source), str(packet.destination)
        found = kernel.accepts("KY-POLICY", interfaces[probe.side], target, *ends, packet.protocol, packet.selector)
        assert found == expected, probe


def test_probes_notice_what_is_missing_from_the_kernel() -> None:
    """The proof can fail: with one line of the rendered text left out, some probe disagrees."""
    rule_set = _rule_set()
    probes = _probes()
    rules_wires.enforcement()
    text = render(rule_set, version=2, sides=SIDES)
    lines = text.sets.splitlines()
    granted = [line for line in text.chains.splitlines() if line.endswith("-g KY-GRANT")]
    ports = [line for line in lines if ",tcp:443 " in line and ".2g0p " in line]
    denied = [line for line in lines if ".2d0p 10.10.2.20,icmp:8/1 " in line]
    inside = [line for line in lines if ".2n0d 10.10.8.0/24 " in line]
    sources = [line for line in lines if ".2g0s 10.10.4.0/24 " in line]
    homes = [line for line in lines if ".2h 10.10.4.0/24 " in line]
    for without in (granted[0], granted[-1], ports[0], denied[0], inside[0], sources[0], homes[0]):
        _put("".join(f"{line}\n" for line in lines if line != without), text.chains.replace(f"{without}\n", ""))
        assert disagreements(rule_set, probes) != [], without


def _put(sets: str, chains: str) -> None:
    """Put text in force by hand, in place of whatever is."""
    enforcement = rules_wires.enforcement()
    enforcement.close()
    NETFILTER.restore_sets(sets)
    NETFILTER.restore_rules(chains.removesuffix("COMMIT\n") + ":KY-POLICY - [0:0]\n-A KY-POLICY -g ky.2\nCOMMIT\n")


def test_a_connection_and_its_replies_pass() -> None:
    """A whole TCP exchange, allowed in one direction only: the answers come back by connection tracking."""
    rules_wires.enforcement().apply(_rule_set())
    rules_wires.run("ip", "-n", "rk-sites", "addr", "add", "10.10.5.7/32", "dev", "lo")
    rules_wires.run("ip", "-n", "rk-servers", "addr", "add", "10.200.0.10/32", "dev", "lo")
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
        rules_wires.run("ip", "-n", "rk-sites", "addr", "del", "10.10.5.7/32", "dev", "lo")
        rules_wires.run("ip", "-n", "rk-servers", "addr", "del", "10.200.0.10/32", "dev", "lo")
