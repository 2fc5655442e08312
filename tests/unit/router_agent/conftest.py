"""An enrolled router's facts, shared by the agent's tests."""

from ipaddress import ip_address, ip_network

import pytest

from router_agent.bundle import Endpoint, Enrolment


@pytest.fixture
def enrolment() -> Enrolment:
    """A site whose LAN collides with others and is mapped."""
    return Enrolment(
        site="tokyo-1",
        tenant="acme",
        overlay=ip_network("10.10.1.0/24"),
        lan=ip_network("192.168.1.0/24"),
        gateways=("203.0.113.2", "203.0.113.3"),
        gateway_identity="vpn.kyoten",
        service_address=ip_address("10.255.255.1"),
        reachable=ip_network("10.0.0.0/8"),
        endpoints=(Endpoint("203.0.113.2", 8443, False), Endpoint("10.255.255.1", 8443, True)),
        endpoint_name="agent.kyoten",
        heartbeat_s=30,
    )
