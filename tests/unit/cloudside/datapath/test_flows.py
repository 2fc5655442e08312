from ipaddress import IPv4Address, ip_address, ip_network

from cloudside.config import Address
from cloudside.datapath.flows import Flow, deletion, outlived, parse_flows
from rules.compile import compile_policy
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse

LISTING = """\
ipv4     2 tcp      6 431999 ESTABLISHED src=10.10.1.20 dst=10.255.0.10 sport=40001 dport=80 src=10.255.0.10 dst=10.10.1.20 sport=80 dport=40001 [ASSURED] mark=0 use=1
ipv4     2 udp      17 29 src=10.10.1.20 dst=10.255.0.10 sport=40002 dport=53 [UNREPLIED] src=10.255.0.10 dst=10.10.1.20 sport=53 dport=40002 mark=0 use=1
ipv4     2 icmp     1 29 src=10.10.1.20 dst=10.255.0.10 type=8 code=0 id=77 src=10.255.0.10 dst=10.10.1.20 type=0 code=0 id=77 mark=0 use=1
ipv4     2 unknown  47 599 src=10.10.1.20 dst=10.10.2.20 src=10.10.2.20 dst=10.10.1.20 [ASSURED] mark=0 use=1
junk
ipv4     2 tcp      6 src=not-an-address dst=1.2.3.4
"""  # noqa: E501
OWN = {IPv4Address("10.255.255.1"), IPv4Address("203.0.113.2")}
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")),),
    devices=(),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)
POLICY = "tenant: acme\nallow:\n  - {from: tokyo, to: web, services: [http, ping]}\n"
RULE_SET = compile_policy(parse([PolicySource("acme", "p", POLICY)], INVENTORY), INVENTORY)


def _admitted(address: Address) -> bool:
    return address in ip_network("10.10.1.0/24") or address == ip_address("10.255.0.10")


def _outlived(flows: list[Flow]) -> list[Flow]:
    return outlived(flows, RULE_SET, overlay=ip_network("10.0.0.0/8"), own=OWN, admitted=_admitted)


def _flow(source: str, destination: str, port: int = 80) -> Flow:
    return Flow(ip_address(source), ip_address(destination), 6, 40000, port)


def test_listing_gives_the_original_direction() -> None:
    tcp, udp, icmp, gre = parse_flows(LISTING)
    assert (str(tcp.source), str(tcp.destination), tcp.source_port, tcp.destination_port) == (
        "10.10.1.20", "10.255.0.10", 40001, 80,
    )  # fmt: skip
    assert udp.protocol == 17
    assert (icmp.icmp_type, icmp.icmp_code, icmp.identifier) == (8, 0, 77)
    assert (gre.protocol, gre.source_port) == (47, None)


def test_forwarded_flow_stays_exactly_if_its_first_packet_would_pass_today() -> None:
    tcp, udp, icmp, gre = parse_flows(LISTING)
    assert _outlived([tcp, udp, icmp, gre]) == [udp, gre]
    backwards = _flow("10.255.0.10", "10.10.1.20")
    assert _outlived([backwards]) == [backwards]


def test_flows_with_the_gateway_end_with_the_site() -> None:
    known, gone = _flow("10.10.1.20", "10.255.255.1", 25), _flow("10.10.9.20", "10.255.255.1", 25)
    remote_work = _flow("10.255.255.1", "10.10.9.1", 22)
    assert _outlived([known, gone, remote_work]) == [gone, remote_work]


def test_flows_outside_the_overlay_are_left_alone() -> None:
    assert _outlived([_flow("203.0.113.2", "198.51.100.7", 587), _flow("198.51.100.7", "203.0.113.2", 25)]) == []


def test_deletion_names_exactly_the_flow() -> None:
    tcp, _, icmp, gre = parse_flows(LISTING)
    assert deletion(tcp) == "-D -s 10.10.1.20 -d 10.255.0.10 -p tcp --sport 40001 --dport 80"
    assert deletion(icmp) == "-D -s 10.10.1.20 -d 10.255.0.10 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77"
    assert deletion(gre) == "-D -s 10.10.1.20 -d 10.10.2.20 -p 47"
