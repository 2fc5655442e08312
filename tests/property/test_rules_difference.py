"""A difference is exactly the difference: applying it to what passed before gives what passes after."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from rules_worlds import World, inventories, packets, worlds

from rules.compile import RuleSet, compile_policy
from rules.diff import diff
from rules.evaluate import evaluate
from rules.model import ICMP_STARTING, Inventory, Packet, Protocol
from rules.parse import parse_stored
from rules.reach import Reach


def _compiled(world: World) -> RuleSet:
    policy, _ = parse_stored(world.sources(), world.inventory, world.platform_source())
    return compile_policy(policy, world.inventory)


def _holds(rule_set: RuleSet, reach: Iterable[Reach], packet: Packet) -> bool:
    sources = [one.name for one in rule_set.whereabouts.at(packet.source)]
    destinations = [one.name for one in rule_set.whereabouts.at(packet.destination)]
    inner = {(source, destination) for source in sources for destination in destinations}
    named = {6: 6, 17: 17, 1: 1}.get(packet.protocol, -2)
    return any(
        (one.source, one.destination) in inner
        and not any(pair in inner for pair in one.apart)
        and (one.service.protocol == -1 or one.service.covers(named, packet.selector if named > 0 else 0))
        for one in reach
    )


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_opened_and_closed_are_what_changed(data: st.DataObject) -> None:
    first = data.draw(worlds())
    second = World(first.inventory, data.draw(worlds()).policies, data.draw(st.sampled_from([None, first.platform])))
    if data.draw(st.booleans()):  # a small change: one tenant's policy stays
        second = World(first.inventory, second.policies | {"acme": first.policies["acme"]}, second.platform)
    old, new = _compiled(first), _compiled(second)
    found = diff(old, new)
    opened, closed = tuple(found.opened), tuple(found.closed)
    for packet in data.draw(st.lists(packets(first.inventory), min_size=30, max_size=30)):
        if packet.protocol == Protocol.ICMP and packet.icmp_type not in ICMP_STARTING:
            continue  # starts nothing, whatever is allowed
        before, after = evaluate(old, packet).allowed, evaluate(new, packet).allowed
        assert _holds(new, opened, packet) == (after and not before)
        assert _holds(new, closed, packet) == (before and not after)


@given(worlds())
@settings(max_examples=20, deadline=None)
def test_no_change_is_no_difference_and_back_is_the_mirror(world: World) -> None:
    rule_set = _compiled(world)
    nothing = compile_policy(parse_stored([], world.inventory)[0], world.inventory)
    assert diff(rule_set, rule_set) == diff(None, nothing)
    there, back = diff(nothing, rule_set), diff(rule_set, nothing)
    assert (there.opened, there.closed) == (back.closed, back.opened)
    assert diff(None, rule_set) == there


@given(inventories())
@settings(max_examples=20, deadline=None)
def test_an_empty_policy_opens_nothing(inventory: Inventory) -> None:
    nothing = compile_policy(parse_stored([], inventory)[0], inventory)
    assert diff(None, nothing).opened.pairs == 0
