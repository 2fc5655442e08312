"""The machine's ports in a world: where a router's namespace had its interfaces, two wires now lead into the emulator.

The namespace of the site's router stays as the place of the wires: its line is bridged to the first card, its LAN is a
bridge anyway. The addresses that it had are taken away: the image gets the line's by DHCP, from the internet's side,
and the agent sets the LAN's.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from lab import ground
from lab.appliance.machine import Port
from lab.ground import SiteGround
from lab.network import Host, Process

_LINE_BRIDGE, _LINE_TAP, _LAN_TAP = "line", "tap-wan", "tap-lan"
#: Locally administered.
_MAC = "02:4b:59:{site:02x}:00:{port:02x}"
LEASE_S = 3600


def plug_in(internet: Host, site: SiteGround, number: int, *, lease_s: int = LEASE_S) -> tuple[Port, Port]:
    """Wires for site ``number`` of the plan (from 1), which has a wired line, and a DHCP server on its line."""
    place = site.router
    for interface in ("wan0", "lan0"):
        place.ip("addr", "flush", "dev", interface)
    place.ip("link", "add", _LINE_BRIDGE, "type", "bridge")
    place.ip("link", "set", _LINE_BRIDGE, "up")
    for tap, bridge in ((_LINE_TAP, _LINE_BRIDGE), (_LAN_TAP, "lan0")):
        place.ip("tuntap", "add", "dev", tap, "mode", "tap")
        place.ip("link", "set", tap, "master", bridge, "up")
    place.ip("link", "set", "wan0", "master", _LINE_BRIDGE)
    # Wires: no frame is this namespace's own business.
    place.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    place.run(["sysctl", "-q", "-e", "-w", "net.bridge.bridge-nf-call-iptables=0"])
    serve_address(internet, site, ground.uplink_address(number, site.plan), lease_s=lease_s)
    macs = [_MAC.format(site=number, port=port) for port in range(2)]
    return Port(_LINE_TAP, macs[0]), Port(_LAN_TAP, macs[1])


def serve_address(internet: Host, site: SiteGround, own: IPv4Address, *, lease_s: int) -> Process:
    """Begin to give the line this address, the second one of a block of four whose first the internet has."""
    name = f"udhcpd-{site.plan.name}"
    if name in internet.processes:
        internet.processes[name].kill()
    directory = internet.directory
    leases = directory / f"leases-{site.plan.name}"
    leases.touch()
    options = {
        "start": own, "end": own, "interface": ground.far_end(site.router), "max_leases": 1,
        "lease_file": leases, "pidfile": directory / f"{name}.pid", "notify_file": "/bin/true",
        "option subnet": "255.255.255.252", "option router": own - 1, "option dns": own - 1,
        "option lease": lease_s,
    }  # fmt: skip
    configuration = directory / f"{name}.conf"
    configuration.write_text("".join(f"{key}\t{value}\n" for key, value in options.items()))
    return internet.start(name, _udhcpd(configuration))


def _udhcpd(configuration: Path) -> Sequence[str]:
    return ["busybox", "udhcpd", "-f", str(configuration)]
