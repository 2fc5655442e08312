"""Explanations agree with the evaluator, and what they ask for is what is missing."""

import json
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rules_worlds import SERVICES, World, names_of, worlds

from rules.compile import compile_policy
from rules.evaluate import parts, passing
from rules.explain import Explainer, Explanation, asked
from rules.model import Policy, Protocol, Service
from rules.parse import parse_stored
from rules.services import subtracted

ASKED = [one for one in SERVICES if one != "own"]
#: Reasons that the tenant's own statements can do away with.
IN_POLICY = {"rules.why-denied", "rules.why-no-statement", "rules.why-other-services", "rules.why-partly"}
#: What is no setting: the other direction, said besides.
BESIDES = {"rules.why-only-reverse"}


def _read(world: World) -> Policy:
    return parse_stored(world.sources(), world.inventory, world.platform_source())[0]


def _asked(world: World, policy: Policy, question: tuple[str, str, str]) -> Explanation:
    return Explainer(policy, compile_policy(policy, world.inventory), world.inventory).explain(*question)


@st.composite
def _questions(draw: st.DrawFn) -> tuple[World, str, tuple[str, str, str]]:
    world = draw(worlds())
    tenant = draw(st.sampled_from(sorted(world.policies)))
    names = st.sampled_from(names_of(world.inventory, tenant))
    return world, tenant, (draw(names), draw(names), draw(st.sampled_from(ASKED)))


@given(_questions())
@settings(max_examples=60, deadline=None)
def test_an_answer_is_yes_exactly_if_all_of_it_passes_and_else_has_reasons(
    asking: tuple[World, str, tuple[str, str, str]],
) -> None:
    world, _, (source, destination, service) = asking
    policy = _read(world)
    rule_set = compile_policy(policy, world.inventory)
    found = Explainer(policy, rule_set, world.inventory).explain(source, destination, service)
    services = subtracted(asked(service, []), [Service(Protocol.ICMPV6)])
    missing = [
        left
        for one in parts(rule_set, rule_set.endpoints[source])
        for other in parts(rule_set, rule_set.endpoints[destination])
        for left in subtracted(services, passing(rule_set, one, other))
    ]
    assert found.allowed == (not missing)
    assert bool(found.reasons) == bool(missing)
    assert not found.allowed or found.statements


@given(_questions())
@settings(max_examples=60, deadline=None)
def test_what_a_policy_is_told_to_change_opens_it(asking: tuple[World, str, tuple[str, str, str]]) -> None:
    world, tenant, question = asking
    policy = _read(world)
    found = _asked(world, policy, question)
    keys = {one.key for one in found.reasons} - BESIDES
    assume(keys and keys <= IN_POLICY)
    own = policy.tenants[tenant]
    denials = {str(one.id) for one in own.statements if one.action.value == "deny"} & {
        word for one in found.reasons if one.key == "rules.why-denied" for word in str(one.params["statements"]).split()
    }
    kept = tuple(one for one in own.statements if str(one.id) not in denials)
    lines = [str(one.params["statement"]) for one in found.reasons if "statement" in one.params]
    if lines:
        written = lines[0].removeprefix("- {").removesuffix("}")
        data = {"tenant": tenant, "allow": []}
        text = json.dumps(data).replace("[]", "[{name: added, " + written + "}]")
        source = replace(world.sources()[0], tenant=tenant, text=text)
        added, problems = parse_stored([source], world.inventory, world.platform_source())
        assume(not problems)
        kept += added.tenants[tenant].statements
    changed = replace(policy, tenants={**policy.tenants, tenant: replace(own, statements=kept)})
    assert _asked(world, changed, question).allowed
