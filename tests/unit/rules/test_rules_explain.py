from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rules.compile import compile_policy
from rules.explain import Explainer, Explanation, explain
from rules.model import Inventory, PlatformSource, Policy, PolicySource
from rules.parse import parse
from rules.problems import PolicyError

TEXT = """allow:
  - {name: web, from: tokyo-1, to: web, services: [https, tcp/8000-8010], owner: Sato}
  - {name: plc, from: osaka-1/plc, to: db, services: any}
  - {name: all, from: osaka-1, to: web, services: tcp/1-100}
deny:
  - {name: no, from: osaka-1/plc, to: web, services: http}
"""
Why = Callable[[str, str, str], Explanation]


@pytest.fixture
def why(inventory: Inventory, read: Callable[[str], Policy]) -> Why:
    policy = read(TEXT)
    return lambda *question: explain(policy, compile_policy(policy, inventory), inventory, *question)


def _keys(explanation: Explanation) -> list[str]:
    assert not explanation.allowed
    return [reason.key.removeprefix("rules.") for reason in explanation.reasons]


def test_allowed_names_the_statement_its_place_and_owner(why: Why) -> None:
    found = why("tokyo-1", "web", "tcp/443")
    assert found.allowed
    assert [(one.id, str(one.place), one.owner) for one in found.statements] == [("acme/web", "acme.yaml:3:5", "Sato")]
    assert why("10.10.1.7", "10.200.0.10", "https").allowed


def test_a_device_may_what_its_site_may_not(why: Why) -> None:
    assert why("osaka-1/plc", "db", "ping").allowed
    assert why("10.10.2.20", "db", "ping").allowed
    assert _keys(why("osaka-1", "db", "ping")) == ["why-no-statement"]


def test_blocked_says_what_would_have_to_change(why: Why) -> None:
    assert _keys(why("osaka-1", "web", "https")) == ["why-other-services"]
    other = why("tokyo-1", "web", "ssh")
    assert _keys(other) == ["why-other-services"]
    assert other.reasons[0].params["open"] == "tcp/443, tcp/8000-8010"
    assert other.reasons[0].params["statements"] == "acme/web (acme.yaml:3:5)"
    assert _keys(why("web", "tokyo-1", "https")) == ["why-no-statement", "why-only-reverse"]
    partly = why("tokyo-1", "web", "tcp/8005-8012")
    assert _keys(partly) == ["why-partly"]
    assert partly.reasons[0].params["missing"] == "tcp/8011-8012"
    assert _keys(why("tokyo-1", "kobe-1", "ssh")) == ["cross-tenant"]
    assert _keys(why("osaka-1", "osaka-1/plc", "ssh")) == ["same-site"]
    assert _keys(why("tokyo-1", "web", "icmpv6")) == ["why-other-family"]


@pytest.mark.parametrize(
    "question", [("osaka-1", "db", "ping"), ("tokyo-1", "web", "tcp/8005-8012"), ("10.10.1.7", "web", "any")]
)
def test_the_ready_made_statement_opens_it(
    why: Why, inventory: Inventory, read: Callable[[str], Policy], question: tuple[str, str, str]
) -> None:
    line = why(*question).reasons[0].params["statement"]
    policy = read(TEXT.replace("allow:\n", f"allow:\n  {line}\n"))
    assert explain(policy, compile_policy(policy, inventory), inventory, *question).allowed


def test_a_question_about_nothing_is_told_whole(why: Why) -> None:
    with pytest.raises(PolicyError) as caught:
        why("tokio-1", "10.77.0.1", "htps")
    assert {found.kind for found in caught.value.problems} == {
        *("rules.unknown-end-similar", "rules.unknown-address", "rules.unknown-service-similar")
    }


def test_a_denial_is_named_with_its_place_and_holds_for_the_whole_site_that_was_asked_about(why: Why) -> None:
    found = why("osaka-1", "web", "http")
    assert _keys(found) == ["why-denied"]
    assert found.reasons[0].params["statements"] == "acme/no (acme.yaml:7:5)"
    assert [one.id for one in found.statements] == ["acme/all", "acme/no"]
    assert why("10.10.2.21", "web", "http").allowed
    assert _keys(why("osaka-1/plc", "web", "http")) == ["why-denied"]
    assert _keys(why("osaka-1/plc", "web", "tcp/79-80")) == ["why-denied"]
    assert _keys(why("osaka-1/plc", "web", "tcp/80-101")) == ["why-denied", "why-partly"]


# -- the whole blocked path -------------------------------------------------------------------------------------------

PLATFORM = """\
services: {telnet: tcp/23}
forbidden: telnet
servers:
  web: {offers: [https]}
"""
DEEP = """groups:
  building: [tokyo-1, osaka-1, web]
  inner: {members: [osaka-1/plc], inside: building}
allow:
  - {name: hours, from: tokyo-1, to: osaka-1, services: ssh, valid: {weekly: "mon-fri 08:00-18:00", zone: Asia/Tokyo}}
  - {name: past, from: tokyo-1, to: db, services: http, valid: {until: 2026-01-01, zone: UTC}}
deny:
  - {name: no, from: tokyo-1, to: osaka-1/plc, services: tcp}
"""
SUNDAY = datetime(2026, 11, 22, 3, tzinfo=UTC)


@pytest.fixture
def deep(inventory: Inventory) -> Why:
    sources = [PolicySource("acme", "acme.yaml", "tenant: acme\n" + DEEP)]
    policy = parse(sources, inventory, PlatformSource("platform.yaml", PLATFORM))
    rule_set = compile_policy(policy, inventory, at=SUNDAY)
    return Explainer(policy, rule_set, inventory, at=SUNDAY).explain


def test_everything_in_the_way_is_told_in_order(deep: Why) -> None:
    assert _keys(deep("tokyo-1", "osaka-1/plc", "ssh")) == ["why-enclosed", "why-denied", "why-not-now"]
    assert _keys(deep("tokyo-1", "osaka-1/plc", "telnet")) == [
        *("why-forbidden", "why-enclosed", "why-denied", "why-no-statement")
    ]
    assert _keys(deep("tokyo-1", "web", "tcp/22-23")) == ["why-forbidden", "why-server-restricted", "why-no-statement"]
    restricted = deep("tokyo-1", "web", "tcp/22-23").reasons[1].params
    assert (restricted["server"], restricted["key"], restricted["blocked"]) == ("web", "offers", "tcp/22")


def test_a_statement_that_sleeps_says_when_it_holds_next(deep: Why) -> None:
    found = deep("tokyo-1", "10.10.2.5", "ssh")
    assert _keys(found) == ["why-not-now"]
    assert found.reasons[0].params["next"] == "2026-11-23 08:00 Asia/Tokyo"
    assert _keys(deep("tokyo-1", "db", "http")) == ["why-no-longer"]
    assert _keys(deep("tokyo-1", "db", "https")) == ["why-no-statement"]


def test_a_site_out_of_service_is_the_first_of_all_that_blocks(
    inventory: Inventory, read: Callable[[str], Policy]
) -> None:
    policy = read(TEXT)
    asked = Explainer(policy, compile_policy(policy, inventory), inventory, gone={"tokyo-1": "revoked"}).explain
    assert _keys(asked("tokyo-1", "web", "https")) == ["why-site-revoked"]
    assert _keys(asked("tokyo-1", "db", "https")) == ["why-site-revoked", "why-no-statement"]
    without = replace(inventory, sites=inventory.sites[1:])
    late = Explainer(policy, compile_policy(policy, inventory), without)
    assert _keys(late.explain("tokyo-1", "web", "https")) == ["why-site-gone"]
