from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rules.advice import advise
from rules.model import Inventory, PlatformSource, PolicySource
from rules.parse import parse, parse_stored

NOW = datetime(2026, 11, 22, tzinfo=UTC)
Told = Callable[..., list[tuple[str, int, str]]]


@pytest.fixture
def told(inventory: Inventory) -> Told:
    def ask(text: str, platform: str = "{}") -> list[tuple[str, int, str]]:
        sources = [PolicySource("acme", "acme.yaml", "tenant: acme\n" + text)]
        policy = parse(sources, inventory, PlatformSource("platform.yaml", platform))
        return [
            (found.kind.removeprefix("rules.advice-"), found.line, str(found.params.get("name", "")))
            for found in advise(policy, inventory, NOW)
        ]

    return ask


def _allow(*statements: str) -> str:
    return "allow:\n" + "".join(f"- {{{one}}}\n" for one in statements)


A = "name: a, from: [tokyo-1, osaka-1], to: [web, db], services: [ssh, tcp/8000-8100]"


def test_a_policy_that_says_something_is_left_alone(told: Told) -> None:
    text = "groups: {pair: [tokyo-1, osaka-1]}\nservices: {x: rdp}\n"
    text += _allow("name: a, from: pair, to: web, services: x") + "deny:\n- {from: osaka-1/plc, to: web, services: any}"
    assert told(text) == []


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        ("from: tokyo-1, to: web, services: ssh", True),
        ("from: [osaka-1, tokyo-1], to: [db, web], services: [tcp/8000-8100, ssh]", True),
        ("from: osaka-1/plc, to: web, services: tcp/8001", True),  # the site stands for its device
        ("from: tokyo-1, to: web, services: tcp/7999-8001", False),
        ("from: tokyo-1, to: web, services: [ssh, rdp]", False),
        ("from: tokyo-1, to: web, services: ssh, both: true", False),
        ("from: web, to: tokyo-1, services: ssh", False),
        ("from: tokyo-1, to: [web, osaka-1], services: ssh", False),
        ("from: tokyo-1, to: web, services: any", False),
        ("from: tokyo-1, to: web, services: ssh, valid: {from: 2026-01-01, zone: UTC}", True),
    ],
)
def test_an_allow_that_another_covers(told: Told, other: str, covered: bool) -> None:
    expected = [("covered", 4, "acme/b")] if covered else []
    assert told(_allow(A, "name: b, " + other)) == expected
    expected = [("covered", 3, "acme/b")] if covered and "8100, ssh" not in other else []
    if "8100, ssh" in other:
        expected = [("covered", 4, "acme/a")]  # two that say the same: the later one goes
    assert told(_allow("name: b, " + other, A)) == expected


def test_what_holds_at_times_covers_only_what_holds_then_too(told: Told) -> None:
    always, hours = "from: tokyo-1, to: web, services: ssh", "valid: {weekly: [mon 08:00-09:00], zone: UTC}"
    wide = f"name: w, from: [tokyo-1, osaka-1], to: web, services: ssh, {hours}"
    assert told(_allow(wide, f"name: a, {always}")) == []
    assert told(_allow(wide, f"name: a, {always}, {hours}")) == [("covered", 4, "acme/a")]
    assert told(_allow(f"name: a, {always}, valid: {{until: 2026-11-22, zone: UTC}}")) == [("past", 3, "acme/a")]
    assert told(_allow(f"name: a, {always}, valid: {{until: 2026-11-23, zone: UTC}}")) == []


def test_both_directions_cover_both(told: Told) -> None:
    wide = "name: w, from: tokyo-1, to: [web, osaka-1], services: any, both: true"
    assert told(_allow(wide, "name: a, from: osaka-1, to: tokyo-1, services: ssh, both: true")) == [
        ("covered", 4, "acme/a")
    ]


