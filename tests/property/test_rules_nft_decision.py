"""The nft renderer against the evaluator, on random worlds: the second reading of the same compiled form."""

from hypothesis import given, settings
from hypothesis import strategies as st
from nft_interpreter import Question, Walk
from rules_worlds import packets, worlds

from rules.compile import compile_policy
from rules.evaluate import evaluate
from rules.parse import parse_stored
from rules.render import Sides
from rules.render_nft import build, nft_table


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_rendered_table_decides_as_the_evaluator_does(data: st.DataObject) -> None:
    world = data.draw(worlds())
    policy, _ = parse_stored(world.sources(), world.inventory, world.platform_source())
    rule_set = compile_policy(policy, world.inventory)
    table = nft_table(rule_set, sides=Sides("tun", "lan"))
    assert build(table, 1) == build(nft_table(rule_set, sides=Sides("tun", "lan")), 1)
    servers = {server.address for server in world.inventory.servers}
    for packet in data.draw(st.lists(packets(world.inventory), min_size=25, max_size=25)):
        expected = evaluate(rule_set, packet).allowed
        sides = ["lan" if address in servers else "tun" for address in (packet.source, packet.destination)]
        for came_in in ("tun", "lan", "wan"):
            for goes_out in ("tun", "lan", "wan"):
                ends = str(packet.source), str(packet.destination)
                question = Question(came_in, goes_out, *ends, packet.protocol, packet.selector)
                found = Walk(table.sets, table.chains, question).granted()
                assert found == (expected and [came_in, goes_out] == sides), question
