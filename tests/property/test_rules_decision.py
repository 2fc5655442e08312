"""One decision, three readings: the policy's plain words, the evaluator, the rendered text."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from rules_interpreter import Kernel
from rules_worlds import FORBIDDABLE, SERVICES, World, names_of, network_of, packets, worlds

from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Inventory, Packet, Policy, Statement, TenantPolicy
from rules.parse import parse_stored
from rules.render import Sides, render

SIDES = Sides("tun", "lan")


def _compiled(world: World) -> RuleSet:
    policy, _ = parse_stored(world.sources(), world.inventory, world.platform_source())
    return compile_policy(policy, world.inventory)


def _plainly_allowed(world: World, packet: Packet) -> bool:
    """The policy as a person reads it, statement by statement, with nothing of rules/ but its data."""
    inventory = world.inventory
    homes = [
        next((site.name for site in inventory.sites if address in site.prefix), None)
        for address in (packet.source, packet.destination)
    ]
    if homes[0] == homes[1]:  # within a site, between servers, or unknown on both sides
        return False
    number, code = (packet.icmp_type, packet.icmp_code) if packet.protocol == 1 else (packet.port, 0)
    if packet.protocol == 1 and number not in (8, 13, 15, 17):  # an answer or an error: nothing begins with it
        return False
    if world.platform is not None:
        said = {**SERVICES, **FORBIDDABLE}
        if any(said[name](packet.protocol, number or 0, code) for name in world.platform["forbidden"]):
            return False
        for address, side in ((packet.source, "opens"), (packet.destination, "offers")):
            for server in inventory.servers:
                limit = world.platform["servers"].get(server.name)
                if server.address != address or limit is None:
                    continue
                if not any(SERVICES[name](packet.protocol, number or 0, code) for name in limit[side]):
                    return False
    found = {"allow": False, "deny": False}
    for tenant, data in world.policies.items():
        mine = names_of(inventory, tenant)

        def members(group, data=data):  # type: ignore[no-untyped-def]
            written = data["groups"][group]
            found = list(written if isinstance(written, list) else written["members"])
            for name, other in data["groups"].items():
                if isinstance(other, dict) and other["inside"] == group:
                    found += members(name)
            return found

        def covers(written, address, mine=mine, data=data, members=members):  # type: ignore[no-untyped-def]
            names = [member for name in written for member in (members(name) if name in data["groups"] else [name])]
            assert set(names) <= set(mine)
            return any(address in network_of(inventory, name) for name in names)

        for name, written in data["groups"].items():
            own = [
                one for one in members(name) if not any(one == s.name and s.tenant is None for s in inventory.servers)
            ]
            if isinstance(written, dict) and covers(own, packet.destination) and not covers([name], packet.source):
                return False
        for action in found:
            for statement in data[action]:
                if not any(SERVICES[name](packet.protocol, number or 0, code) for name in statement["services"]):
                    continue
                ends = packet.source, packet.destination
                for source, destination in (ends, ends[::-1]) if statement.get("both") else (ends,):
                    if covers(statement["from"], source) and covers(statement["to"], destination):
                        found[action] = True
    return found["allow"] and not found["deny"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_evaluator_and_rendered_text_equal_the_plain_reading(data: st.DataObject) -> None:
    world = data.draw(worlds())
    rule_set = _compiled(world)
    rendered = render(rule_set, version=3, sides=SIDES)
    kernel = Kernel.read(rendered.sets, rendered.chains)
    servers = {server.address for server in world.inventory.servers}
    for packet in data.draw(st.lists(packets(world.inventory), min_size=25, max_size=25)):
        expected = _plainly_allowed(world, packet)
        verdict = evaluate(rule_set, packet)
        assert verdict.allowed == expected
        if expected or (verdict.reason is not None and verdict.reason.key == "rules.denied"):
            assert verdict.statements
        assert (verdict.reason is None) == expected
        sides = ["lan" if address in servers else "tun" for address in (packet.source, packet.destination)]
        for came_in in ("tun", "lan", "wan"):
            for goes_out in ("tun", "lan", "wan"):
                ends = (str(packet.source), str(packet.destination))
                accepted = kernel.accepts(
                    rendered.entry_chain, came_in, goes_out, *ends, packet.protocol, packet.selector
                )
                assert accepted == (expected and [came_in, goes_out] == sides)


def _tenant(inventory: Inventory, address: object) -> str | None:
    for site in inventory.sites:
        if address in site.prefix:
            return site.tenant
    return next((server.tenant for server in inventory.servers if server.address == address), None)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_nothing_crosses_tenants_even_if_a_statement_says_so(data: st.DataObject) -> None:
    """Statements that parse would refuse, handed to the compiler directly: it does not trust its input."""
    world = data.draw(worlds())
    policy, _ = parse_stored(world.sources(), world.inventory)
    every_name = frozenset(name for tenant in world.policies for name in names_of(world.inventory, tenant))
    forged = {
        tenant: TenantPolicy(
            tenant,
            tuple(
                Statement(one.id, one.tenant, every_name, every_name, one.services, True, "", "", one.place)
                for one in own.statements
            ),
        )
        for tenant, own in policy.tenants.items()
    }
    rule_set = compile_policy(Policy(forged), world.inventory)
    rendered = render(rule_set, version=1, sides=SIDES)
    kernel = Kernel.read(rendered.sets, rendered.chains)
    for packet in data.draw(st.lists(packets(world.inventory), min_size=25, max_size=25)):
        tenants = {_tenant(world.inventory, packet.source), _tenant(world.inventory, packet.destination)} - {None}
        if len(tenants) < 2:
            continue
        assert not evaluate(rule_set, packet).allowed
        for came_in, goes_out in (("tun", "tun"), ("tun", "lan"), ("lan", "tun"), ("lan", "lan")):
            ends = (str(packet.source), str(packet.destination))
            assert not kernel.accepts(rendered.entry_chain, came_in, goes_out, *ends, packet.protocol, packet.selector)


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_anything_leaves_no_trace(world: World, chance: random.Random) -> None:
    def shuffled(items):  # type: ignore[no-untyped-def]
        return chance.sample(list(items), len(items))

    policies = {}
    for tenant in shuffled(world.policies):
        data = world.policies[tenant]
        statements = {
            action: [
                {key: shuffled(value) if isinstance(value, list) else value for key, value in statement.items()}
                for statement in shuffled(data[action])
            ]
            for action in ("allow", "deny")
        }
        groups = {
            name: shuffled(members) if isinstance(members := data["groups"][name], list) else members
            for name in shuffled(data["groups"])
        }
        policies[tenant] = data | {"groups": groups} | statements
    inventory = Inventory(
        {tenant: world.inventory.tenants[tenant] for tenant in shuffled(world.inventory.tenants)},
        tuple(shuffled(world.inventory.sites)),
        tuple(shuffled(world.inventory.devices)),
        tuple(shuffled(world.inventory.servers)),
    )
    one, other = _compiled(world), _compiled(World(inventory, policies, world.platform))
    assert one.fingerprint == other.fingerprint
    assert one == other
    texts = [render(each, version=5, sides=SIDES) for each in (one, other)]
    assert texts[0] == texts[1]
