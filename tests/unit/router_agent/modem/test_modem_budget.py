"""The month's bytes: over resets, restarts, months and clocks that are wrong; few writes; what is said when."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_agent.modem import budget
from router_agent.modem.budget import (
    KEEP_S,
    MIB,
    NAME,
    BudgetBook,
    Ledger,
    Level,
    Reading,
    account,
    close,
    level,
    month,
)

NOV = datetime(2026, 11, 22, 3, tzinfo=UTC)


def test_growth_is_counted_and_a_counter_that_begins_anew_is_counted_from_zero() -> None:
    ledger = account(Ledger(), Reading("boot:7", 1000), "2026-11")
    ledger = account(ledger, Reading("boot:7", 1500), "2026-11")
    assert ledger.used_bytes == 1500
    ledger = account(ledger, Reading("boot:8", 40), "2026-11")
    ledger = account(ledger, Reading("boot:8", 10), "2026-11")
    ledger = account(ledger, None, "2026-11")
    assert ledger.used_bytes == 1500 + 40 + 10


def test_what_no_look_has_seen_is_told_by_the_call_s_end() -> None:
    ledger = account(Ledger(), Reading("boot:7", 1000), "2026-11")
    ledger = close(ledger, 1700)
    assert ledger.used_bytes == 1700
    assert account(ledger, Reading("boot:8", 5), "2026-11").used_bytes == 1705
    assert close(Ledger("2026-11", 10), 300).used_bytes == 310, "a call too short for a look"
    assert close(ledger, 0).used_bytes == 1700


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 40))))
def test_the_count_never_goes_down_within_a_month(readings: list[tuple[int, int]]) -> None:
    ledger, before = Ledger(), 0
    for epoch, total in readings:
        ledger = account(ledger, Reading(str(epoch), total), "2026-11")
        assert ledger.used_bytes >= before
        before = ledger.used_bytes


def test_a_month_is_the_sites() -> None:
    late = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)
    assert month(late, "UTC") == "2026-11"
    assert month(late, "Asia/Tokyo") == "2026-12"
    assert month(late, "Atlantis/Nowhere") == "2026-11"
    assert month(late, "../../etc/passwd") == "2026-11"
    assert month(datetime(1970, 1, 1, tzinfo=UTC), "UTC") is None


def test_a_new_month_begins_at_zero_and_a_clock_that_goes_back_loses_nothing() -> None:
    november = Ledger("2026-11", 900, "e", 900)
    december = account(november, Reading("e", 950), "2026-12")
    assert (december.month, december.used_bytes) == ("2026-12", 50)
    assert account(november, Reading("e", 950), None).used_bytes == 950, "a clock that is not set ends no month"
    assert account(november, Reading("e", 950), "2026-10").used_bytes == 950


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (0, Level.FINE),
        (799, Level.FINE),
        (800, Level.NEAR),
        (999, Level.NEAR),
        (1000, Level.SPENT),
        (9000, Level.SPENT),
    ],
)
def test_levels(used: int, expected: Level) -> None:
    assert level(used, 1000) is expected
    assert level(used, 0) is Level.FINE


def test_a_restart_goes_on_where_the_last_agent_was(tmp_path: Path) -> None:
    book = BudgetBook(tmp_path, now=0)
    book.use_timezone("Asia/Tokyo")
    book.look(Reading("e", 5000), NOV, budget_bytes=0, now=0)
    book.keep(1)
    again = BudgetBook(tmp_path, now=0)
    again.look(Reading("e", 6000), NOV, budget_bytes=0, now=1)
    assert again.ledger == Ledger("2026-11", 6000, "e", 6000, "Asia/Tokyo")


def test_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    monkeypatch.setattr(
        budget, "write_durably", lambda _path, content: writes.append(json.loads(content)["used_bytes"])
    )
    book = BudgetBook(tmp_path, now=0)
    total = 0
    for second in range(0, 86_400, 2):  # a day with 100 bytes a second
        total += 200
        book.look(Reading("e", total), NOV + timedelta(seconds=second), budget_bytes=0, now=second)
    assert 200 < len(writes) <= 86_400 / KEEP_S + 2
    count = len(writes)
    for second in range(86_400, 2 * 86_400, 2):  # a day with nothing
        book.look(Reading("e", total), NOV, budget_bytes=0, now=second)
    assert len(writes) <= count + 1


def test_a_threshold_is_written_at_once(tmp_path: Path) -> None:
    book = BudgetBook(tmp_path, now=0)
    book.look(Reading("e", 1), NOV, budget_bytes=MIB, now=1)
    book.look(Reading("e", MIB), NOV, budget_bytes=MIB, now=2)
    assert json.loads((tmp_path / NAME).read_text())["used_bytes"] == MIB


def test_a_full_disk_is_told_and_counting_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "missing"
    book = BudgetBook(place, now=0)
    book.look(Reading("e", 5), NOV, budget_bytes=0, now=KEEP_S)
    assert book.trouble == os.strerror(2)
    place.mkdir()
    book.look(Reading("e", 9), NOV, budget_bytes=0, now=2 * KEEP_S)
    assert (book.trouble, BudgetBook(place, now=0).ledger.used_bytes) == (None, 9)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"used_bytes": -1}', '{"used_bytes": "9"}', '{"x": 1}', "\udcff"]
)
def test_a_damaged_file_begins_anew_and_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, errors="surrogateescape")
    book = BudgetBook(tmp_path, now=0)
    assert book.ledger == Ledger()
    assert book.trouble is not None
