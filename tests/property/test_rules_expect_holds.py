"""An expectation is told exactly if some packet at a boundary contradicts it."""

from ipaddress import ip_network

from hypothesis import given, settings
from rules_worlds import SELECTORS, World, boundary_addresses, network_of, worlds

from rules.compile import compile_policy
from rules.evaluate import evaluate
from rules.expect import unmet
from rules.model import Address, Inventory, Packet
from rules.parse import parse_stored

NO_QUESTION = {"rules.icmp-starts-nothing"}


def _inside(inventory: Inventory, name: str) -> list[Address]:
    network = ip_network(network_of(inventory, name))
    return [address for address in boundary_addresses(inventory) if address in network]


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_every_packet_agrees(world: World) -> None:
    policy, problems = parse_stored(world.sources(), world.inventory, world.platform_source())
    rule_set = compile_policy(policy, world.inventory)
    not_asked = {(one.file, one.line, one.column) for one in problems}
    for own in policy.tenants.values():
        told = {(one.file, one.line, one.column) for one in unmet(rule_set, own)}
        for expected in own.expectations:
            if tuple(expected.place) in not_asked:
                continue  # the ends are of one site, or both servers
            packets = [
                Packet(source, destination, protocol, None if protocol == 1 else number or None, number, code)
                for source in _inside(world.inventory, expected.source)
                for destination in _inside(world.inventory, expected.destination)
                for protocol, number, code in SELECTORS
            ]
            verdicts = [
                evaluate(rule_set, packet)
                for packet in packets
                if any(service.covers(packet.protocol, packet.selector) for service in expected.services)
            ]
            # ICMP messages that start nothing pass with their flow or not at all, whatever a policy opens.
            asked = {one.allowed for one in verdicts if one.reason is None or one.reason.key not in NO_QUESTION}
            if asked:
                assert (tuple(expected.place) in told) == ((not expected.reachable) in asked)
