from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network

from rules.compile import RuleSet, compile_policy
from rules.diff import diff
from rules.model import Inventory, PlatformSource, Policy, PolicySource
from rules.parse import parse
from rules.reach import Reach
from rules.services import shown

Decide = Callable[[str], RuleSet]


def _rows(found: Iterable[Reach]) -> list[tuple[str, str, str]]:
    return [(one.source, one.destination, shown(one.service)) for one in found]


def test_the_first_policy_opens_all_it_allows(decide: Decide) -> None:
    found = diff(None, decide("allow: [{from: [tokyo-1, osaka-1], to: web, services: [ping, http]}]"))
    assert found.closed == ()
    assert _rows(found.opened) == [
        *(("osaka-1", "web", "icmp/8/0"), ("osaka-1", "web", "tcp/80")),
        *(("tokyo-1", "web", "icmp/8/0"), ("tokyo-1", "web", "tcp/80")),
    ]


def test_only_what_changes_is_listed(decide: Decide) -> None:
    old = decide("allow: [{name: a, from: tokyo-1, to: web, services: tcp/80-90}]")
    new = decide("allow: [{name: b, from: tokyo-1, to: [web, db], services: tcp/85-95}]")
    found = diff(old, new)
    assert _rows(found.opened) == [("tokyo-1", "db", "tcp/85-95"), ("tokyo-1", "web", "tcp/91-95")]
    assert _rows(found.closed) == [("tokyo-1", "web", "tcp/80-84")]


def test_saying_the_same_in_other_words_is_no_change(decide: Decide) -> None:
    old = decide("allow: [{from: [tokyo-1, osaka-1], to: web, services: tcp/80-81}]")
    new = decide(
        "groups: {g: [osaka-1]}\nallow:\n- {from: g, to: web, services: [http, tcp/81]}\n"
        "- {from: tokyo-1, to: web, services: tcp/80-81}"
    )
    assert diff(old, new) == diff(new, old) == diff(old, old)


def test_a_device_that_keeps_what_its_site_gets_is_no_change(decide: Decide) -> None:
    old = decide("allow: [{from: osaka-1/plc, to: web, services: ssh}]")
    new = decide("allow: [{from: osaka-1, to: web, services: ssh}]")
    found = diff(old, new)
    assert (_rows(found.opened), found.closed) == ([("osaka-1", "web", "tcp/22")], ())
    assert _rows(diff(new, old).closed) == [("osaka-1", "web", "tcp/22")]


def test_what_the_platform_alone_takes_away_is_closed(inventory: Inventory) -> None:
    text = "tenant: acme\nallow: [{from: tokyo-1, to: web, services: any}, {from: osaka-1, to: web, services: http}]\n"
    source, above = PolicySource("acme", "acme.yaml", text), PlatformSource("platform.yaml", "forbidden: [ssh]\n")
    open_, forbids = (compile_policy(parse([source], inventory, platform), inventory) for platform in (None, above))
    found = diff(open_, forbids)
    assert (_rows(found.closed), found.opened.pairs) == ([("tokyo-1", "web", "tcp/22")], 0)
    assert _rows(diff(forbids, open_).opened) == [("tokyo-1", "web", "tcp/22")]


def test_a_shared_server_that_comes_opens_what_names_it(inventory: Inventory, read: Callable[[str], Policy]) -> None:
    policy = read("allow: [{from: [tokyo-1, osaka-1], to: web, services: http}]")
    without = compile_policy(policy, replace(inventory, servers=inventory.servers[1:]))
    found = diff(without, compile_policy(policy, inventory))
    assert [one[:2] for one in _rows(found.opened)] == [("osaka-1", "web"), ("tokyo-1", "web")]


def test_sites_that_keep_what_they_may_under_another_tenant_are_no_change(inventory: Inventory) -> None:
    text = "tenant: %s\nallow: [{from: tokyo-1, to: [osaka-1, web], services: http}]\n"
    moved = replace(
        inventory,
        sites=tuple(
            replace(site, tenant="zeta", prefix=ip_network(f"10.20.{number}.0/24"))
            for number, site in enumerate(inventory.sites, start=7)
        ),
        devices=(),
    )
    before, after = (
        compile_policy(parse([PolicySource(tenant, f"{tenant}.yaml", text % tenant)], world), world)
        for tenant, world in (("acme", inventory), ("zeta", moved))
    )
    assert before.domains["acme"].endpoints.keys() & after.domains["zeta"].endpoints.keys() >= {"tokyo-1", "osaka-1"}
    found = diff(before, after)
    assert (found.opened.pairs, found.closed.pairs) == (0, 0)
