from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Device, Grant, Inventory, Packet, PlatformSource, PolicySource, Server, Site
from rules.parse import parse
from rules.services import BUILT_IN, numeric
from rules.timed import ENTRIES_MAX, entries

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
END = NOW + timedelta(hours=2)
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16"), "birch": ip_network("10.20.0.0/16")},
    sites=(
        Site("tokyo", "acme", ip_network("10.10.1.0/24")),
        Site("osaka", "acme", ip_network("10.10.2.0/24")),
        Site("kobe", "birch", ip_network("10.20.1.0/24")),
    ),
    devices=(Device("osaka", "plc", ip_address("10.10.2.20")),),
    servers=(Server("web", None, ip_address("10.255.0.10")), Server("jump", "acme", ip_address("10.255.0.11"))),
)
POLICY = """
tenant: acme
groups:
  all: [tokyo, osaka, jump]
  vault: {members: [osaka/plc, jump], inside: all}
deny:
  - {from: jump, to: osaka, services: ssh}
"""
PLATFORM = "{forbidden: tcp/445, servers: {web: {offers: https}}}"


def _rule_set(source: str, destination: str, service: str, *, tenant: str = "acme") -> RuleSet:
    services = BUILT_IN.get(service) or (numeric(service),)
    policy = parse([PolicySource("acme", "p", POLICY)], INVENTORY, PlatformSource("platform", PLATFORM))
    return compile_policy(policy, INVENTORY, at=NOW, grants=[Grant("a1", tenant, source, destination, services, END)])


def _passes(rule_set: RuleSet, source: str, destination: str, port: int) -> tuple[str, ...]:
    verdict = evaluate(rule_set, Packet(ip_address(source), ip_address(destination), 6, port))
    return verdict.statements if verdict.allowed else ()


def test_a_grant_opens_what_it_says_and_is_named() -> None:
    rule_set = _rule_set("jump", "osaka", "https")
    assert _passes(rule_set, "10.255.0.11", "10.10.2.99", 443) == ("acme/+a1",)
    for other in (
        ("10.255.0.11", "10.10.2.99", 80),
        ("10.255.0.11", "10.10.1.1", 443),
        ("10.255.0.10", "10.10.2.99", 443),
    ):
        assert _passes(rule_set, *other) == ()
    assert entries(rule_set) == ({"10.255.0.11,tcp:443,10.10.2.0/24": END}, ())
    assert rule_set.next_change == END


def test_a_grant_is_over_when_its_time_is() -> None:
    found = _rule_set("jump", "osaka", "https")
    policy = parse([PolicySource("acme", "p", POLICY)], INVENTORY)
    later = compile_policy(policy, INVENTORY, at=END, grants=found.grants)
    assert later.grants == ()
    assert _passes(later, "10.255.0.11", "10.10.2.99", 443) == ()


@pytest.mark.parametrize(
    ("source", "destination", "service", "packet"),
    [
        ("jump", "osaka", "ssh", ("10.255.0.11", "10.10.2.99", 22)),  # denied
        ("jump", "osaka", "tcp/445", ("10.255.0.11", "10.10.2.99", 445)),  # forbidden
        ("tokyo", "osaka", "https", ("10.10.1.7", "10.10.2.20", 443)),  # into a nested group
        ("tokyo", "web", "http", ("10.10.1.7", "10.255.0.10", 80)),  # more than the server offers
    ],
)
def test_what_is_shut_for_every_statement_is_shut_for_a_grant(
    source: str, destination: str, service: str, packet: tuple[str, str, int]
) -> None:
    assert _passes(_rule_set(source, destination, service), *packet) == ()


def test_a_grant_of_one_tenant_reaches_nothing_of_another() -> None:
    for source, destination in (("jump", "kobe"), ("kobe", "osaka"), ("10.20.1.5", "osaka")):
        rule_set = _rule_set(source, destination, "https")
        found, problems = entries(rule_set)
        assert found == {}
        assert [problem.kind for problem in problems] == ["rules.grant-without-ends"]
        assert _passes(rule_set, "10.20.1.5", "10.10.2.9", 443) == ()
        assert _passes(rule_set, "10.255.0.11", "10.20.1.5", 443) == ()


def test_a_grant_to_a_shared_server_is_the_tenants_own() -> None:
    rule_set = _rule_set("tokyo", "web", "https")
    assert _passes(rule_set, "10.10.1.9", "10.255.0.10", 443) == ("acme/+a1",)
    assert _passes(rule_set, "10.20.1.9", "10.255.0.10", 443) == ()
    assert len(entries(rule_set)[0]) == 256


def test_a_ping_is_answered() -> None:
    assert set(entries(_rule_set("jump", "osaka", "ping"))[0]) == {
        "10.255.0.11,icmp:echo-request,10.10.2.0/24",
        "10.255.0.11,icmp:echo-reply,10.10.2.0/24",
    }


@pytest.mark.parametrize("service", ["any", "tcp", "tcp/1-9", "tcp/1000-2000"])
def test_what_no_set_can_hold_opens_nothing_and_is_told(service: str) -> None:
    rule_set = _rule_set("tokyo", "osaka", service)
    assert ENTRIES_MAX < 256 * 9
    found, problems = entries(rule_set)
    assert found == {}
    assert [problem.kind for problem in problems] == ["rules.grant-too-wide"]
    assert _passes(rule_set, "10.10.1.7", "10.10.2.99", 5) == ()
