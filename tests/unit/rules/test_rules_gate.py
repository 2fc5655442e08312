from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from rules.compile import compile_policy
from rules.diff import Rows, Source, diff
from rules.gate import Assessment, assess
from rules.matrix import Places, Way
from rules.model import Inventory, PlatformSource, Policy, PolicySource, Server
from rules.parse import parse
from rules.reach import Listing

NOON = datetime(2026, 11, 23, 3, tzinfo=UTC)  # a Monday, 12:00 in Tokyo
NIGHT = datetime(2026, 11, 23, 15, tzinfo=UTC)
HOURS = "valid: {weekly: daily 08:00-18:00, zone: Asia/Tokyo}"
READINGS = "allow: [{from: tokyo-1, to: web, services: https}]\n"
MESH = "groups: {all: [tokyo-1, osaka-1]}\nallow: [{from: all, to: all, services: %s}]\n"

Judge = Callable[..., Assessment]


@pytest.fixture
def judge(inventory: Inventory, read: Callable[[str], Policy]) -> Judge:
    def assessed(
        before: str | None, after: str, *, at: datetime = NOON, limit: int = 1, against: int = 1
    ) -> Assessment:
        old, new = None if before is None else read(before), read(after)
        was = None if old is None else compile_policy(old, inventory, at=at)
        now = diff(was, compile_policy(new, inventory, at=at))
        return assess(old, new, inventory, now, at=at, scope="acme", against=against, limit=limit)

    return assessed


def _keys(found: Assessment) -> list[str]:
    return [one.key.removeprefix("rules.gate-") for one in found.crossings]


def test_pairs_are_counted_once_and_only_where_something_opens(judge: Judge) -> None:
    found = judge(READINGS, "allow: [{from: [tokyo-1, osaka-1], to: [web, db], services: [https, ssh]}]\n", limit=4)
    pairs = [("osaka-1", "db"), ("osaka-1", "web"), ("tokyo-1", "db"), ("tokyo-1", "web")]
    assert (found.pairs, list(found.opened.ends())) == (4, pairs)
    assert not found.needs_yes
    assert judge(READINGS, "allow: [{from: [tokyo-1, osaka-1], to: [web, db], services: ssh}]\n", limit=3).too_many
    assert judge(READINGS, READINGS, limit=0).pairs == 0
    assert judge(READINGS, "allow: []\n", limit=0).pairs == 0


@pytest.mark.parametrize("at", [NOON, NIGHT])
def test_what_opens_later_counts_now_and_has_the_same_code_at_any_hour(judge: Judge, at: datetime) -> None:
    later = "allow: [{name: n, from: [tokyo-1, osaka-1], to: web, services: ssh, %s}]\n"
    begins = later % "valid: {from: 2027-01-01, zone: UTC}"
    assert judge(READINGS, begins, at=at).pairs == 2
    assert judge(later % HOURS, later % "reason: always", at=at).pairs == 2
    assert judge(later % HOURS, later % HOURS, at=at).pairs == 0
    assert judge(READINGS, later % "valid: {until: 2026-01-01, zone: UTC}", at=at).pairs == 0
    assert judge(READINGS, later % HOURS, at=at).code == judge(READINGS, later % HOURS, at=NOON).code


@pytest.mark.parametrize("at", [NOON, NIGHT])
def test_a_deny_that_comes_to_sleep_at_times_opens(judge: Judge, at: datetime) -> None:
    text = READINGS + "deny: [{name: no, from: tokyo-1, to: web, services: any, %s}]\n"
    assert judge(text % "reason: never", text % HOURS, at=at).pairs == 1
    assert judge(text % HOURS, text % HOURS, at=at).pairs == 0


def test_a_code_is_of_one_difference_against_one_version(judge: Judge) -> None:
    codes = {
        judge(READINGS, MESH % "ssh").code,
        judge(READINGS, MESH % "ssh", against=2).code,
        judge(READINGS, MESH % "http").code,
        judge(None, MESH % "ssh").code,
    }
    assert len(codes) == 4
    assert judge(READINGS, "# a remark\n" + MESH % "ssh").code in codes


def test_everything_between_all_sites_is_no_default_deny(judge: Judge) -> None:
    assert _keys(judge(READINGS, MESH % "any")) == ["all-open"]
    assert _keys(judge(READINGS, MESH % "[tcp, udp]")) == ["all-open"]
    halves = "{from: tokyo-1, to: osaka-1, services: %s, both: true}"
    assert _keys(judge(None, f"allow: [{halves % 'tcp/1-65535'}, {halves % 'udp'}]\n")) == ["all-open"]
    assert _keys(judge(None, f"allow: [{halves % 'tcp/1-65534'}, {halves % 'udp'}]\n")) == []
    assert _keys(judge(None, "allow: [{from: tokyo-1, to: osaka-1, services: any}]\n")) == []
    asleep = f"allow: [{{from: [tokyo-1, osaka-1], to: [tokyo-1, osaka-1], services: any, {HOURS}}}]\n"
    assert _keys(judge(None, asleep, at=NIGHT)) == ["all-open"]


def test_a_crossing_that_was_there_before_is_no_news(judge: Judge) -> None:
    again = judge(MESH % "any", "# a remark\n" + MESH % "any")
    assert (again.crossings, again.needs_yes) == ((), False)


def test_a_shared_server_that_may_do_everything_everywhere(judge: Judge, inventory: Inventory) -> None:
    text = "allow: [{from: [web, tokyo-1], to: [tokyo-1, osaka-1], services: any}]\n"
    found = judge(READINGS, text)
    assert _keys(found) == ["server-open"]
    assert found.crossings[0].params == {"tenant": "acme", "sites": 2, "server": "web"}
    assert _keys(judge(READINGS, text.replace("web", "db"))) == []
    platform = PlatformSource("platform.yaml", "servers: {web: {opens: [https]}}\n")
    policy = parse([PolicySource("acme", "acme.yaml", "tenant: acme\n" + text)], inventory, platform)
    now = diff(None, compile_policy(policy, inventory, at=NOON))
    restricted = assess(None, policy, inventory, now, at=NOON, scope="acme", against=0, limit=99)
    assert restricted.crossings == ()


def test_isolation_and_places_are_held_a_second_time(
    judge: Judge, inventory: Inventory, read: Callable[[str], Policy]
) -> None:
    policy = read(READINGS)
    now = diff(None, compile_policy(policy, inventory, at=NOON))
    crossing = Listing(Places([], []), "tokyo-1", Way.FROM, (), (replace(now.opened[0], destination="kobe-1"),))
    opened = Rows([Source("tokyo-1", 1, lambda: crossing)])
    moved = replace(inventory, servers=(*inventory.servers, Server("in", None, ip_address("10.20.7.7"))))
    found = assess(policy, policy, moved, replace(now, opened=opened), at=NOON, scope="acme", against=1, limit=9)
    assert _keys(found) == ["across-tenants", "misplaced"]
