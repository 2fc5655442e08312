"""The schemas are current, and agree with the parser about shape."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
import yaml

from cloudside.messages import catalogue
from rules.keys import LIMITS
from rules.model import Inventory, Limits, PlatformSource, PolicySource
from rules.parse import parse
from rules.problems import PolicyError
from rules.schema import Schema, platform_schema, tenant_schema

FOLDER = Path(__file__).parents[3] / "docs" / "schema"
FILES: dict[str, tuple[Callable[[Callable[[str], str]], Schema], str]] = {
    "policy.json": (tenant_schema, "en"),
    "policy.ja.json": (tenant_schema, "ja"),
    "platform.json": (platform_schema, "en"),
    "platform.ja.json": (platform_schema, "ja"),
}


def written(name: str) -> str:
    make, language = FILES[name]
    return json.dumps(make(catalogue(language).__getitem__), ensure_ascii=False, indent=2) + "\n"


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_current(name: str) -> None:
    """Run this file as a program to write them."""
    assert (FOLDER / name).read_text(encoding="utf-8") == written(name)
    jsonschema.Draft202012Validator.check_schema(json.loads(written(name)))


def test_every_limit_has_a_key() -> None:
    assert list(LIMITS.by_name) == [one.name for one in fields(Limits)]


def _accepted(schema: Schema, text: str) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(yaml.load(text, _Typed))  # noqa: S506


class _Typed(yaml.SafeLoader):
    """Reads as editors do: numbers and true and false are such, dates are texts."""


_Typed.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if not tag.endswith(("timestamp", "null", "merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

STATEMENT = "allow: [{from: tokyo-1, to: web, services: ssh, %s}]"
GOOD = [
    "groups: {a: [tokyo-1], b: {members: [web], inside: a}, c: tokyo-1}\nforbid-dual-membership: [[a, b]]",
    "services: {x: [tcp/80, udp/1-2], y: icmp/8/0, z: [https]}",
    "allow: [{from: [tokyo-1, osaka-1/plc], to: web, services: [any], both: true, name: a-1}]",
    STATEMENT % "owner: 5, reason: yes",
    STATEMENT % "valid: {from: 2026-11-01, until: 2026-12-01 08:00, weekly: [mon-fri 08:00-18:00], zone: Asia/Tokyo}",
    STATEMENT % "valid: {weekly: daily 22:00-06:00, zone: UTC}",
    'expect: ["tokyo-1 can reach web https, ping", "tokyo-1 cannot reach osaka-1 ssh"]',
    "allow: []",
]
BAD = [
    *("foo: 1", "groups: [a]", "groups: {Plant: [web]}", "groups: {g: []}", "groups: {g: {inside: a}}", "allow: {}"),
    *("groups: {g: {members: [web], around: x}}", "services: {x: [tcp/x]}", "services: {x: [Tcp]}", "allow: [tokyo-1]"),
    *("allow: [{from: tokyo-1, to: web}]", "allow: [{from: {}, to: web, services: ssh}]", STATEMENT % "both: 1"),
    *(STATEMENT % "nonsense: 1", STATEMENT % "name: A_b", STATEMENT % 'both: "true"', STATEMENT % "valid: {}"),
    STATEMENT % ("owner: " + "x" * 501),
    *(STATEMENT % "valid: {zone: UTC, weekly: mon-fry 08:00-09:00}", STATEMENT % "valid: {zone: UTC, from: tomorrow}"),
    *("expect: [tokyo-1 should reach web ssh]", "expect: [tokyo-1 can reach web]", "forbid-dual-membership: [[a]]"),
    *("allow: [{from: [], to: web, services: ssh}]", 'allow: [{from: "", to: web, services: ssh}]', "expect: {}"),
]
PLATFORM_GOOD = [
    "services: {telnet: tcp/23}\nforbidden: [telnet, tcp/445]\nservers: {web: {offers: [https, ping], opens: none}}",
    "limits: {groups: 50, members: 500, services: 50, statements: 1000}\ntenants: {acme: {statements: 5000}}",
    "servers: {web: {}}",
]
PLATFORM_BAD = [
    *("more: 1", "servers: {web: {nonsense: 1}}", "limits: {groups: -1}", "limits: {wheels: 1}", "tenants: [acme]"),
    *("limits: {groups: 1000001}", "limits: {groups: many}", "servers: [web]", "forbidden: []", "services: {X: ssh}"),
]


@pytest.mark.parametrize(("text", "good"), [(one, True) for one in GOOD] + [(one, False) for one in BAD])
def test_it_agrees_with_the_parser(inventory: Inventory, text: str, good: bool) -> None:
    text = "tenant: acme\n" + text
    assert _accepted(tenant_schema(str), text) == good
    assert _parsed(inventory, text, "{}") == good


@pytest.mark.parametrize(
    ("text", "good"), [(one, True) for one in PLATFORM_GOOD] + [(one, False) for one in PLATFORM_BAD]
)
def test_the_platforms_too(inventory: Inventory, text: str, good: bool) -> None:
    assert _accepted(platform_schema(str), text) == good
    assert _parsed(inventory, "tenant: acme", text) == good


def _parsed(inventory: Inventory, text: str, platform: str) -> bool:
    try:
        parse([PolicySource("acme", "acme.yaml", text)], inventory, PlatformSource("platform.yaml", platform))
    except PolicyError:
        return False
    return True


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name in FILES:
        (FOLDER / file_name).write_text(written(file_name), encoding="utf-8")
