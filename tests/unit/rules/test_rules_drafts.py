"""What is kept between two readings, and that it never tells anything else than a first reading would."""

from dataclasses import replace

import pytest

from rules import parse as reading
from rules.model import Inventory, PlatformSource, Policy, PolicySource
from rules.parse import Drafts, parse_stored
from rules.problems import Problem

ACME = """tenant: acme
groups: {pair: [tokyo-1, osaka-1]}
allow:
  - {name: a, from: pair, to: pair, services: ssh}
  - {name: b, from: pair, to: web, services: ssh}
"""
SOURCES = (PolicySource("acme", "p.yaml", ACME), PolicySource("zeta", "p.yaml", "tenant: zeta"))


class _Counted:
    """Counts the texts that are read, and the drafts that are held against an inventory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[str] = []
        self.held: list[str] = []
        draft, against = reading.draft, reading.against

        def counted_draft(source: PolicySource, platform: reading.Platform) -> reading.Draft:
            self.read.append(source.tenant)
            return draft(source, platform)

        def counted_against(one: reading.Draft, names: reading.Names, *, known_tenant: bool) -> tuple[Problem, ...]:
            self.held.append(one.source.tenant)
            return against(one, names, known_tenant=known_tenant)

        monkeypatch.setattr(reading, "draft", counted_draft)
        monkeypatch.setattr(reading, "against", counted_against)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> _Counted:
    return _Counted(monkeypatch)


def _again(drafts: Drafts, sources: tuple[PolicySource, ...], inventory: Inventory) -> Policy:
    kept = parse_stored(sources, inventory, drafts=drafts)
    assert kept == parse_stored(sources, inventory)
    return kept[0]


def test_nothing_changed_costs_nothing(inventory: Inventory, counted: _Counted) -> None:
    drafts = Drafts()
    first, _ = parse_stored(SOURCES, inventory, drafts=drafts)
    counted.read.clear()
    counted.held.clear()
    sites = tuple(replace(site) for site in inventory.sites)  # equal, and other objects
    second, _ = parse_stored(SOURCES, replace(inventory, sites=sites), drafts=drafts)
    assert (counted.read, counted.held) == ([], [])
    assert all(first.tenants[tenant] is second.tenants[tenant] for tenant in ("acme", "zeta"))


def test_a_site_that_goes_is_told_and_no_text_is_read(inventory: Inventory, counted: _Counted) -> None:
    drafts = Drafts()
    first, _ = parse_stored(SOURCES, inventory, drafts=drafts)
    counted.read.clear()
    counted.held.clear()
    without = replace(inventory, sites=tuple(site for site in inventory.sites if site.name != "osaka-1"))
    second, told = parse_stored(SOURCES, without, drafts=drafts)
    assert (counted.read, counted.held) == ([], ["acme"])
    assert second.tenants["acme"] is first.tenants["acme"]
    assert [found.kind for found in told] == ["rules.unknown-name", "rules.same-site"]
    third, told = parse_stored(SOURCES, inventory, drafts=drafts)
    assert third.tenants["acme"] is first.tenants["acme"]
    assert told == ()


def test_a_text_that_changed_is_read_and_no_other(inventory: Inventory, counted: _Counted) -> None:
    drafts = Drafts()
    first, _ = parse_stored(SOURCES, inventory, drafts=drafts)
    counted.read.clear()
    edited = (replace(SOURCES[0], text=ACME.replace("ssh", "rdp")), SOURCES[1])
    second, _ = parse_stored(edited, inventory, drafts=drafts)
    assert counted.read == ["acme"]
    assert second.tenants["acme"] != first.tenants["acme"]
    assert second.tenants["zeta"] is first.tenants["zeta"]


def test_the_platforms_file_is_above_all_of_them(inventory: Inventory, counted: _Counted) -> None:
    drafts = Drafts()
    one, other = (PlatformSource("platform.yaml", f"forbidden: {service}") for service in ("ssh", "rdp"))
    _, told = parse_stored(SOURCES, inventory, one, drafts=drafts)
    assert [found.kind for found in told] == ["rules.service-forbidden"] * 2
    counted.read.clear()
    parse_stored(SOURCES, inventory, replace(one), drafts=drafts)
    assert counted.read == []
    _, told = parse_stored(SOURCES, inventory, other, drafts=drafts)
    assert (told, counted.read) == ((), ["acme", "zeta"])


def test_a_new_shared_server_is_seen_by_all(inventory: Inventory) -> None:
    drafts = Drafts()
    policy = _again(drafts, SOURCES, inventory)
    grown = replace(inventory, servers=(*inventory.servers, replace(inventory.servers[0], name="pair")))
    grown = replace(grown, servers=tuple(one for one in grown.servers if one.name != "web"))
    assert _again(drafts, SOURCES, grown) == policy
    _, told = parse_stored(SOURCES, grown, drafts=drafts)
    assert [found.kind for found in told] == ["rules.name-taken", "rules.unknown-name"]


def test_a_tenant_without_a_file_any_more_and_one_with_two(inventory: Inventory) -> None:
    drafts = Drafts()
    _again(drafts, SOURCES, inventory)
    assert set(_again(drafts, SOURCES[:1], inventory).tenants) == {"acme"}
    twice = (*SOURCES, PolicySource("acme", "p.yaml", "tenant: acme"))
    assert len(_again(drafts, twice, inventory).tenants["acme"].statements) == 2
    assert set(_again(drafts, SOURCES, inventory).tenants) == {"acme", "zeta"}


def test_a_tenant_that_comes_to_be(inventory: Inventory) -> None:
    drafts = Drafts()
    without = replace(
        inventory,
        tenants={"zeta": inventory.tenants["zeta"]},
        sites=tuple(site for site in inventory.sites if site.tenant == "zeta"),
        devices=(),
        servers=inventory.servers[:1],
    )
    assert set(_again(drafts, SOURCES, without).tenants) == {"zeta"}
    assert set(_again(drafts, SOURCES, inventory).tenants) == {"acme", "zeta"}
