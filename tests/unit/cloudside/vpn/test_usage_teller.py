"""Telling what sites used: exactly once, whatever fails, with the registry on disk and counters in memory."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from sqlalchemy.exc import OperationalError

from cloudside.datapath.traffic import Carried
from cloudside.registry import usage
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.vpn.tunnels import Live
from cloudside.vpn.usage import Attendance, UsageTeller, hour_of
from rules.compile import RuleSet, compile_policy
from rules.model import Inventory, Policy, PolicySource, Site
from rules.parse import parse

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = """
tenant: acme
groups: {plant: [tokyo, osaka]}
allow: [{from: plant, to: plant, services: http}]
"""


def _rule_set() -> RuleSet:
    inventory = Inventory(
        {"acme": ip_network("10.10.0.0/16")},
        (Site("osaka", "acme", ip_network("10.10.2.0/24")), Site("tokyo", "acme", ip_network("10.10.1.0/24"))),
        (),
        (),
    )
    return compile_policy(parse([PolicySource("acme", "acme.yaml", POLICY)], inventory), inventory)


class _Counters:
    """The kernel's: what is counting now, and cuts."""

    def __init__(self) -> None:
        self.counting: dict[str, tuple[int, int]] = {}
        self.cut_off: dict[int, dict[str, Carried]] = {}

    def carry(self, prefix: str, from_site: int, to_site: int) -> None:
        before = self.counting.get(prefix, (0, 0))
        self.counting[prefix] = (before[0] + from_site, before[1] + to_site)

    def cut(self, number: int, prefixes: Iterable[str]) -> None:
        assert number not in self.cut_off
        self.cut_off[number] = {prefix: Carried(*one) for prefix, one in self.counting.items()}
        self.counting = {}

    def cuts(self) -> tuple[int, ...]:
        return tuple(sorted(self.cut_off))

    def read(self, number: int) -> dict[str, Carried]:
        return self.cut_off[number]

    def forget(self, number: int) -> None:
        del self.cut_off[number]


def _live(site: str, prefix: str, established_s: int) -> Live:
    return Live(site, (ip_network(prefix),), "198.51.100.7", "AES", established_s)


def _teller(database: Database, counters: _Counters) -> UsageTeller:
    made = UsageTeller(database, counters, gateway="gw1", every_s=60)
    made.use(_rule_set())
    return made


def _told(database: Database) -> dict[tuple[str, datetime], tuple[int, int, int]]:
    with database.read() as session:
        found = usage.site_rows(session, OPERATOR, since=NOW - 24 * HOUR, until=NOW + 24 * HOUR)
    return {(one.site, one.since): (one.bytes_from_site, one.bytes_to_site, one.connected_ms) for one in found}


def test_bytes_and_hours_of_sites_and_memberships(database: Database) -> None:
    counters = _Counters()
    teller = _teller(database, counters)
    at = NOW + timedelta(minutes=10)
    tokyo = _live("tokyo", "10.10.1.0/24", 3600)
    teller.note({"tokyo": tokyo}, at)
    counters.carry("10.10.1.0/24", 1000, 50)
    teller.note({"tokyo": tokyo}, at + timedelta(seconds=10))
    teller.tick(at + timedelta(seconds=10))
    counters.carry("10.10.1.0/24", 500, 0)
    teller.note({"tokyo": tokyo}, at + timedelta(seconds=70))
    teller.tick(at + timedelta(seconds=70))
    assert _told(database) == {("tokyo", NOW): (1500, 50, 70_000)}
    with database.read() as session:
        members = usage.membership_rows(session, OPERATOR, since=NOW, until=NOW + HOUR)
    assert [(one.site, one.group, one.connected_ms) for one in members] == [("tokyo", "plant", 70_000)]


def test_nothing_is_told_before_it_is_time_but_at_the_end(database: Database) -> None:
    counters = _Counters()
    teller = _teller(database, counters)
    teller.note({}, NOW + timedelta(minutes=1))
    teller.tick(NOW + timedelta(minutes=1))
    counters.carry("10.10.1.0/24", 10, 0)
    teller.tick(NOW + timedelta(minutes=1, seconds=59))
    assert _told(database) == {}
    teller.tick(NOW + timedelta(minutes=1, seconds=59), last=True)
    assert _told(database) == {("tokyo", NOW): (10, 0, 0)}


def test_the_end_of_an_hour_is_a_telling_and_bytes_stand_in_their_hour(database: Database) -> None:
    counters = _Counters()
    teller = _teller(database, counters)
    late = NOW + timedelta(minutes=59, seconds=50)
    tokyo = _live("tokyo", "10.10.1.0/24", 3600)
    teller.note({"tokyo": tokyo}, late)
    teller.tick(late)
    counters.carry("10.10.1.0/24", 10, 1)
    teller.note({"tokyo": tokyo}, NOW + HOUR)
    teller.tick(NOW + HOUR)
    counters.carry("10.10.1.0/24", 20, 2)
    teller.note({"tokyo": tokyo}, NOW + HOUR + timedelta(seconds=5))
    teller.tick(NOW + HOUR + timedelta(seconds=61))
    assert _told(database) == {("tokyo", NOW): (10, 1, 10_000), ("tokyo", NOW + HOUR): (20, 2, 5_000)}


