"""The plan of a world, as data: who is where, under which address. Pure.

One internet between all. A cloud: the VPN server with a web and a database host behind it. Sites, each a router
with a LAN of controllers. The mail world: an SES stand-in and a mailbox host.

    controllers -- lan0 ROUTER wan0|wwan0 -- (NAT) -- INTERNET -- wan0 GATEWAY lan0 -- web, database
                                                          |-- ses, mailbox
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

OVERLAY = IPv4Network("10.0.0.0/8")
SERVICE_ADDRESS = IPv4Address("10.255.255.1")
CLOUD_LAN = IPv4Network("10.255.0.0/24")
GATEWAY_PUBLIC = IPv4Address("203.0.113.2")
SES_PUBLIC = IPv4Address("203.0.113.10")
MAILBOX_PUBLIC = IPv4Address("203.0.113.18")

Uplink = Literal["wired", "nat", "mobile"]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """One site. ``controllers`` maps a device name to its real LAN address; the first host address is the router's."""

    name: str
    tenant: str
    overlay: IPv4Network
    lan: IPv4Network
    uplink: Uplink
    phase: str
    controllers: dict[str, IPv4Address]

    def overlay_address(self, device: str) -> IPv4Address:
        """Where the cloud finds the device."""
        offset = int(self.controllers[device]) - int(self.lan.network_address)
        return self.overlay.network_address + offset

    @property
    def router_address(self) -> IPv4Address:
        """The router's own overlay address."""
        return self.overlay.network_address + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole world."""

    tenants: dict[str, IPv4Network]
    sites: tuple[SitePlan, ...]
    #: Cloud servers: name -> (tenant or None, address).
    servers: dict[str, tuple[str | None, IPv4Address]]
    #: Policy text of each tenant.
    policies: dict[str, str]


def _site(
    name: str, tenant: str, overlay: str, lan: str, uplink: Uplink, phase: str, hosts: dict[str, int]
) -> SitePlan:
    network = IPv4Network(lan)
    return SitePlan(
        name, tenant, IPv4Network(overlay), network, uplink, phase,
        {device: network.network_address + number for device, number in hosts.items()},
    )  # fmt: skip


ACME_POLICY = """\
tenant: acme
groups:
  plants: [tokyo-1, osaka-1]
services:
  panel: [tcp/80, tcp/8080]
allow:
  - name: readings
    from: plants
    to: [web, database]
    services: [http, udp/47808, ping]
    owner: facilities@acme.example
    reason: readings go to the building database
  - name: sister-plants
    from: tokyo-1
    to: osaka-1/plc
    services: [modbus-tcp, ping]
  - name: panels
    from: web
    to: plants
    services: [panel, ping]
"""

BIRCH_POLICY = """\
tenant: birch
allow:
  - name: towers
    from: nagoya-1
    to: kobe-1
    services: [bacnet-ip, http, ping]
    both: true
  - name: archive
    from: [nagoya-1/plc, kobe-1]
    to: database
    services: [tcp/5432]
"""

#: Two sites and a server: enough for most tests, up in seconds, several side by side.
SMALL = Plan(
    tenants={"acme": IPv4Network("10.10.0.0/16")},
    sites=(
        _site("tokyo-1", "acme", "10.10.1.0/24", "192.168.1.0/24", "wired", "operation", {"plc": 20}),
        _site("osaka-1", "acme", "10.10.2.0/24", "192.168.1.0/24", "nat", "operation", {"plc": 20}),
    ),
    servers={"web": (None, IPv4Address("10.255.0.10"))},
    policies={"acme": "tenant: acme\nallow:\n  - {from: tokyo-1, to: [web, osaka-1/plc], services: [http, ping]}\n"},
)

#: The demo's world: four sites of two tenants. Two have the same LAN, one sits behind a NAT, one is mobile only.
DEMO = Plan(
    tenants={"acme": IPv4Network("10.10.0.0/16"), "birch": IPv4Network("10.20.0.0/16")},
    sites=(
        _site("tokyo-1", "acme", "10.10.1.0/24", "192.168.1.0/24", "wired", "operation", {"plc": 20, "panel": 21}),
        _site("osaka-1", "acme", "10.10.2.0/24", "10.10.2.0/24", "nat", "operation", {"plc": 20}),
        _site("nagoya-1", "birch", "10.20.1.0/24", "192.168.1.0/24", "wired", "operation", {"plc": 20, "panel": 21}),
        _site("kobe-1", "birch", "10.20.2.0/24", "172.16.5.0/24", "mobile", "operation", {"plc": 20}),
    ),
    servers={
        "web": (None, IPv4Address("10.255.0.10")),
        "database": (None, IPv4Address("10.255.0.20")),
    },
    policies={"acme": ACME_POLICY, "birch": BIRCH_POLICY},
)
