"""One small inventory that all unit tests of rules ask about."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from rules.compile import RuleSet, compile_policy
from rules.model import Device, Inventory, Packet, Policy, PolicySource, Server, Site
from rules.parse import parse

Ask = Callable[..., Packet]


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(
        tenants={"acme": ip_network("10.10.0.0/16"), "zeta": ip_network("10.20.0.0/16")},
        sites=(
            Site("tokyo-1", "acme", ip_network("10.10.1.0/24")),
            Site("osaka-1", "acme", ip_network("10.10.2.0/24")),
            Site("kobe-1", "zeta", ip_network("10.20.1.0/24")),
        ),
        devices=(
            Device("osaka-1", "plc", ip_address("10.10.2.20")),
            Device("kobe-1", "meter", ip_address("10.20.1.9")),
        ),
        servers=(
            Server("web", None, ip_address("10.200.0.10")),
            Server("db", "acme", ip_address("10.200.0.11")),
            Server("vault", "zeta", ip_address("10.200.0.12")),
        ),
    )


@pytest.fixture
def read(inventory: Inventory) -> Callable[[str], Policy]:
    """acme's policy from the lines behind ``tenant:``."""
    return lambda text: parse([PolicySource("acme", "acme.yaml", "tenant: acme\n" + text)], inventory)


@pytest.fixture
def decide(inventory: Inventory, read: Callable[[str], Policy]) -> Callable[[str], RuleSet]:
    return lambda text: compile_policy(read(text), inventory)


@pytest.fixture
def packet() -> Ask:
    def make(source: str, destination: str, protocol: int = 6, number: int | None = 80) -> Packet:
        ends = ip_address(source), ip_address(destination)
        if protocol == 1:
            return Packet(*ends, protocol, icmp_type=number)
        return Packet(*ends, protocol, number)

    return make