def test_a_daemon_killed_before_it_told_leaves_its_cut_to_the_next(database: Database) -> None:
    counters = _Counters()
    first = _teller(database, counters)
    tokyo = _live("tokyo", "10.10.1.0/24", 3600)
    first.note({"tokyo": tokyo}, NOW)
    first.tick(NOW)
    counters.carry("10.10.1.0/24", 10, 0)
    counters.cut(2, [])  # and here it is killed
    counters.carry("10.10.1.0/24", 5, 0)
    second = _teller(database, counters)
    second.note({"tokyo": tokyo}, NOW + timedelta(seconds=30))
    second.tick(NOW + timedelta(seconds=30))
    # The tunnel stood all the time: what the dead one had not told is made up for.
    assert _told(database) == {("tokyo", NOW): (15, 0, 30_000)}
    assert counters.cut_off == {}


def test_a_daemon_killed_after_it_told_tells_nothing_twice(database: Database) -> None:
    counters = _Counters()
    first = _teller(database, counters)
    first.note({}, NOW + timedelta(seconds=1))
    counters.carry("10.10.1.0/24", 10, 0)
    kept = _Counters.forget
    first._counters.forget = lambda number: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.tick(NOW + timedelta(seconds=1))
    counters.forget = kept.__get__(counters)  # type: ignore[method-assign]
    assert counters.cuts() == (1,)
    second = _teller(database, counters)
    second.note({}, NOW + timedelta(seconds=30))
    second.tick(NOW + timedelta(seconds=30))
    assert _told(database) == {("tokyo", NOW): (10, 0, 0)}
    assert counters.cut_off == {}


def test_time_between_the_last_look_and_a_telling_is_the_next_daemons(database: Database) -> None:
    tokyo = _live("tokyo", "10.10.1.0/24", 3600)
    first = _teller(database, _Counters())
    first.note({"tokyo": tokyo}, NOW)
    first.note({"tokyo": tokyo}, NOW + timedelta(seconds=10))
    first.tick(NOW + timedelta(seconds=14))  # and then it is killed
    second = _teller(database, _Counters())
    second.note({"tokyo": tokyo}, NOW + timedelta(seconds=30))
    second.tick(NOW + timedelta(seconds=30))
    assert _told(database) == {("tokyo", NOW): (0, 0, 30_000)}


def test_a_registry_that_is_away_costs_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = _Counters()
    teller = _teller(database, counters)
    tokyo = _live("tokyo", "10.10.1.0/24", 3600)
    teller.note({"tokyo": tokyo}, NOW)
    teller.tick(NOW)
    record = database.record

    def away() -> object:
        raise OperationalError("away", None, Exception("away"))

    monkeypatch.setattr(database, "record", away)
    for minute in (1, 2):
        counters.carry("10.10.1.0/24", 10, 0)
        at = NOW + timedelta(minutes=minute)
        teller.note({"tokyo": tokyo}, at)
        with pytest.raises(OperationalError):
            teller.tick(at)
    assert len(counters.cuts()) == 1
    monkeypatch.setattr(database, "record", record)
    teller.note({"tokyo": tokyo}, NOW + timedelta(minutes=3))
    teller.tick(NOW + timedelta(minutes=3))
    assert _told(database) == {("tokyo", NOW): (20, 0, 180_000)}


def test_a_prefix_that_goes_to_another_site_is_the_first_ones_until_the_cut(database: Database) -> None:
    counters = _Counters()
    teller = _teller(database, counters)
    teller.note({}, NOW + timedelta(seconds=1))
    teller.tick(NOW + timedelta(seconds=1))
    counters.carry("10.10.1.0/24", 10, 0)
    inventory = Inventory(
        {"acme": ip_network("10.10.0.0/16")}, (Site("osaka", "acme", ip_network("10.10.1.0/24")),), (), ()
    )
    teller.use(compile_policy(Policy({}), inventory))
    teller.tick(NOW + timedelta(minutes=2))
    counters.carry("10.10.1.0/24", 5, 0)
    teller.tick(NOW + timedelta(minutes=4))
    assert _told(database) == {("tokyo", NOW): (10, 0, 0), ("osaka", NOW): (5, 0, 0)}


def test_attendance_bridges_a_blink_and_not_an_absence() -> None:
    one = Attendance()
    one.note({"tokyo": 100, "osaka": 100}, NOW)
    one.note({"tokyo": 2}, NOW + timedelta(seconds=5))  # replaced; osaka went
    one.note({}, NOW + timedelta(seconds=10))
    one.note({"tokyo": 30}, NOW + timedelta(seconds=100))  # came back after a minute that nobody saw
    assert one.take() == {("tokyo", NOW): 5000 + 5000 + 30_000, ("osaka", NOW): 5000}
    assert one.take() == {}


def test_attendance_is_split_at_the_hour() -> None:
    one = Attendance(NOW - timedelta(minutes=5))
    one.note({"tokyo": 600}, NOW + timedelta(minutes=1))
    assert one.take() == {("tokyo", NOW - HOUR): 300_000, ("tokyo", NOW): 60_000}
    assert hour_of(NOW + timedelta(minutes=59)) == NOW
