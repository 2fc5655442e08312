from datetime import UTC, date, datetime, timedelta

import pytest

from cloudside.errors import InputError, RefusedError
from cloudside.registry import counters
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.counted import Refused, StatementUse
from cloudside.registry.counters import KEPT_DAYS, REFUSED_MAX, Total
from cloudside.registry.database import Database

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
TODAY = NOW.date()
ACME = Caller("acme")
ZENITH = Caller("zenith")


def _use(statement: str, *, day: date = TODAY, flows: int = 1, amount: int = 10, at: datetime = NOW) -> StatementUse:
    return StatementUse(statement, day, flows, amount, amount * 100, at)


def _refused(number: int = 0, *, tenant: str = "acme", at: datetime = NOW, **other: object) -> Refused:
    given = {"source": "tokyo-1", "source_address": "10.10.0.1", "service": f"tcp/{number}", "statements": ()} | other
    return Refused(
        tenant=tenant,
        destination="web",
        destination_address="10.254.0.10",
        reason="rules.no-statement",
        params={"source": "tokyo-1", "destination": "web"},
        last_seen=at,
        **given,  # type: ignore[arg-type]
    )


def _add(database: Database, *uses: StatementUse) -> None:
    with database.write() as session:
        counters.add_uses(session, OPERATOR, uses)


def _refuse(database: Database, *refused: Refused, gateway: str = "gw1") -> None:
    with database.write() as session:
        counters.add_refused(session, OPERATOR, refused, gateway=gateway)


def _totals(database: Database, caller: Caller = OPERATOR, *, since: date = TODAY) -> dict[str, Total]:
    with database.read() as session:
        return counters.totals(session, caller, "acme", since=since)


def test_uses_add_up_over_gateways_and_days(populated: Database) -> None:
    yesterday = TODAY - timedelta(days=1)
    _add(populated, _use("acme/web", day=yesterday), _use("acme/web"), _use("acme/old", day=yesterday))
    _add(populated, _use("acme/web", at=NOW + timedelta(minutes=1)))
    assert _totals(populated)["acme/web"] == Total(2, 20, 2000, NOW + timedelta(minutes=1))
    assert _totals(populated)["acme/old"] == Total(0, 0, 0, NOW)  # used, but not in these days
    assert _totals(populated, since=yesterday)["acme/web"].flows == 3


def test_what_is_too_old_goes(populated: Database) -> None:
    _add(populated, _use("acme/old", day=TODAY - timedelta(days=KEPT_DAYS + 1)), _use("acme/kept", day=TODAY))
    assert _totals(populated, since=date(2000, 1, 1)).keys() == {"acme/kept"}


def test_statement_of_a_tenant_that_is_gone_spoils_nothing(populated: Database) -> None:
    _add(populated, _use("ghost/web"), _use("acme/web"))
    _refuse(populated, _refused(tenant="ghost"), _refused())
    assert _totals(populated).keys() == {"acme/web"}


def test_refused_again_is_one_row_with_the_newest_reason(populated: Database) -> None:
    _refuse(populated, _refused(23))
    later = NOW + timedelta(minutes=5)
    _refuse(populated, _refused(23, at=later, statements=("acme/no-telnet",)))
    _refuse(populated, _refused(23, at=later), gateway="gw2")
    with populated.read() as session:
        rows = counters.refused(session, ACME, "acme")
    found = {row.gateway: (row.first_seen, row.last_seen, row.statements) for row in rows}
    assert found == {"gw1": (NOW, later, "acme/no-telnet"), "gw2": (later, later, "")}
    assert counters.refused_by_statement(rows) == {"acme/no-telnet": (1, later)}


def test_refused_are_capped_for_each_tenant_and_the_oldest_go(populated: Database) -> None:
    _refuse(populated, _refused(tenant="zenith", at=NOW - timedelta(days=9)))
    many = [_refused(number, at=NOW + timedelta(seconds=number)) for number in range(REFUSED_MAX + 20)]
    _refuse(populated, *many)
    with populated.read() as session:
        rows = counters.refused(session, OPERATOR, "acme")
        others = counters.refused(session, OPERATOR, "zenith")
    assert len(rows) == REFUSED_MAX
    assert rows[0].service == f"tcp/{REFUSED_MAX + 19}"
    assert min(row.last_seen for row in rows) == NOW + timedelta(seconds=20)
    assert len(others) == 1


def test_site_has_its_devices_and_not_its_namesakes(populated: Database) -> None:
    for number, source in enumerate(("tokyo-1", "tokyo-1/plc", "tokyo-10", "10.99.0.1")):
        _refuse(populated, _refused(number, source=source, source_address=f"10.10.0.{number}"))
    with populated.read() as session:
        found = {row.source for row in counters.refused(session, ACME, "acme", site="tokyo-1")}
    assert found == {"tokyo-1", "tokyo-1/plc"}


def test_another_tenants_are_as_if_they_were_not_there(populated: Database) -> None:
    _add(populated, _use("acme/web"))
    _refuse(populated, _refused())
    with populated.read() as session:
        for read in (
            lambda: counters.totals(session, ZENITH, "acme", since=TODAY),
            lambda: counters.refused(session, ZENITH, "acme"),
        ):
            with pytest.raises(InputError) as caught:
                read()
            assert caught.value.key == "registry.unknown-tenant"
        assert counters.totals(session, ZENITH, "zenith", since=TODAY) == {}
    for write in (
        lambda session: counters.add_uses(session, ACME, [_use("acme/web")]),
        lambda session: counters.add_refused(session, ACME, [_refused()], gateway="gw1"),
    ):
        with pytest.raises(RefusedError), populated.write() as session:
            write(session)
