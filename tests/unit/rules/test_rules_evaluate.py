from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import rules.compile
import rules.evaluate
from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Inventory, Packet, PolicySource, Server, Site
from rules.parse import parse

Decide = Callable[[str], RuleSet]
Ask = Callable[..., Packet]


def _reason(rule_set: RuleSet, packet: Packet) -> str:
    verdict = evaluate(rule_set, packet)
    assert not verdict.allowed
    assert verdict.reason is not None
    return verdict.reason.key.removeprefix("rules.")


def test_default_is_to_drop(decide: Decide, packet: Ask) -> None:
    assert _reason(decide(""), packet("10.10.1.1", "10.10.2.1")) == "no-statement"


def test_one_direction_unless_both(decide: Decide, packet: Ask) -> None:
    text = "allow: [{name: a, from: tokyo-1, to: osaka-1, services: http%s}]"
    one, both = decide(text % ""), decide(text % ", both: true")
    assert evaluate(one, packet("10.10.1.255", "10.10.2.0")).statements == ("acme/a",)
    assert _reason(one, packet("10.10.2.0", "10.10.1.255")) == "no-statement"
    assert evaluate(both, packet("10.10.2.0", "10.10.1.255")).allowed
    assert _reason(one, packet("10.10.1.1", "10.10.2.1", 6, 81)) == "no-statement"
    assert _reason(one, packet("10.10.1.1", "10.10.2.1", 17, 80)) == "no-statement"


def test_a_device_has_its_sites_grants_and_a_site_not_its_devices(decide: Decide, packet: Ask) -> None:
    rule_set = decide("allow:\n- {from: osaka-1/plc, to: db, services: ssh}\n- {from: osaka-1, to: web, services: ssh}")
    assert evaluate(rule_set, packet("10.10.2.20", "10.200.0.11", 6, 22)).allowed
    assert evaluate(rule_set, packet("10.10.2.20", "10.200.0.10", 6, 22)).allowed
    assert not evaluate(rule_set, packet("10.10.2.21", "10.200.0.11", 6, 22)).allowed


def test_every_statement_that_allows_it_is_named(decide: Decide, packet: Ask) -> None:
    rule_set = decide(
        "groups: {g: [tokyo-1]}\nallow:\n- {name: b, from: g, to: web, services: any}\n"
        "- {name: a, from: [tokyo-1, osaka-1], to: web, services: tcp}"
    )
    assert evaluate(rule_set, packet("10.10.1.1", "10.200.0.10")).statements == ("acme/a", "acme/b")


def test_reasons(decide: Decide, packet: Ask) -> None:
    rule_set = decide("allow: [{from: [tokyo-1, web], to: [osaka-1, tokyo-1], services: any}]")
    assert _reason(rule_set, packet("10.99.0.1", "10.10.1.1")) == "unknown-source"
    assert _reason(rule_set, packet("10.10.1.1", "10.10.3.1")) == "unknown-destination"
    assert _reason(rule_set, packet("10.10.1.1", "10.10.1.2")) == "same-site"
    assert _reason(rule_set, packet("10.200.0.10", "10.200.0.11")) == "between-servers"
    assert _reason(rule_set, packet("10.10.1.1", "10.20.1.1")) == "cross-tenant"
    assert _reason(rule_set, packet("10.200.0.12", "10.10.1.1")) == "cross-tenant"


def test_a_shared_server_opens_only_into_the_policys_own_tenant(decide: Decide, packet: Ask) -> None:
    rule_set = decide("allow: [{from: web, to: tokyo-1, services: any}]")
    assert evaluate(rule_set, packet("10.200.0.10", "10.10.1.1", 47, None)).allowed
    assert not evaluate(rule_set, packet("10.200.0.10", "10.20.1.1", 47, None)).allowed