@pytest.mark.parametrize(
    ("denied", "kinds"),
    [
        ("from: tokyo-1, to: web, services: any", ["all-denied"]),
        ("from: [tokyo-1, db], to: [web, osaka-1], services: tcp/1-100", ["all-denied"]),
        ("from: tokyo-1, to: web, services: ssh", []),
        ("from: tokyo-1, to: web, services: any, valid: {from: 2026-01-01, zone: UTC}", []),
        ("from: web, to: tokyo-1, services: any", ["takes-nothing"]),
        ("from: web, to: tokyo-1, services: any, both: true", ["all-denied"]),
        ("from: osaka-1, to: web, services: any", ["takes-nothing"]),
        ("from: tokyo-1, to: web, services: rdp", ["takes-nothing"]),
    ],
)
def test_denials(told: Told, denied: str, kinds: list[str]) -> None:
    text = _allow("name: a, from: tokyo-1, to: web, services: [ssh, http]") + f"deny:\n- {{name: d, {denied}}}\n"
    assert [kind for kind, _, _ in told(text)] == kinds


def test_denials_together_take_all_and_a_denied_site_has_no_devices_left(told: Told) -> None:
    text = _allow("name: a, from: [tokyo-1, osaka-1/plc], to: web, services: [ssh, http]")
    text += "deny:\n- {name: d, from: tokyo-1, to: web, services: any}\n"
    text += "- {name: e, from: osaka-1, to: web, services: ssh}\n"
    assert told(text) == []
    text += "- {name: f, from: osaka-1/plc, to: web, services: http}\n"
    assert told(text) == [("all-denied", 3, "acme/a")]


def test_a_nested_group_closes_what_is_said_from_outside(told: Told) -> None:
    text = "groups: {outer: [tokyo-1], inner: {members: [osaka-1/plc], inside: outer}}\n"
    assert told(text + _allow("name: a, from: tokyo-1, to: osaka-1/plc, services: ssh")) == [
        ("all-enclosed", 4, "acme/a")
    ]
    assert told(text + _allow("name: a, from: tokyo-1, to: osaka-1, services: ssh")) == []
    # The site is outside, a device of it is inside.
    text = "groups: {outer: [tokyo-1], inner: {members: [osaka-1/plc, tokyo-1], inside: outer}}\n"
    assert told(text + _allow("name: a, from: osaka-1, to: tokyo-1, services: ssh")) == []


def test_the_platforms_file_takes_away(told: Told) -> None:
    allow = _allow("name: a, from: tokyo-1, to: web, services: [ssh, tcp/23]")
    assert told(allow, "servers: {web: {offers: [http], opens: none}}") == [("all-restricted", 3, "acme/a")]
    assert told(allow, "servers: {web: {offers: [ssh], opens: none}}") == []
    assert told(allow, "servers: {web: {offers: [ssh]}}\nforbidden: ssh") == [("all-restricted", 3, "acme/a")]
    deny = "deny:\n- {name: d, from: tokyo-1, to: web, services: ssh}"
    both = "servers: {web: {offers: [ssh]}}"
    assert told(allow + deny, both) == [("all-blocked", 3, "acme/a")]


def test_definitions_that_nobody_uses(told: Told) -> None:
    text = """groups:
  used: [tokyo-1, osaka-1, tokyo-1]
  idle: [tokyo-1]
  apart: [osaka-1]
  outer: [tokyo-1]
  inner: {members: [db], inside: outer}
forbid-dual-membership: [[apart, outer]]
services: {own: ssh, spare: rdp, hoped: ssh}
allow: [{from: [used], to: web, services: [own, http]}]
expect: ["tokyo-1 can reach web hoped"]
"""
    assert told(text) == [("twice", 3, "tokyo-1"), ("unused-group", 4, "idle"), ("unused-service", 9, "spare")]


def test_a_stored_statement_whose_names_are_gone(inventory: Inventory) -> None:
    text = "tenant: acme\nallow: [{name: a, from: osaka-1, to: web, services: ssh}]"
    without = replace(inventory, sites=tuple(site for site in inventory.sites if site.name != "osaka-1"))
    policy, _ = parse_stored([PolicySource("acme", "acme.yaml", text)], without)
    (found,) = advise(policy, without)
    assert (found.kind, dict(found.params)) == ("rules.advice-nobody", {"name": "acme/a", "names": "osaka-1"})
