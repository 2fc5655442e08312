"""The agent's log and what is handed over of it."""

import gzip
import logging
import random
from datetime import UTC, datetime
from pathlib import Path

from router_agent.logs import collect, writer


def line(second: int, text: str) -> str:
    return f"2026-11-21T20:55:{second:02d} {text}"


def test_lines_of_several_logs_come_in_the_order_of_time_with_what_belongs_to_them() -> None:
    logs = {
        "agent": [line(1, "a"), line(3, "b"), "  a second line of b", line(5, "c")],
        "charon": [line(2, "x"), line(3, "y"), line(4, "z")],
    }
    assert [found.replace("2026-11-21T20:55:", "") for found in collect.merged(logs, 100)] == [
        "agent| 01 a", "charon| 02 x", "agent| 03 b", "agent|   a second line of b", "charon| 03 y", "charon| 04 z",
        "agent| 05 c",
    ]  # fmt: skip
    assert len(collect.merged(logs, 3)) == 3
    assert collect.merged(logs, 1) == [f"agent| {line(5, 'c')}"]


def test_the_last_lines_reach_back_into_older_files(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_text("1\n2\n3\n")
    (tmp_path / "log").write_text("4\n5\n")
    files = [tmp_path / "log.2", tmp_path / "log.1", tmp_path / "log"]
    assert collect.last_lines(files, 3) == ["3", "4", "5"]
    assert collect.last_lines(files, 100) == ["1", "2", "3", "4", "5"]
    assert collect.last_lines([tmp_path / "none"], 5) == []


def test_the_text_says_whose_it_is() -> None:
    text = collect.text("tokyo-1", {"agent": [line(1, "a")]}, 10, now=datetime(2026, 11, 21, tzinfo=UTC))
    assert text.splitlines()[0] == "# site tokyo-1; collected 2026-11-21T00:00:00+00:00; 1 lines of agent"


def test_a_log_that_does_not_compress_is_cut_to_what_the_cloud_takes() -> None:
    noise = random.Random(1).randbytes(3_000_000).hex()
    packed = collect.compressed(noise)
    assert len(packed) <= collect.COMPRESSED_MAX_BYTES
    assert noise.endswith(gzip.decompress(packed).decode())


def test_one_event_is_one_line_whatever_a_peer_sent(tmp_path: Path) -> None:
    kept = writer.install(tmp_path, also_stderr=False)
    logging.getLogger("router_agent.x").info("peer said %s", "a\n2026-11-21T00:00:00Z INFO forged\r\n")
    kept.close()
    (only,) = (tmp_path / writer.NAME).read_text().splitlines()
    assert only[:2] == "20"
    assert only[19] == "Z"


def test_a_log_that_cannot_be_written_is_remembered_and_nothing_is_raised(tmp_path: Path) -> None:
    place = tmp_path / "log"
    kept = writer.install(place, also_stderr=False)
    logging.getLogger("router_agent.x").info("lost")
    assert kept.trouble == "No such file or directory"
    place.mkdir()
    logging.getLogger("router_agent.x").info("kept")
    assert kept.trouble is None
    kept.close()


def test_levels_are_the_settings_words(tmp_path: Path) -> None:
    kept = writer.install(tmp_path, also_stderr=False)
    writer.set_level("warning")
    logging.getLogger("router_agent.x").info("not this")
    logging.getLogger("router_agent.x").warning("this")
    kept.close()
    assert len((tmp_path / writer.NAME).read_text().splitlines()) == 1
