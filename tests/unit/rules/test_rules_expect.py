from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from rules.compile import compile_policy
from rules.expect import check, unmet
from rules.model import Inventory, PlatformSource, Policy, PolicySource, Server, Site
from rules.parse import parse_stored
from rules.problems import PolicyError

Read = Callable[[str], Policy]
RULES = """
groups:
  pair: [tokyo-1, osaka-1]
allow:
  - {name: web, from: pair, to: web, services: [http, https, ping]}
  - {name: plc, from: tokyo-1, to: osaka-1/plc, services: ssh}
deny:
  - {name: no-plc, from: osaka-1/plc, to: web, services: http}
expect:
"""


@pytest.fixture
def told(inventory: Inventory, read: Read) -> Callable[[str], list[tuple[str, str]]]:
    def ask(sentence: str) -> list[tuple[str, str]]:
        policy = read(RULES + f"  - {sentence}\n")
        assert len(policy.tenants["acme"].expectations) == 1
        problems = check(compile_policy(policy, inventory), policy)
        assert problems == unmet(compile_policy(policy, inventory), policy.tenants["acme"])
        return [(found.place, found.kind.removeprefix("rules.")) for found in problems]

    return ask


@pytest.mark.parametrize(
    "sentence",
    [
        "tokyo-1 can reach web https",
        "tokyo-1 can   reach web http,https , ping",
        "tokyo-1 can reach osaka-1/plc ssh",
        "tokyo-1 cannot reach osaka-1 rdp, tcp/23",
        "tokyo-1 cannot reach web ssh",
        "web cannot reach tokyo-1 any",
        "osaka-1/plc can reach web https",
        "tokyo-1 cannot reach web icmpv6",
    ],
)
def test_what_holds(told: Callable[[str], list[tuple[str, str]]], sentence: str) -> None:
    assert told(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        ("tokyo-1 can reach web ssh", ["expectation-blocked", "no-statement"]),
        ("tokyo-1 can reach web http, ssh", ["expectation-blocked", "no-statement"]),
        ("tokyo-1 can reach osaka-1 ssh", ["expectation-blocked", "no-statement"]),  # only its device
        ("osaka-1 can reach web http", ["expectation-blocked", "denied"]),  # its device may not
        ("tokyo-1 can reach web icmpv6", ["expectation-blocked", "why-other-family"]),
        ("tokyo-1 cannot reach web http", ["expectation-open"]),
        ("tokyo-1 cannot reach web any", ["expectation-open"]),
        ("tokyo-1 cannot reach osaka-1 ssh", ["expectation-open"]),  # its device is a part of it
    ],
)
def test_what_does_not_hold(told: Callable[[str], list[tuple[str, str]]], sentence: str, kinds: list[str]) -> None:
    assert told(sentence) == [("acme.yaml:11:5", kind) for kind in kinds]


def test_an_open_one_names_the_statements_and_what_passes(inventory: Inventory, read: Read) -> None:
    policy = read(RULES + "  - tokyo-1 cannot reach web tcp/1-100, rdp\n")
    (found,) = check(compile_policy(policy, inventory), policy)
    assert dict(found.params) == {
        "source": "tokyo-1", "destination": "web", "services": "tcp/80", "statements": "acme/web",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("tokyo-1 should reach web http", "bad-expectation"),
        ("tokyo-1 can reach web", "bad-expectation"),
        ("can reach web http", "bad-expectation"),
        ("{}", "expected-text"),
        ("pair can reach web http", "expectation-of-group"),
        ("tokyo-1 can reach kobe-1 http", "unknown-name"),
        ("tokyo-9 can reach web http", "unknown-name-similar"),
        ("tokyo-1 can reach web htps", "unknown-service-similar"),
        ("tokyo-1 can reach web http,", "bad-expectation"),
        ("tokyo-1 can reach web tcp/0", "bad-service-number"),
        ("tokyo-1 cannot reach tokyo-1 http", "same-site"),
        ("osaka-1 can reach osaka-1/plc http", "same-site"),
        ("web can reach db http", "between-servers"),
    ],
)
def test_what_is_no_expectation(read: Read, sentence: str, kind: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(RULES + f"  - {sentence}\n")
    assert [(found.place, found.kind) for found in caught.value.problems] == [("acme.yaml:11:5", "rules." + kind)]


@pytest.mark.parametrize(
    ("sentence", "broken"),
    [
        ("a cannot reach s1 icmp/echo-request, icmp/255", False),
        ("a can reach s1 icmp/13, icmp/255", False),
        ("a cannot reach s1 icmp/13, icmp/255", True),
        ("a can reach s1 icmp/8, icmp/255", True),
        ("a cannot reach s1 icmp/3", False),
    ],
)
def test_messages_that_start_no_flow_are_not_asked_about(sentence: str, broken: bool) -> None:
    world = Inventory(
        {"acme": ip_network("10.1.0.0/16")},
        (Site("a", "acme", ip_network("10.1.0.0/22")),),
        (),
        (Server("s1", "acme", ip_address("10.9.0.2")),),
    )
    text = f"tenant: acme\nallow: [{{from: a, to: s1, services: any}}]\nexpect: ['{sentence}']\n"
    forbidding = PlatformSource("platform.yaml", "forbidden: [icmp/8]\n")
    policy, problems = parse_stored([PolicySource("acme", "acme.yaml", text)], world, forbidding)
    assert [one.kind for one in problems if one.kind.startswith("rules.expect")] == []
    assert bool(unmet(compile_policy(policy, world), policy.tenants["acme"])) is broken
