"""The world whose rules are proved on the kernel, and the probes for it. Every renderer meets the very same ones."""

from ipaddress import ip_address, ip_network

from rules_wires import Probe

from rules.compile import RuleSet, compile_policy
from rules.model import Device, Inventory, Packet, PlatformSource, PolicySource, Protocol, Server, Site
from rules.parse import parse

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


def rule_set() -> RuleSet:
    """The world's rules, as compiled for every renderer alike."""
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


def probes() -> list[Probe]:
    """Packets of every class between all addresses, and spoofed ones: more than 20,000."""
    services = [(TCP, port) for port in (21, 22, 443, 502, 4840, 8000, 8020, 8040, 8041)]
    services += [(UDP, port) for port in (1, 1024, 1025, 47808)]
    services += [(ICMP, kind * 256 + code) for kind, code in ((8, 0), (8, 1), (13, 0), (13, 1), (255, 0), (42, 7))]
    found = []
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
                found.append(Probe(at_home, packet))
                if (number + other) % 5 == 0:  # spoofed: the same packet from where its source does not live
                    found.append(Probe("rk-sites" if at_home == "rk-servers" else "rk-servers", packet))
    return found
