"""Usage by hour, day and month; its sums, its cursor, and who may see it."""

from datetime import UTC, datetime, timedelta

import pytest

from cloudside.errors import InputError, RefusedError
from cloudside.registry import usage
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.counted import MembershipUse, SiteUse
from cloudside.registry.database import Database
from cloudside.registry.usage import Cursor, Period, Usage

HOUR = datetime(2026, 11, 30, 23, 0, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)
ACME = Caller("acme")


def _tell(database: Database, *uses: SiteUse, gateway: str = "gw1", cut: int = 1, **groups: list[str]) -> None:
    by_site = {name.replace("_", "-"): names for name, names in groups.items()}
    with database.record() as session:
        usage.tell(session, OPERATOR, uses, by_site, gateway=gateway, told=Cursor(cut, NEXT))


def _rows(database: Database, caller: Caller = OPERATOR, **options: object) -> list[Usage]:
    window = {"since": HOUR - timedelta(days=40), "until": NEXT + timedelta(days=40)} | options
    with database.read() as session:
        return usage.site_rows(session, caller, **window)  # type: ignore[arg-type]


def test_tellings_and_gateways_add_up(populated: Database) -> None:
    _tell(populated, SiteUse("tokyo-1", HOUR, 10, 1, 1000))
    _tell(populated, SiteUse("tokyo-1", HOUR, 5, 2, 500), cut=2)
    _tell(populated, SiteUse("tokyo-1", HOUR, 100, 0, 250), gateway="gw2")
    assert _rows(populated) == [Usage("acme", "tokyo-1", "", HOUR, 115, 3, 1750)]
    with populated.read() as session:
        assert usage.cursor(session, OPERATOR, "gw1") == Cursor(2, NEXT)
        assert usage.cursor(session, OPERATOR, "gw9") is None


def test_months_are_the_sums_of_their_hours(populated: Database) -> None:
    for number in range(50):
        _tell(populated, SiteUse("tokyo-1", HOUR + timedelta(hours=number), number, 2 * number, 1), cut=number)
    hours = _rows(populated)
    first, end = usage.month("2026-12", HOUR)
    months = _rows(populated, by=Period.MONTH)
    assert [one.since.month for one in months] == [11, 12]
    inside = [one for one in hours if first <= one.since < end]
    assert months[1].bytes_from_site == sum(one.bytes_from_site for one in inside) == sum(range(1, 50))
    assert sum(one.connected_ms for one in months) == len(hours) == 50
    assert sum(one.bytes_to_site for one in _rows(populated, by=Period.DAY)) == sum(range(50)) * 2


def test_membership_time_is_the_sites_and_bytes_are_the_flows(populated: Database) -> None:
    _tell(populated, SiteUse("tokyo-1", HOUR, 10, 1, 1000), tokyo_1=["plant", "office"])
    with populated.record() as session:
        used = [MembershipUse("tokyo-1", "plant", 7, 3), MembershipUse("nowhere", "plant", 1, 1)]
        usage.add_memberships(session, OPERATOR, used, gateway="gw1", hour=HOUR)
    with populated.read() as session:
        found = usage.membership_rows(session, ACME, since=HOUR, until=NEXT)
    assert found == [
        Usage("acme", "tokyo-1", "office", HOUR, 0, 0, 1000),
        Usage("acme", "tokyo-1", "plant", HOUR, 7, 3, 1000),
    ]


def test_a_site_that_nobody_knows_is_left_out(populated: Database) -> None:
    _tell(populated, SiteUse("nowhere", HOUR, 10, 1, 1000), SiteUse("tokyo-1", HOUR, 1, 1, 1))
    assert [one.site for one in _rows(populated)] == ["tokyo-1"]


def test_a_tenant_sees_its_own_and_cannot_ask_for_anothers(populated: Database) -> None:
    _tell(populated, SiteUse("tokyo-1", HOUR, 10, 1, 1), SiteUse("osaka-1", HOUR, 20, 2, 2))
    assert {one.tenant for one in _rows(populated)} == {"acme", "zenith"}
    assert {one.site for one in _rows(populated, ACME)} == {"tokyo-1"}
    with pytest.raises(InputError):
        _rows(populated, ACME, site="osaka-1")
    with pytest.raises(InputError):
        _rows(populated, ACME, tenant="zenith")


def test_only_the_service_tells_and_forgets(populated: Database) -> None:
    with populated.record() as session:
        with pytest.raises(RefusedError):
            usage.tell(session, ACME, [], {}, gateway="gw1", told=Cursor(1, NEXT))
        with pytest.raises(RefusedError):
            usage.add_memberships(session, ACME, [], gateway="gw1", hour=HOUR)
        with pytest.raises(RefusedError):
            usage.prune(session, ACME, before=NEXT)
        with pytest.raises(RefusedError):
            usage.cursor(session, ACME, "gw1")


def test_what_is_old_is_forgotten(populated: Database) -> None:
    _tell(populated, SiteUse("tokyo-1", HOUR, 1, 1, 1), SiteUse("tokyo-1", NEXT, 2, 2, 2), tokyo_1=["plant"])
    with populated.record() as session:
        assert usage.prune(session, OPERATOR, before=NEXT) == 2
    assert [one.since for one in _rows(populated)] == [NEXT]
    assert usage.months_ago(NEXT, 2) == datetime(2026, 10, 1, tzinfo=UTC)


@pytest.mark.parametrize("given", ["2026-13", "november", "2026", "2026-11-01", ""])
def test_what_is_no_month_is_told(given: str) -> None:
    with pytest.raises(InputError) as raised:
        usage.month(given, HOUR)
    assert raised.value.key == "usage.not-a-month"
