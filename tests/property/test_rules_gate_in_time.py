"""Nothing that ever opens slips past the gate, whatever the hour of the plan."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from rules_worlds import World, worlds

from rules.compile import compile_policy
from rules.diff import diff
from rules.gate import assess
from rules.model import Policy
from rules.parse import parse_stored

PLANNED = datetime(2026, 11, 23, 3, tzinfo=UTC)
MOMENTS = [PLANNED + timedelta(hours=hours) for hours in (0, 5, 12, 40, 24 * 60)]
VALIDITIES: list[dict[str, str] | None] = [
    None,
    {"weekly": "mon-fri 08:00-18:00", "zone": "Asia/Tokyo"},
    {"weekly": "daily 22:00-06:00", "zone": "UTC"},
    {"from": "2026-12-24", "zone": "UTC"},
    {"until": "2026-11-24", "zone": "UTC"},
    {"until": "2026-11-01", "zone": "UTC"},
]


@st.composite
def _timed(draw: st.DrawFn, world: World) -> World:
    """The same statements, each with a validity or none."""
    policies = {}
    for tenant, data in world.policies.items():
        policies[tenant] = dict(data)
        for action in ("allow", "deny"):
            written = data[action]
            assert isinstance(written, list)
            picked = [(one, draw(st.sampled_from(VALIDITIES))) for one in written]
            policies[tenant][action] = [one if valid is None else {**one, "valid": valid} for one, valid in picked]
    return World(world.inventory, policies, world.platform)


def _homes(pair: tuple[str, str]) -> set[tuple[str, str]]:
    """The pair, and the pairs of sites around it."""
    return {(one, other) for one in (pair[0], pair[0].split("/")[0]) for other in (pair[1], pair[1].split("/")[0])}


def _read(world: World) -> Policy:
    return parse_stored(world.sources(), world.inventory, world.platform_source())[0]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_what_opens_at_any_time_is_among_the_pairs(data: st.DataObject) -> None:
    first = data.draw(worlds())
    other = data.draw(st.booleans())  # another policy, or the same statements at other times
    second = World(first.inventory, data.draw(worlds()).policies if other else first.policies, first.platform)
    old, new = (_read(data.draw(_timed(one))) for one in (first, second))
    inventory = first.inventory
    compiled = {at: tuple(compile_policy(one, inventory, at=at) for one in (old, new)) for at in MOMENTS}
    now = diff(*compiled[PLANNED])
    found = assess(old, new, inventory, now, at=PLANNED, scope="x", against=1, limit=0)
    pairs = set(found.opened.ends())
    assert len(pairs) == found.pairs
    for before, after in compiled.values():
        for row in diff(before, after).opened:
            assert _homes((row.source, row.destination)) & pairs, row
    assert found.needs_yes == bool(pairs or found.crossings)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_no_change_opens_nothing_at_any_time(data: st.DataObject) -> None:
    world = data.draw(_timed(data.draw(worlds())))
    policy = _read(world)
    rule_set = compile_policy(policy, world.inventory, at=PLANNED)
    now = diff(rule_set, rule_set)
    found = assess(policy, policy, world.inventory, now, at=PLANNED, scope="x", against=1, limit=0)
    assert not found.needs_yes
