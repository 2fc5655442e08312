from collections.abc import Callable

import pytest

from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Inventory, Packet, PlatformSource, PolicySource
from rules.parse import parse, parse_stored
from rules.problems import PolicyError

Ask = Callable[..., Packet]
TENANT = "tenant: acme\nallow:\n- {from: tokyo-1, to: [web, osaka-1], services: any, both: true}"


def _decided(inventory: Inventory, platform: str, tenant: str = TENANT) -> RuleSet:
    sources = [PolicySource("acme", "acme.yaml", tenant)]
    return compile_policy(parse(sources, inventory, PlatformSource("platform.yaml", platform)), inventory)


def _problems(inventory: Inventory, platform: str, tenant: str = TENANT) -> list[tuple[str, str]]:
    with pytest.raises(PolicyError) as caught:
        _decided(inventory, platform, tenant)
    return [(found.place, found.kind.removeprefix("rules.")) for found in caught.value.problems]


def test_a_forbidden_service_is_open_to_nobody(inventory: Inventory, packet: Ask) -> None:
    rule_set = _decided(inventory, "services: {old: tcp/23}\nforbidden: [old, tcp/445]")
    for port, allowed in ((22, True), (23, False), (24, True), (445, False)):
        verdict = evaluate(rule_set, packet("10.10.1.1", "10.10.2.1", 6, port))
        assert verdict.allowed == allowed
        assert verdict.reason is None or verdict.reason.key == "rules.forbidden"
    assert evaluate(rule_set, packet("10.10.1.1", "10.10.2.1", 47, None)).allowed


def test_a_shared_server_serves_what_it_is_for(inventory: Inventory, packet: Ask) -> None:
    rule_set = _decided(inventory, "servers: {web: {offers: [http], opens: none}}")
    assert evaluate(rule_set, packet("10.10.1.1", "10.200.0.10")).allowed
    verdict = evaluate(rule_set, packet("10.10.1.1", "10.200.0.10", 6, 22))
    assert verdict.reason is not None
    assert verdict.reason.key == "rules.server-restricted"
    assert not evaluate(rule_set, packet("10.200.0.10", "10.10.1.1")).allowed
    assert evaluate(rule_set, packet("10.10.1.1", "10.10.2.1", 6, 22)).allowed


def test_mistakes_in_it_and_against_it(inventory: Inventory) -> None:
    platform = """forbidden: [htps]
servers: {db: {offers: ssh}, web: {nonsense: 1}}
limits: {groups: -1, wheels: 4}
tenants: {ghost: {groups: 1}}
more: 1"""
    assert _problems(inventory, platform) == [
        ("platform.yaml:1:13", "unknown-service-similar"),
        ("platform.yaml:2:11", "no-shared-server"),
        ("platform.yaml:2:36", "unknown-key"),
        ("platform.yaml:3:18", "bad-limit"),
        ("platform.yaml:3:22", "unknown-key"),
        ("platform.yaml:4:11", "no-such-tenant"),
        ("platform.yaml:5:1", "unknown-key"),
    ]
    tenant = "tenant: acme\nallow: [{from: tokyo-1, to: web, services: [ssh]}]"
    assert _problems(inventory, "forbidden: [tcp/1-100]", tenant) == [("acme.yaml:2:44", "service-forbidden")]


def test_limits_on_a_tenants_entries(inventory: Inventory) -> None:
    tenant = """tenant: acme
groups: {a: [tokyo-1, web], b: [web]}
services: {x: ssh, y: ssh}
allow: [{from: a, to: osaka-1, services: x}]
deny: [{from: a, to: osaka-1, services: x}]
"""
    limits = "limits: {groups: 1, members: 1, services: 1, statements: 1}"
    found = [("acme.yaml:2:9", "limit-groups"), ("acme.yaml:2:10", "limit-members")]
    found += [("acme.yaml:3:11", "limit-services"), ("acme.yaml:4:8", "limit-statements")]
    assert _problems(inventory, limits, tenant) == found
    _decided(inventory, limits + "\ntenants: {acme: {groups: 2}}", tenant)
    stored = [PolicySource("acme", "acme.yaml", tenant)]
    policy, told = parse_stored(stored, inventory, PlatformSource("platform.yaml", limits))
    assert len(policy.statements) == 2
    assert len(told) == 4
    policy, told = parse_stored(stored, inventory, PlatformSource("platform.yaml", "["))
    assert (policy.statements, len(told)) == ((), 1)
