"""charon's and pppd's logs on the disk: whole, once, in order, whatever is restarted, and within bounds."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from router_agent.logs import keeping
from router_agent.logs.keeping import EVERY_S, Keeper
from router_agent.logs.units import Places, of_file

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "state").mkdir()
    (tmp_path / "run").mkdir()
    return Places(tmp_path / "state", tmp_path / "run")


def kept(places: Places, unit: str = "ike") -> list[str]:
    return [line for _, _, line in of_file(unit, places.kept(unit), (unit,))]


def append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def test_lines_are_kept_once_over_restarts_of_the_agent(places: Places) -> None:
    log = places.runtime / "charon.log"
    append(log, "2026-11-22T09:00:00 01[IKE] one\n2026-11-22T09:00:01 01[IKE] tw")
    Keeper(places).keep()
    append(log, "o\n")
    second = Keeper(places)
    second.keep()
    second.keep()
    append(log, "2026-11-22T09:00:02 01[IKE] three\n")
    Keeper(places).keep()
    assert [line.split()[-1] for line in kept(places)] == ["one", "two", "three"]


def test_a_power_cut_empties_memory_and_nothing_else(places: Places) -> None:
    log = places.runtime / "charon.log"
    append(log, "2026-11-22T09:00:00 01[IKE] before\n")
    Keeper(places).keep()
    for path in places.runtime.iterdir():
        path.unlink()
    append(log, "2026-11-22T09:05:00 01[IKE] behind\n")
    Keeper(places).keep()
    assert [line.split()[-1] for line in kept(places)] == ["before", "behind"]


def test_a_log_that_is_set_aside_loses_no_line(places: Places) -> None:
    log, keeper = places.runtime / "charon.log", Keeper(places)
    append(log, "2026-11-22T09:00:00 01[IKE] one\n")
    keeper.keep()
    append(log, "2026-11-22T09:00:01 01[IKE] two\n")
    log.rename(log.with_name("charon.log.1"))
    append(log, "2026-11-22T09:00:02 01[IKE] three\n")
    keeper.keep()
    assert [line.split()[-1] for line in kept(places)] == ["one", "two", "three"]


def test_lines_of_calls_get_the_time_at_which_they_came(places: Places) -> None:
    log = places.runtime / "pppd.log"
    log.write_text("Connect: ppp0\n")
    os.utime(log, (AT, AT))
    Keeper(places).keep()
    assert kept(places, "modem") == ["2026-11-22T12:00:00 Connect: ppp0"]


def test_it_looks_every_few_seconds(places: Places) -> None:
    log, keeper = places.runtime / "charon.log", Keeper(places)
    append(log, "2026-11-22T09:00:00 01[IKE] one\n")
    keeper.step(0.0)
    append(log, "2026-11-22T09:00:01 01[IKE] two\n")
    keeper.step(EVERY_S - 1)
    assert len(kept(places)) == 1
    keeper.step(EVERY_S)
    assert len(kept(places)) == 2


def test_what_is_kept_has_a_bound(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FILE_MAX_BYTES", 1000)
    log, keeper = places.runtime / "charon.log", Keeper(places)
    for number in range(100):
        append(log, f"2026-11-22T09:00:00 01[IKE] {number:0100}\n")
        keeper.keep()
    files = list((places.state / "kept").iterdir())
    assert len(files) <= 4 and sum(path.stat().st_size for path in files) < 4 * 1200
    numbers = [int(line.split()[-1]) for line in kept(places)]
    assert numbers == list(range(numbers[0], 100)), "in order, the newest"
    assert all((path.stat().st_mode & 0o777) == 0o600 for path in files)


def test_a_full_disk_costs_lines_and_they_come_when_there_is_room(places: Places) -> None:
    log, keeper = places.runtime / "charon.log", Keeper(places)
    append(log, "2026-11-22T09:00:00 01[IKE] one\n")
    (places.state / "kept").write_text("a file where a directory should be")
    keeper.keep()  # is told in the agent's log, and ends nothing
    (places.state / "kept").unlink()
    append(log, "2026-11-22T09:00:01 01[IKE] two\n")
    keeper.keep()
    assert [line.split()[-1] for line in kept(places)] == ["one", "two"]


def test_cursors_that_are_damaged_cost_double_lines_at_worst(places: Places) -> None:
    append(places.runtime / "charon.log", "2026-11-22T09:00:00 01[IKE] one\n")
    (places.runtime / "kept.json").write_text('{"ike": 3}')
    Keeper(places).keep()
    assert len(kept(places)) == 1


def test_a_line_that_a_power_cut_has_torn_stands_by_itself(places: Places) -> None:
    (places.state / "kept").mkdir()
    (places.state / "kept" / "ike.log").write_text("2026-11-22T09:00:00 01[IKE] whole\n2026-11-22T09:00:01 01[IKE] to")
    append(places.runtime / "charon.log", "2026-11-22T10:00:00 01[IKE] behind\n")
    Keeper(places).keep()
    assert [line.split()[-1] for line in kept(places)] == ["whole", "to", "behind"]


def test_what_is_written_to_a_log_that_is_set_aside_and_not_yet_opened_anew_is_kept(places: Places) -> None:
    log, keeper = places.runtime / "charon.log", Keeper(places)
    append(log, "2026-11-22T09:00:00 01[IKE] one\n")
    keeper.keep()
    aside = log.rename(log.with_name("charon.log.1"))
    append(aside, "2026-11-22T09:00:01 01[IKE] two\n")
    keeper.keep()
    append(aside, "2026-11-22T09:00:02 01[IKE] three\n")
    keeper.keep()
    append(log, "2026-11-22T09:00:03 01[IKE] four\n")
    keeper.keep()
    assert [line.split()[-1] for line in kept(places)] == ["one", "two", "three", "four"]


def test_very_much_in_a_log_that_is_set_aside_is_kept_to_its_end(places: Places) -> None:
    log, keeper = places.runtime / "charon.log", Keeper(places)
    append(log, "".join(f"2026-11-22T09:00:00 01[IKE] {number:0100}\n" for number in range(9_000)))
    keeper.keep()
    append(log, "".join(f"2026-11-22T09:00:00 01[IKE] {number:0100}\n" for number in range(9_000, 18_000)))
    log.rename(log.with_name("charon.log.1"))
    append(log, "2026-11-22T09:00:02 01[IKE] 18000\n")
    keeper.keep()
    assert [int(line.split()[-1]) for line in kept(places)] == list(range(18_001))


def test_trouble_with_one_log_is_not_the_others(places: Places) -> None:
    append(places.runtime / "charon.log", "2026-11-22T09:00:00 01[IKE] one\n")
    append(places.runtime / "pppd.log", "Connect: ppp0\n")
    (places.state / "kept" / "ike.log").mkdir(parents=True)
    Keeper(places).keep()
    assert len(kept(places, "modem")) == 1
    Keeper(places).keep()
    assert len(kept(places, "modem")) == 1, "how far it was is known"
    (places.state / "kept" / "ike.log").rmdir()
    Keeper(places).keep()
    assert len(kept(places)) == 1
