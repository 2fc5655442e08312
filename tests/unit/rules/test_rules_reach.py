from collections.abc import Callable

from rules.compile import RuleSet
from rules.reach import Reach, reach, who_can_reach
from rules.services import BUILT_IN, shown

Decide = Callable[[str], RuleSet]
TEXT = """
allow:
  - {from: osaka-1, to: [web, tokyo-1], services: [ssh, http]}
  - {from: tokyo-1, to: osaka-1/plc, services: modbus-tcp}
deny:
  - {from: osaka-1/plc, to: web, services: ssh}
"""


def _rows(found: tuple[Reach, ...]) -> list[tuple[str, str, str, int]]:
    return [(one.source, one.destination, shown(one.service), len(one.apart)) for one in found]


def test_reach_lists_a_device_only_where_it_differs(decide: Decide) -> None:
    assert _rows(reach(decide(TEXT), "osaka-1")) == [
        ("osaka-1", "tokyo-1", "tcp/22", 0),
        ("osaka-1", "tokyo-1", "tcp/80", 0),
        ("osaka-1", "web", "tcp/22", 1),
        ("osaka-1", "web", "tcp/80", 1),
        ("osaka-1/plc", "web", "tcp/80", 0),
    ]
    assert reach(decide(TEXT), "osaka-1")[2].apart == (("osaka-1/plc", "web"),)
    assert _rows(reach(decide(TEXT), "tokyo-1")) == [("tokyo-1", "osaka-1/plc", "tcp/502", 0)]
    assert reach(decide(TEXT), "web") == ()


def test_who_can_reach_is_the_same_from_the_other_side(decide: Decide) -> None:
    rule_set = decide(TEXT)
    assert _rows(who_can_reach(rule_set, "web", BUILT_IN["ssh"])) == [("osaka-1", "web", "tcp/22", 1)]
    assert _rows(who_can_reach(rule_set, "osaka-1", BUILT_IN["any"])) == [("tokyo-1", "osaka-1/plc", "tcp/502", 0)]
    assert who_can_reach(rule_set, "db", BUILT_IN["any"]) == ()
