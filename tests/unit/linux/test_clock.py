"""The battery's clock: its struct, and a machine without one."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux import clock
from linux.errors import ClockError


@given(st.integers(0, 4_102_444_799).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)))
def test_an_instant_comes_back_to_the_second(at: datetime) -> None:
    assert clock.unpacked(clock.packed(at)) == at


def test_the_battery_is_in_utc() -> None:
    tokyo = datetime(2026, 11, 22, 9, 30, tzinfo=timezone(timedelta(hours=9)))
    assert clock.unpacked(clock.packed(tokyo)) == datetime(2026, 11, 22, 0, 30, tzinfo=UTC)


def test_an_empty_battery_says_what_is_no_instant() -> None:
    with pytest.raises(ValueError, match=r"month|day"):
        clock.unpacked(bytes(36))


def test_a_machine_without_a_battery_is_left(tmp_path: Path) -> None:
    clock.keep(tmp_path / "rtc0")


def test_what_is_no_clock_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "rtc0").write_bytes(b"")
    with pytest.raises(ClockError):
        clock.keep(tmp_path / "rtc0")
