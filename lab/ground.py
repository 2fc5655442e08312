"""The ground a world stands on: hosts, cables, addresses, plain routes. Nothing of Kyoten runs yet.

Addresses: the cloud and the mail hosts in 203.0.113.0/24, wired uplinks in 198.51.100.0/24, mobile ones in 192.0.2.0/24
(documentation prefixes, RFC 5737), behind a NAT 100.64.0.0/10 (RFC 6598). The internet knows no private prefix.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from lab import topology
from lab.network import Host, Network, address, default_route
from lab.topology import Plan, SitePlan

#: A modest LTE line, so that "mobile" is not only a name: down, up, in tbf's words.
MOBILE_DOWN, MOBILE_UP = "8mbit", "2mbit"


@dataclass(frozen=True, slots=True)
class SiteGround:
    """The machines of one site. ``nat`` stands between router and internet where the plan says so."""

    plan: SitePlan
    router: Host
    nat: Host | None
    controllers: dict[str, Host]


@dataclass(frozen=True, slots=True)
class Ground:
    """All machines of a world."""

    network: Network
    internet: Host
    gateway: Host
    servers: dict[str, Host]
    ses: Host
    mailbox: Host
    sites: dict[str, SiteGround]


def build(plan: Plan, network: Network) -> Ground:
    """Lay hosts, cables and addresses for ``plan``."""
    internet = network.add_host("internet", forwards=True)
    gateway = network.add_host("gateway")
    _attach(network, internet, gateway, "wan0", topology.GATEWAY_PUBLIC, 29)
    servers = {name: network.add_host(name) for name in plan.servers}
    network.switch(gateway, "lan0", [(host, "eth0") for host in servers.values()])
    cloud_router = topology.CLOUD_LAN.network_address + 1
    address(gateway, "lan0", f"{cloud_router}/{topology.CLOUD_LAN.prefixlen}")
    for name, (_tenant, server_address) in plan.servers.items():
        address(servers[name], "eth0", f"{server_address}/{topology.CLOUD_LAN.prefixlen}")
        default_route(servers[name], str(cloud_router))
    ses, mailbox = network.add_host("ses"), network.add_host("mailbox")
    _attach(network, internet, ses, "eth0", topology.SES_PUBLIC, 29)
    _attach(network, internet, mailbox, "eth0", topology.MAILBOX_PUBLIC, 29)
    sites = {site.name: _site(network, internet, number, site) for number, site in enumerate(plan.sites, start=1)}
    return Ground(network, internet, gateway, servers, ses, mailbox, sites)


def uplink_address(number: int, plan: SitePlan) -> IPv4Address:
    """The address by which site ``number`` (from 1) goes out to the internet."""
    block = IPv4Network("192.0.2.0/24" if plan.uplink == "mobile" else "198.51.100.0/24")
    return block.network_address + 4 * number + 2


def far_end(host: Host) -> str:
    """The internet's interface to a host."""
    return f"to-{host.name}"[:15]


def _attach(network: Network, internet: Host, host: Host, interface: str, own: IPv4Address, length: int) -> None:
    """A cable from the internet to a host; the internet's end has the address before the host's."""
    port = far_end(host)
    network.link(internet, port, host, interface)
    address(internet, port, f"{own - 1}/{length}")
    address(host, interface, f"{own}/{length}")
    default_route(host, str(own - 1))


def _site(network: Network, internet: Host, number: int, plan: SitePlan) -> SiteGround:
    router = network.add_host(plan.name)
    outside = uplink_address(number, plan)
    nat = None
    if plan.uplink == "nat":
        nat = network.add_host(f"{plan.name}-nat", forwards=True)
        _attach(network, internet, nat, "out", outside, 30)
        network.link(nat, "in", router, "wan0")
        address(nat, "in", f"100.64.{number}.1/24")
        address(router, "wan0", f"100.64.{number}.2/24")
        default_route(router, f"100.64.{number}.1")
        nat.run(["iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "out", "-j", "MASQUERADE"])
    elif plan.uplink == "mobile":
        _attach(network, internet, router, "wwan0", outside, 30)
        _shape(internet, far_end(router), MOBILE_DOWN)
        _shape(router, "wwan0", MOBILE_UP)
    else:
        _attach(network, internet, router, "wan0", outside, 30)
    controllers = {device: network.add_host(f"{plan.name}-{device}") for device in plan.controllers}
    network.switch(router, "lan0", [(host, "eth0") for host in controllers.values()])
    lan_router = plan.lan.network_address + 1
    address(router, "lan0", f"{lan_router}/{plan.lan.prefixlen}")
    for device, host in controllers.items():
        address(host, "eth0", f"{plan.controllers[device]}/{plan.lan.prefixlen}")
        default_route(host, str(lan_router))
    return SiteGround(plan, router, nat, controllers)


def _shape(host: Host, interface: str, rate: str) -> None:
    host.run(["tc", "qdisc", "add", "dev", interface, "root", "tbf", "rate", rate, "burst", "32kb", "latency", "300ms"])
