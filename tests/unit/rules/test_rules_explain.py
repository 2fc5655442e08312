from collections.abc import Callable

import pytest

from rules.compile import compile_policy
from rules.explain import Explanation, explain
from rules.model import Inventory, Policy
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
    assert _keys(why("web", "tokyo-1", "https")) == ["why-no-statement", "why-only-reverse"]
    partly = why("tokyo-1", "web", "tcp/8005-8012")
    assert _keys(partly) == ["why-partly"]
    assert partly.reasons[0].params["missing"] == "tcp/8011-8012"
    assert _keys(why("tokyo-1", "kobe-1", "ssh")) == ["cross-tenant"]
    assert _keys(why("osaka-1", "osaka-1/plc", "ssh")) == ["same-site"]
    assert _keys(why("tokyo-1", "web", "icmpv6")) == ["why-other-family"]


def test_a_question_about_nothing_is_told_whole(why: Why) -> None:
    with pytest.raises(PolicyError) as caught:
        why("tokio-1", "10.77.0.1", "htps")
    assert {found.kind for found in caught.value.problems} == {
        *("rules.unknown-end-similar", "rules.unknown-address", "rules.unknown-service-similar")
    }


def test_a_denial_is_named_and_holds_for_the_whole_site_that_was_asked_about(why: Why) -> None:
    found = why("osaka-1", "web", "http")
    assert _keys(found) == ["why-denied"]
    assert [one.id for one in found.statements] == ["acme/all", "acme/no"]
    assert why("10.10.2.21", "web", "http").allowed
    assert _keys(why("osaka-1/plc", "web", "http")) == ["why-denied"]
    assert _keys(why("osaka-1/plc", "web", "tcp/79-80")) == ["why-denied", "why-partly"]
