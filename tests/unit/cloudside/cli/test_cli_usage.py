"""`kyoten usage`, right and wrong input, tables, CSV and JSON."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloudside.registry import usage
from cloudside.registry.callers import OPERATOR
from cloudside.registry.counted import SiteUse
from cloudside.registry.database import Database
from cloudside.registry.usage import Cursor

HOUR = datetime(2026, 10, 31, 23, tzinfo=UTC)


@pytest.fixture
def told(world: Callable[..., object], tmp_path: Path) -> Callable[..., object]:
    """`kyoten` on an installation that has two hours of usage of tokyo-1."""
    database = Database(f"sqlite:///{tmp_path}/state/registry.sqlite")
    with database.record() as session:
        uses = [SiteUse("tokyo-1", HOUR, 1000, 50, 3_600_000), SiteUse("tokyo-1", HOUR.replace(hour=22), 7, 0, 1)]
        usage.tell(session, OPERATOR, uses, {"tokyo-1": ["plant"]}, gateway="gw1", told=Cursor(1, HOUR))
    database.close()
    return world


def test_a_statement_adds_up_to_its_rows(told: Callable[..., object]) -> None:
    statement = told("usage", "statement", "--month", "2026-10", "--json").document
    rows = told("usage", "rows", "--since", "2026-10-01", "--until", "2026-11-01", "--json").document["rows"]
    assert len(rows) == 2
    assert statement["complete"] is True
    assert statement["tenants"][0]["bytes_from_site"] == sum(row["bytes_from_site"] for row in rows) == 1007
    assert statement["sites"][0]["hours"] == pytest.approx(sum(row["hours"] for row in rows))
    assert statement["memberships"][0]["group"] == "plant"


def test_csv_can_be_read_by_a_program(told: Callable[..., object]) -> None:
    text = told("usage", "rows", "--since", "2026-10-01", "--until", "2026-11-01", "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["bytes_from_site"] for row in rows] == ["7", "1000"]
    assert rows[1]["since"] == "2026-10-31T23:00:00Z"


def test_people_see_a_table_and_when_a_month_is_not_over(told: Callable[..., object]) -> None:
    assert "1,007" in told("usage", "statement", "--month", "2026-10").out
    assert "not over" in told("usage", "statement", "--month", "2099-01").out
    assert told("usage", "rows", "--site", "tokyo-1", "--since", "1m").out.strip() == "Nothing was used in that time."


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["statement", "--month", "2026-14"], 2),
        (["statement"], 2),
        (["rows", "--since", "yesterday-ish"], 2),
        (["rows", "--site", "nowhere"], 2),
        (["rows", "--of", "nobody"], 2),
        (["rows", "--by", "year"], 2),
        (["prune"], 2),
        (["prune", "--before", "2199-01-01"], 2),
    ],
)
def test_wrong_input_is_told(told: Callable[..., object], arguments: list[str], status: int) -> None:
    assert told("usage", *arguments, status=status).err


def test_a_tenant_sees_its_own_and_may_not_prune(told: Callable[..., object]) -> None:
    window = ["--since", "2026-10-01", "--json"]
    assert told("--tenant", "acme", "usage", "rows", *window).document["rows"]
    assert told("--tenant", "birch", "usage", "rows", *window).document["rows"] == []
    told("--tenant", "acme", "usage", "prune", "--before", "2027-01-01", status=3)
    assert told("usage", "prune", "--before", "2026-11-01", "--json").document["pruned"] == 4
