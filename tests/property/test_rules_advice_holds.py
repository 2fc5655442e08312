"""Advice is certain: what is told to have no effect has none, and an allow that opens nothing is told."""

from dataclasses import replace

from hypothesis import given, settings
from rules_worlds import World, worlds

from rules.advice import advise
from rules.compile import RuleSet, compile_policy
from rules.diff import diff
from rules.model import Action, Policy, Statement
from rules.parse import parse_stored
from rules.reach import reach

NOTHING_OPENS = {f"rules.advice-all-{way}" for way in ("denied", "enclosed", "restricted", "blocked")}


def _opens(rule_set: RuleSet) -> bool:
    return any(reach(rule_set, name) for name in rule_set.endpoints)


def _with(policy: Policy, tenant: str, statements: tuple[Statement, ...]) -> Policy:
    return replace(policy, tenants={tenant: replace(policy.tenants[tenant], statements=statements)})


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_what_is_told_has_no_effect_and_the_rest_has(world: World) -> None:
    policy, problems = parse_stored(world.sources(), world.inventory, world.platform_source())
    told = {
        str(found.params["name"]): found.kind for found in advise(policy, world.inventory) if "name" in found.params
    }
    for tenant, own in policy.tenants.items():
        whole = compile_policy(_with(policy, tenant, own.statements), world.inventory)
        nothing_to_say = {(one.line, one.column) for one in problems if one.file == f"{tenant}.yaml"}
        for statement in own.statements:
            if statement.id in told:
                rest = tuple(one for one in own.statements if one is not statement)
                found = diff(whole, compile_policy(_with(policy, tenant, rest), world.inventory))
                assert (found.opened.pairs, found.closed.pairs) == (0, 0)
            if statement.action is Action.ALLOW:
                alone = tuple(one for one in own.statements if one.action is Action.DENY or one is statement)
                opens = _opens(compile_policy(_with(policy, tenant, alone), world.inventory))
                if (statement.place.line, statement.place.column) in nothing_to_say:
                    assert not opens
                    continue
                assert opens == (told.get(statement.id) not in NOTHING_OPENS)
