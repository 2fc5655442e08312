from collections.abc import Callable, Iterable

from rules.compile import RuleSet
from rules.diff import diff
from rules.reach import Reach
from rules.services import shown

Decide = Callable[[str], RuleSet]


def _rows(found: Iterable[Reach]) -> list[tuple[str, str, str]]:
    return [(one.source, one.destination, shown(one.service)) for one in found]


def test_the_first_policy_opens_all_it_allows(decide: Decide) -> None:
    found = diff(None, decide("allow: [{from: [tokyo-1, osaka-1], to: web, services: [ping, http]}]"))
    assert found.closed == ()
    assert _rows(found.opened) == [
        *(("osaka-1", "web", "icmp/8/0"), ("osaka-1", "web", "tcp/80")),
        *(("tokyo-1", "web", "icmp/8/0"), ("tokyo-1", "web", "tcp/80")),
    ]


def test_only_what_changes_is_listed(decide: Decide) -> None:
    old = decide("allow: [{name: a, from: tokyo-1, to: web, services: tcp/80-90}]")
    new = decide("allow: [{name: b, from: tokyo-1, to: [web, db], services: tcp/85-95}]")
    found = diff(old, new)
    assert _rows(found.opened) == [("tokyo-1", "db", "tcp/85-95"), ("tokyo-1", "web", "tcp/91-95")]
    assert _rows(found.closed) == [("tokyo-1", "web", "tcp/80-84")]


def test_saying_the_same_in_other_words_is_no_change(decide: Decide) -> None:
    old = decide("allow: [{from: [tokyo-1, osaka-1], to: web, services: tcp/80-81}]")
    new = decide(
        "groups: {g: [osaka-1]}\nallow:\n- {from: g, to: web, services: [http, tcp/81]}\n"
        "- {from: tokyo-1, to: web, services: tcp/80-81}"
    )
    assert diff(old, new) == diff(new, old) == diff(old, old)


def test_a_device_that_keeps_what_its_site_gets_is_no_change(decide: Decide) -> None:
    old = decide("allow: [{from: osaka-1/plc, to: web, services: ssh}]")
    new = decide("allow: [{from: osaka-1, to: web, services: ssh}]")
    found = diff(old, new)
    assert (_rows(found.opened), found.closed) == ([("osaka-1", "web", "tcp/22")], ())
    assert _rows(diff(new, old).closed) == [("osaka-1", "web", "tcp/22")]
