from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from rules.compile import compile_policy
from rules.evaluate import evaluate
from rules.model import Inventory, Packet, Policy
from rules.problems import PolicyError

Read = Callable[[str], Policy]
Ask = Callable[..., Packet]
ALLOW = "allow: [{name: a, from: tokyo-1, to: web, services: http, valid: {%s}}]"


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_statement_holds_from_its_beginning_to_before_its_end(inventory: Inventory, read: Read, packet: Ask) -> None:
    policy = read(ALLOW % "from: 2026-11-02 09:00, until: 2026-11-03, zone: Asia/Tokyo")
    begin, end = _utc("2026-11-02 00:00"), _utc("2026-11-02 15:00")
    step = timedelta(microseconds=1)
    for at, allowed, change in (
        *((begin - step, False, begin), (begin, True, end), (end - step, True, end), (end, False, None)),
    ):
        rule_set = compile_policy(policy, inventory, at=at)
        assert evaluate(rule_set, packet("10.10.1.1", "10.200.0.10")).allowed == allowed
        assert rule_set.next_change == change


def test_weekly_hours_run_past_midnight_and_follow_the_wall_clock(
    inventory: Inventory, read: Read, packet: Ask
) -> None:
    policy = read(ALLOW % "weekly: [sat 22:00-06:00], zone: Europe/Berlin")
    # The clocks go back on Sunday, 25 October 2026: the night is an hour longer.
    begin, end = _utc("2026-10-24 20:00"), _utc("2026-10-25 05:00")
    rule_set = compile_policy(policy, inventory, at=begin)
    assert evaluate(rule_set, packet("10.10.1.1", "10.200.0.10")).allowed
    assert rule_set.next_change == end
    later = compile_policy(policy, inventory, at=end)
    assert not evaluate(later, packet("10.10.1.1", "10.200.0.10")).allowed
    assert later.next_change == _utc("2026-10-31 21:00")
    assert rule_set.fingerprint != later.fingerprint


def test_neighbouring_hours_are_one_and_validity_needs_an_instant(inventory: Inventory, read: Read) -> None:
    policy = read(ALLOW % "weekly: [daily 00:00-24:00], zone: UTC")
    assert compile_policy(policy, inventory, at=_utc("2026-11-02 00:00")).next_change is None
    with pytest.raises(ValueError, match="instant"):
        compile_policy(policy, inventory)


@pytest.mark.parametrize(
    ("valid", "kind"),
    [
        ("zone: Mars/Base", "unknown-zone"),
        ("zone: Asia", "unknown-zone"),
        ("zone: ../etc", "unknown-zone"),
        ("from: 2026-11-01", "missing-key"),
        ("zone: UTC, from: 2026-02-30", "bad-moment"),
        ("zone: UTC, from: tomorrow", "bad-moment"),
        ("zone: UTC, weekly: mon-fry 08:00-09:00", "bad-hours"),
        ("zone: UTC, weekly: mon 08:00-08:00", "bad-hours"),
        ("zone: UTC, weekly: mon 24:00-25:00", "bad-hours"),
        ("zone: UTC, from: 2026-11-02, until: 2026-11-02", "until-before-from"),
        ("zone: UTC, from: 2026-11-02, until: 2026-11-03, weekly: wed 01:00-02:00", "never-valid"),
    ],
)
def test_impossible_validity(read: Read, valid: str, kind: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(ALLOW % valid)
    assert [found.kind.removeprefix("rules.") for found in caught.value.problems] == [kind]