def test_either_family(packet: Ask) -> None:
    inventory = Inventory(
        {"six": ip_network("fd00::/16")},
        (Site("a", "six", ip_network("fd00:1::/64")), Site("b", "six", ip_network("fd00:2::/64"))),
        (),
        (Server("four", None, ip_address("10.200.0.1")),),
    )
    text = "tenant: six\nallow: [{from: a, to: [b, four], services: [ping, icmp/9]}]"
    rule_set = compile_policy(parse([PolicySource("six", "six.yaml", text)], inventory), inventory)
    ends = ip_address("fd00:1::1"), ip_address("fd00:2::1")
    assert evaluate(rule_set, Packet(*ends, 58, icmp_type=128)).allowed
    assert not evaluate(rule_set, Packet(*ends, 1, icmp_type=9)).allowed
    assert _reason(rule_set, packet("fd00:1::1", "10.200.0.1")) == "mixed-families"


def test_a_revoked_site_falls_out_of_a_compiled_policy(inventory: Inventory, packet: Ask) -> None:
    text = "tenant: acme\nallow: [{from: tokyo-1, to: osaka-1, services: any}]"
    policy = parse([PolicySource("acme", "acme.yaml", text)], inventory)
    rest = replace(inventory, sites=tuple(site for site in inventory.sites if site.name != "tokyo-1"))
    assert _reason(compile_policy(policy, rest), packet("10.10.1.1", "10.10.2.1")) == "unknown-source"


def test_deny_goes_before_allow_however_particular(decide: Decide, packet: Ask) -> None:
    rule_set = decide(
        "allow:\n- {name: plc, from: osaka-1/plc, to: web, services: http}\n- {from: osaka-1, to: db, services: tcp}\n"
        "deny:\n- {name: site, from: osaka-1, to: web, services: tcp/80-90}\n"
        "- {name: one, from: osaka-1/plc, to: db, services: http}"
    )
    verdict = evaluate(rule_set, packet("10.10.2.20", "10.200.0.10"))
    assert (verdict.allowed, verdict.statements) == (False, ("acme/site",))
    assert _reason(rule_set, packet("10.10.2.20", "10.200.0.11")) == "denied"
    assert evaluate(rule_set, packet("10.10.2.20", "10.200.0.11", 6, 81)).allowed
    assert evaluate(rule_set, packet("10.10.2.21", "10.200.0.11")).allowed


def test_what_is_in_a_nested_group_is_reached_from_within_only(decide: Decide, packet: Ask) -> None:
    rule_set = decide(
        "groups:\n  outer: [tokyo-1, db]\n  inner: {members: [osaka-1/plc, db, web], inside: outer}\n"
        "allow:\n- {name: all, from: [outer, osaka-1, web], to: [outer, osaka-1, web, tokyo-1], services: http}"
    )
    assert _reason(rule_set, packet("10.10.1.1", "10.10.2.20")) == "enclosed"
    assert evaluate(rule_set, packet("10.10.1.1", "10.10.2.21")).allowed
    assert evaluate(rule_set, packet("10.200.0.11", "10.10.2.20")).allowed
    assert evaluate(rule_set, packet("10.200.0.10", "10.10.2.20")).allowed
    assert evaluate(rule_set, packet("10.10.2.20", "10.10.1.1")).allowed
    assert evaluate(rule_set, packet("10.10.2.20", "10.200.0.11")).allowed
    assert _reason(rule_set, packet("10.10.2.21", "10.200.0.11")) == "enclosed"
    # A shared server inside opens the way in; it is not closed to anyone.
    assert evaluate(rule_set, packet("10.10.1.1", "10.200.0.10")).allowed


def test_the_precedence_is_one_paragraph_everywhere() -> None:
    """What operators predict from: the same words in the guide, the evaluator and the compiler."""

    def plain(text: str) -> str:
        return " ".join(text.replace("`", "").split())

    guide = plain((Path(__file__).parents[3] / "docs/policy.md").read_text(encoding="utf-8"))
    start = guide.index("A packet passes if")
    paragraph = guide[start : guide.index("no allow overrules it.", start)]
    assert len(paragraph) > 150
    for module in (rules.compile, rules.evaluate):
        assert paragraph in plain(module.__doc__ or "")
