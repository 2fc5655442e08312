"""Everything at once is what pair by pair comes to: reach, who-can-reach and differences against the evaluator's own
reading of each pair of parts, devices that no clause names included."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from rules_worlds import SERVICES, World, inventories, worlds

from rules.compile import RuleSet, compile_policy
from rules.diff import diff
from rules.evaluate import Lineage, lineage, passing
from rules.explain import asked
from rules.model import Inventory, Kind, Service
from rules.parse import parse_stored
from rules.reach import Reach, reach, who_can_reach
from rules.services import intersected, merged, of_family, subtracted

Table = dict[tuple[str, str], tuple[Service, ...]]


def _compiled(world: World) -> RuleSet:
    policy, _ = parse_stored(world.sources(), world.inventory, world.platform_source())
    return compile_policy(policy, world.inventory)


def _parts(rule_sets: Iterable[RuleSet]) -> dict[str, str]:
    """Every name of every rule set with its home."""
    return {name: one.site or name for rule_set in rule_sets for name, one in rule_set.endpoints.items()}


def _lined(rule_set: RuleSet, name: str, home: str) -> Lineage:
    known = rule_set.endpoints.get(name) or rule_set.endpoints.get(home)
    return () if known is None else lineage(rule_set, known)


def _pair_by_pair(rule_set: RuleSet, parts: dict[str, str]) -> Table:
    found: Table = {}
    for (one, one_home), (other, other_home) in product(parts.items(), repeat=2):
        source, destination = _lined(rule_set, one, one_home), _lined(rule_set, other, other_home)
        if source and destination and (services := passing(rule_set, source, destination)):
            found[one, other] = services
    return found


def _told(rows: Iterable[Reach], parts: dict[str, str]) -> Table:
    """What rows say of each pair of parts."""
    within: dict[str, set[str]] = {}
    for name, home in parts.items():
        within.setdefault(home, {home}).add(name)
    found: dict[tuple[str, str], list[Service]] = {}
    for row in rows:
        pairs = set(product(within.get(row.source, {row.source}), within.get(row.destination, {row.destination})))
        for apart in row.apart:
            pairs -= set(product(within.get(apart[0], {apart[0]}), within.get(apart[1], {apart[1]})))
        for pair in pairs:
            found.setdefault(pair, []).append(row.service)
    return {pair: merged(services) for pair, services in found.items()}


def _swapped(inventory: Inventory, one: str, other: str) -> Inventory:
    """Two sites, perhaps of different tenants, have each other's names."""
    names = {one: other, other: one}
    sites = tuple(replace(site, name=names.get(site.name, site.name)) for site in inventory.sites)
    devices = tuple(replace(device, site=names.get(device.site, device.site)) for device in inventory.devices)
    return replace(inventory, sites=sites, devices=devices)


@st.composite
def _changed(draw: st.DrawFn, inventory: Inventory) -> Inventory:
    """Another moment's inventory: sites and devices gone, names moved, a server that is shared no more."""
    sites = st.sampled_from([site.name for site in inventory.sites])
    for _ in range(draw(st.integers(0, 3))):
        inventory = _swapped(inventory, draw(sites), draw(sites))
    staying = {site.tenant: site.name for site in inventory.sites}.values()  # a policy has to have names to speak of
    gone = draw(st.sets(sites, max_size=2)).difference(staying)
    devices = tuple(one for one in inventory.devices if draw(st.booleans()) and one.site not in gone)
    servers = tuple(
        replace(one, tenant=draw(st.sampled_from([one.tenant, None, *inventory.tenants]))) for one in inventory.servers
    )
    kept = tuple(site for site in inventory.sites if site.name not in gone)
    return replace(inventory, sites=kept, devices=devices, servers=servers)


@given(worlds(), st.sampled_from([one for one in SERVICES if one != "own"]))
@settings(max_examples=40, deadline=None)
def test_what_is_reached_is_what_passes_pair_by_pair(world: World, service: str) -> None:
    rule_set = _compiled(world)
    parts = _parts([rule_set])
    passes = _pair_by_pair(rule_set, parts)
    services = asked(service, [])
    for name, endpoint in rule_set.endpoints.items():
        own = {name} if endpoint.kind is Kind.DEVICE else {part for part, home in parts.items() if home == name}
        there = reach(rule_set, name)
        assert list(there) == sorted(there)
        told = {pair: found for pair, found in _told(there, parts).items() if pair[0] in own}
        assert told == {pair: found for pair, found in passes.items() if pair[0] in own}
        back = who_can_reach(rule_set, name, services)
        assert list(back) == sorted(back)
        wanted = {pair: intersected(found, services) for pair, found in passes.items() if pair[1] in own}
        told = {pair: found for pair, found in _told(back, parts).items() if pair[1] in own}
        assert told == {pair: found for pair, found in wanted.items() if found}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_difference_is_what_differs_pair_by_pair(data: st.DataObject) -> None:
    inventory = data.draw(inventories())
    first = data.draw(worlds(inventory))
    second = data.draw(worlds(data.draw(_changed(inventory))))
    kept = data.draw(st.sampled_from(["all", "acme", "platform", "nothing"]))
    if kept in ("all", "acme"):
        keys = [*second.policies] if kept == "all" else ["acme"]
        second = replace(second, policies=second.policies | {key: first.policies[key] for key in keys})
    if kept in ("all", "platform"):
        second = replace(second, platform=first.platform)
    old, new = _compiled(first), _compiled(second)
    parts = _parts([old, new])
    before, after = _pair_by_pair(old, parts), _pair_by_pair(new, parts)
    found = diff(old, new)
    for rows, more, less in ((found.opened, after, before), (found.closed, before, after)):
        wanted = {pair: of_family(subtracted(services, less.get(pair, ())), 4) for pair, services in more.items()}
        assert _told(rows, parts) == {pair: services for pair, services in wanted.items() if services}
        ends = list(rows.ends())
        assert (len(ends), set(ends)) == (rows.pairs, {(row.source, row.destination) for row in rows})
        assert len(set(ends)) == len(ends)
        assert list(rows.first(2)) == list(rows)[: len(rows.first(2))]
        assert len({(row.source, row.destination) for row in rows.first(2)}) == min(2, rows.pairs)
    assert (diff(old, old).opened.pairs, diff(new, new).closed.pairs) == (0, 0)
    assert (diff(old, new).digest == diff(old, old).digest) == (not found.opened and not found.closed)
