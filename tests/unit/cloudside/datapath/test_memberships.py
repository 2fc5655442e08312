"""By which groups a flow went."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from cloudside.datapath.accounting import FlowEvent, StatementCounters
from cloudside.datapath.memberships import Memberships
from cloudside.registry.counted import MembershipUse
from rules.compile import RuleSet, compile_policy
from rules.model import Device, Inventory, PolicySource, Server, Site
from rules.parse import parse

NOW = datetime(2026, 11, 22, tzinfo=UTC)
INVENTORY = Inventory(
    {"acme": ip_network("10.10.0.0/16")},
    (
        Site("kobe", "acme", ip_network("10.10.3.0/24")),
        Site("osaka", "acme", ip_network("10.10.2.0/24")),
        Site("tokyo", "acme", ip_network("10.10.1.0/24")),
    ),
    (Device("tokyo", "plc", ip_address("10.10.1.5")),),
    (Server("web", None, ip_address("10.254.0.10")),),
)
POLICY = """
tenant: acme
groups:
  plant: [tokyo, osaka]
  energy: [tokyo/plc, osaka]
  office: [kobe]
allow:
  - {from: plant, to: plant, services: http}
  - {from: energy, to: energy, services: modbus-tcp}
  - {from: tokyo, to: web, services: https}
  - {from: [plant, office], to: web, services: http}
"""


def _rule_set() -> RuleSet:
    return compile_policy(parse([PolicySource("acme", "acme.yaml", POLICY)], INVENTORY), INVENTORY)


def _flow(source: str, destination: str, port: int, sent: int, returned: int) -> FlowEvent:
    return FlowEvent("DESTROY", "7", source, destination, 6, port, 4, sent + returned, returned)


def _counted(*flows: FlowEvent) -> set[MembershipUse]:
    counters = StatementCounters()
    counters.use(_rule_set())
    for flow in flows:
        counters.count(flow, NOW)
    return set(counters.memberships.take())


def test_each_end_gets_what_it_sent_and_received() -> None:
    assert _counted(_flow("10.10.1.9", "10.10.2.9", 80, 100, 3000)) == {
        MembershipUse("tokyo", "plant", 100, 3000),
        MembershipUse("osaka", "plant", 3000, 100),
    }


def test_a_device_that_is_a_member_counts_for_its_site() -> None:
    assert _counted(_flow("10.10.1.5", "10.10.2.9", 502, 10, 20)) == {
        MembershipUse("tokyo", "energy", 10, 20),
        MembershipUse("osaka", "energy", 20, 10),
    }


def test_a_site_named_by_itself_went_by_no_group() -> None:
    assert _counted(_flow("10.10.1.9", "10.254.0.10", 443, 10, 20)) == set()


def test_of_several_groups_on_a_side_those_that_the_site_is_in() -> None:
    assert _counted(_flow("10.10.3.9", "10.254.0.10", 80, 10, 20)) == {MembershipUse("kobe", "office", 10, 20)}
    assert _counted(_flow("10.10.1.9", "10.254.0.10", 80, 1, 2)) == {MembershipUse("tokyo", "plant", 1, 2)}


def test_what_no_statement_lets_pass_counts_for_nobody() -> None:
    assert _counted(_flow("10.10.3.9", "10.10.1.9", 80, 10, 20)) == set()


def test_groups_of_a_site() -> None:
    found = Memberships(_rule_set())
    assert found.of_site("acme", "tokyo") == ("energy", "plant")
    assert found.of_site("acme", "kobe") == ("office",)
    assert found.of_site("nobody", "kobe") == ()
