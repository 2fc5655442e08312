"""Answers about timed grants are what the evaluator lets pass beside the policies, packet by packet."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from rules_worlds import World, boundary_addresses, names_of, network_of, worlds

from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.explain import Explainer
from rules.granted import granted
from rules.matrix import Way
from rules.model import Address, Endpoint, Grant, Packet
from rules.parse import parse_stored
from rules.services import BUILT_IN, numeric
from rules.timed import identity

NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)
SERVICES = ["https", "https", "bacnet-ip", "tcp/450", "tcp"]
ASKED = [(6, 443), (6, 443), (17, 47808), (6, 450), (6, 451)]


@st.composite
def _grants(draw: st.DrawFn, world: World) -> list[Grant]:
    found = []
    for number in range(draw(st.integers(1, 6))):
        tenant = draw(st.sampled_from(sorted(world.policies)))
        names = st.sampled_from([*names_of(world.inventory, tenant), "gone-1"])
        addresses = st.sampled_from(boundary_addresses(world.inventory)).map(str)
        service = draw(st.sampled_from(SERVICES))
        one = numeric(service)
        services = BUILT_IN[service] if one is None else (one,)
        until = NOW + timedelta(hours=draw(st.integers(-1, 3)))
        found.append(Grant(f"{number}", tenant, draw(names | names | addresses), draw(names), services, until))
    return found


def _ends(grant: Grant) -> tuple[str, str]:
    return grant.source, grant.destination


def _near(world: World, end: str, edges: list[Address]) -> list[Address]:
    """Addresses of a grant's end and their neighbours."""
    try:
        around = ip_network(end)
    except ValueError:
        if end == "gone-1":
            return edges
        around = network_of(world.inventory, end)
    return [one for one in edges if one in around] * 3 + [around[0] - 1, around[-1] + 1]


def _names(rule_set: RuleSet, address: str, lined: tuple[Endpoint, ...]) -> list[str]:
    return [address, *(one.name for one in lined if one.name in rule_set.endpoints)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_answers_about_grants_are_what_passes_beside_the_policies(data: st.DataObject) -> None:
    world = data.draw(worlds())
    policy, _ = parse_stored(world.sources(), world.inventory, world.platform_source())
    grants = data.draw(_grants(world))
    with_, without = (compile_policy(policy, world.inventory, at=NOW, grants=some) for some in (grants, []))
    explainer = Explainer(policy, with_, world.inventory, at=NOW)
    # Around the grants' ends; elsewhere nothing is to be learned.
    edges = boundary_addresses(world.inventory)
    for _ in range(15):
        grant = data.draw(st.sampled_from(grants))
        source, destination = (data.draw(st.sampled_from(_near(world, end, edges))) for end in _ends(grant))
        protocol, port = data.draw(st.sampled_from(ASKED))
        from_, to = with_.whereabouts.at(source), with_.whereabouts.at(destination)
        if not from_ or not to:
            continue
        packet = Packet(source, destination, protocol, port)
        verdict = evaluate(with_, packet)
        service = f"{'tcp' if protocol == 6 else 'udp'}/{port}"
        found = explainer.explain(str(source), str(destination), service)
        assert found.allowed == verdict.allowed
        beside = verdict.allowed and not evaluate(without, packet).allowed
        assert {identity(one) for one in found.grants} <= set(verdict.statements)
        assert bool(found.grants) == beside
        sources, destinations = (_names(with_, str(one), lined) for one, lined in ((source, from_), (destination, to)))
        inner = {(one, other) for one in sources for other in destinations}
        for way, ends in ((Way.FROM, from_), (Way.TOWARDS, to)):
            for end in ends:
                told = {
                    identity(one.grant)
                    for one in granted(with_, end.name, way)
                    for row in one.rows
                    if (row.source, row.destination) in inner
                    and row.service.covers(protocol, port)
                    and inner.isdisjoint(row.apart)
                }
                assert not beside or told == set(verdict.statements)
                assert verdict.allowed or not told
