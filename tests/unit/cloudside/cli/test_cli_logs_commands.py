"""`kyoten logs` by range, `site exec`, `site crashes`, on a registry that a router of the day writes to."""

import gzip
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from cloudside.fleet import requests
from cloudside.fleet.protocol import CommandResult
from cloudside.registry import crash_reports, log_pulls, reports, site_commands
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

Kyoten = Callable[..., Any]
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _now() -> None:
    """A module's time is as old as its import; under load that is minutes."""
    global NOW
    NOW = datetime.now(UTC)


TEXT = b"# site tokyo-1\nagent| 2026-11-22T09:00:00Z INFO x: up\n\x1b[2Jcleared\n"
PACKED = gzip.compress(TEXT)


@pytest.fixture
def database(world: Kyoten, tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    _beat(opened, "tokyo-1", features=["log-pulls", "commands"])
    yield opened
    opened.close()


def _beat(database: Database, site: str, *, line: str = "wired", features: list[str]) -> None:
    report = {"uplink": {"kind": line}, "problems": [], "features": features}
    with database.write() as session:
        reports.record_heartbeat(
            session, OPERATOR, site_id=site, received_at=NOW, source=ip_address("10.0.0.1"), report=report
        )


def _router(database: Database, act: Callable[[Session], bool]) -> threading.Thread:
    """Something that a router does as soon as it is asked."""

    def work() -> None:
        for _ in range(1000):
            with database.write() as session:
                if act(session):
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def _hand_over(session: Session) -> bool:
    for pull in log_pulls.waiting(session, OPERATOR, "tokyo-1", now=NOW):
        requests.take_piece(
            session, pull_id=pull.id, site_id="tokyo-1", offset=0, total=len(PACKED),
            sha256=hashlib.sha256(PACKED).hexdigest(), content=PACKED, now=NOW,
        )  # fmt: skip
        return True
    return False


def _pull(database: Database) -> Any:
    with database.read() as session:
        return log_pulls.of_site(session, OPERATOR, "tokyo-1", most=1)[0]


def test_a_range_is_asked_for_and_shown(world: Kyoten, database: Database) -> None:
    router = _router(database, _hand_over)
    shown = world("logs", "tokyo-1", "--since", "2h", "--unit", "agent,kernel", "--unit", "modem").out
    router.join()
    assert shown == TEXT.decode().replace("\x1b", "\ufffd")
    pull = _pull(database)
    assert (pull.units, pull.lines, pull.state) == (["agent", "kernel", "modem"], 0, "done")
    assert pull.requested_at - pull.since_at == pytest.approx(timedelta(hours=2), abs=timedelta(minutes=2))
    assert pull.mobile_max_bytes < pull.max_bytes and pull.mobile_rate_bytes_s > 0
    again = world("logs", "tokyo-1", "--request", pull.id, "--json").document
    assert again["log"].encode() == TEXT
    assert "done" in world("logs", "tokyo-1", "--list").out


def test_a_log_goes_into_a_file(world: Kyoten, database: Database, tmp_path: Path) -> None:
    router = _router(database, _hand_over)
    world("logs", "tokyo-1", "--output", "day.log", "--anyway")
    router.join()
    assert (tmp_path / "day.log").read_bytes() == TEXT
    pull = _pull(database)
    assert (pull.lines, pull.mobile_max_bytes, pull.mobile_rate_bytes_s) == (500, pull.max_bytes, 0)
    world("logs", "tokyo-1", "--request", pull.id, "--output", "day.gz")
    assert (tmp_path / "day.gz").read_bytes() == PACKED
    assert world("logs", "tokyo-1", "--output", "nowhere/day.log", status=2).err.startswith("error: nowhere/day.log")
    assert not list(tmp_path.glob(".*.part"))


def test_what_is_asked_wrongly_is_told_before_anybody_is_asked(world: Kyoten, database: Database) -> None:
    for wrong in (("--unit", "weather"), ("--since", "soon"), ("--since", "1h", "--until", "2h"), ("--lines", "0"),
                  ("--follow", "--until", "1h"), ("--request", "0" * 32), ("--cancel", "0" * 32)):  # fmt: skip
        assert world("logs", "tokyo-1", *wrong, status=2).out == "", wrong
    with database.read() as session:
        assert log_pulls.of_site(session, OPERATOR, "tokyo-1", most=9) == []


def test_an_old_agent_is_asked_as_ever_and_for_nothing_new(world: Kyoten, database: Database) -> None:
    _beat(database, "osaka-1", features=[])
    for new in (("--since", "1h"), ("--unit", "kernel"), ("--follow",)):
        assert "too old" in world("logs", "osaka-1", *new, status=2).err
    late = world("logs", "osaka-1", "--timeout", "0", "--json", status=5).error
    assert late["key"] == "access.log-not-yet"
    with database.read() as session:
        assert log_pulls.of_site(session, OPERATOR, "osaka-1", most=9) == []


def test_a_log_on_its_way_says_how_far_it_is_and_what_it_waits_for(world: Kyoten, database: Database) -> None:
    world("logs", "tokyo-1", "--since", "1h", "--timeout", "0", status=5)
    pull = _pull(database)
    with database.write() as session:
        log_pulls.take_piece(
            session, OPERATOR, pull_id=pull.id, site_id="tokyo-1", offset=0, total=100, sha256="0" * 64,
            content=b"x" * 40, now=NOW,
        )  # fmt: skip
    half = world("logs", "tokyo-1", "--request", pull.id, "--timeout", "0", "--json", status=5).error
    assert (half["key"], half["params"]["received"], half["params"]["total"]) == ("logs.not-whole", 40, 100)
    problem = {"key": "agent.log-waits-for-line", "params": {"size": 9, "most": 8}}
    with database.write() as session:
        log_pulls.note(session, OPERATOR, pull_id=pull.id, site_id="tokyo-1", waits=problem)
    waits = world("logs", "tokyo-1", "--request", pull.id, "--timeout", "0", status=5).err
    assert "--anyway" in waits and pull.id in waits
    assert "taken back" in world("logs", "tokyo-1", "--cancel", pull.id).out
    assert "was over before" in world("logs", "tokyo-1", "--cancel", pull.id).out
    assert "taken back" in world("logs", "tokyo-1", "--request", pull.id, status=2).err


def test_a_log_that_cannot_be_had_is_told(world: Kyoten, database: Database) -> None:
    world("logs", "tokyo-1", "--since", "1h", "--timeout", "0", status=5)
    pull = _pull(database)
    with database.write() as session:
        log_pulls.end(session, OPERATOR, pull_id=pull.id, state=log_pulls.PullState.FAILED, now=NOW,
                      problem={"key": "agent.log-not-packed", "params": {"reason": "No space left"}})  # fmt: skip
    assert "No space left" in world("logs", "tokyo-1", "--request", pull.id, status=1).err


def test_another_tenants_log_is_unknown(world: Kyoten, database: Database) -> None:
    world("logs", "tokyo-1", "--since", "1h", "--timeout", "0", status=5)
    pull = _pull(database)
    for words in (("tokyo-1", "--request", pull.id), ("kobe-1", "--request", pull.id), ("kobe-1", "--cancel", pull.id),
                  ("tokyo-1", "--list"), ("tokyo-1", "--since", "1h")):  # fmt: skip
        assert world("--tenant", "birch", "logs", *words, status=2).out == "", words
    assert _pull(database).state == "open"


def _answer(state: str, **more: Any) -> Callable[[Session], bool]:
    def act(session: Session) -> bool:
        for command in site_commands.waiting(session, OPERATOR, "tokyo-1", now=NOW):
            result = CommandResult(state=state, **more)  # type: ignore[arg-type]
            requests.take_result(session, result, command_id=command.id, site_id="tokyo-1", now=NOW)
            return True
        return False

    return act


EXEC = ("site", "exec", "tokyo-1")


def test_a_command_is_run_and_found_again(world: Kyoten, database: Database) -> None:
    router = _router(database, _answer("done", status=1, output="no answer\x1b[2J\n", truncated=True))
    ended = world(*EXEC, "ping", "plc", "count=2", "--reason", "is it there?")
    router.join()
    assert ended.out == "no answer\ufffd[2J\n" and "status 1" in ended.err and "left out" in ended.err
    (row,) = world("site", "commands", "tokyo-1", "--json").document["site-commands"]
    assert (row["name"], row["arguments"], row["reason"], row["requested_by"], row["state"]) == (
        "ping", {"address": "192.168.1.20", "count": 2}, "is it there?", "alice", "done",
    )  # fmt: skip
    assert "is it there?" in world("site", "commands", "tokyo-1").out
    assert "no answer" in world("site", "commands", "tokyo-1", row["command"]).out
    assert world("site", "commands", "osaka-1", row["command"], status=2).out == ""
    shown = world("audit", "list", "--subject", f"tokyo-1/{row['command']}").out
    assert "alice" in shown and "is it there?" in shown


@pytest.mark.parametrize(("state", "status"), [("refused", 3), ("failed", 3), ("timed-out", 5), ("interrupted", 5)])
def test_how_it_ended_is_said_and_in_the_status(world: Kyoten, database: Database, state: str, status: int) -> None:
    problem = {"key": "agent.command-failed", "params": {"reason": "because"}}
    router = _router(database, _answer(state, problem=problem))
    ended = world(*EXEC, "routes", "--reason", "r", status=status)
    router.join()
    assert "'routes'" in ended.err and "because" in ended.err


def test_what_is_typed_wrongly_is_told_and_nothing_is_asked(
    world: Kyoten, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for words, told in (
        (("ping", "plc"), "reason"), (("pong", "--reason", "r"), "ping"), (("ping", "--reason", "r"), "ping ADDRESS"),
        (("ping", "hmi", "--reason", "r"), "device"), (("ping", "plc", "--reason", " "), "reason"),
        (("ping", "plc", "--reason", "r", "--timeout", "999"), "120"),
        (("ping", "plc", "--reason", "r", "--expires", "9d"), "7 days"),
    ):  # fmt: skip
        assert told in world(*EXEC, *words, status=2).err, words
    _beat(database, "osaka-1", features=[])
    assert "too old" in world("site", "exec", "osaka-1", "routes", "--reason", "r", status=2).err
    world(*EXEC, "reboot", "--reason", "r", status=130)  # nobody was there to agree
    assert world("site", "commands", "tokyo-1").out == "No command was given for this site.\n"
    listed = world(*EXEC).out
    assert "ping ADDRESS [count=...]" in listed and "reboot" in listed


def test_commands_are_for_operators_unless_the_configuration_permits_them(
    world: Kyoten, database: Database, tmp_path: Path
) -> None:
    mine = ("--tenant", "acme", *EXEC, "ping", "plc", "--reason", "r", "--no-wait")
    assert "administrator of acme" in world(*mine, status=3).err
    assert world("--tenant", "birch", *EXEC, "ping", "plc", "--reason", "r", status=2).out == ""
    with (tmp_path / "kyoten.toml").open("a") as stream:
        stream.write('[web]\ntenant_commands = ["ping"]\n')
    assert "Asked tokyo-1" in world(*mine).out
    assert world("--tenant", "acme", *EXEC, "routes", "--reason", "r", status=3).out == ""
    (row,) = world("--tenant", "acme", "site", "commands", "tokyo-1", "--json").document["site-commands"]
    assert world("--tenant", "birch", "site", "commands", "tokyo-1", row["command"], status=2).out == ""


def test_a_command_nobody_answers_says_when_it_expires(world: Kyoten, database: Database) -> None:
    asked = world(*EXEC, "routes", "--reason", "r", "--no-wait", "--json").document
    assert asked["state"] == "waiting"
    with database.write() as session:
        site_commands.get(session, OPERATOR, asked["command"]).expires_at = NOW - timedelta(seconds=1)
    (row,) = world("site", "commands", "tokyo-1", "--json").document["site-commands"]
    assert row["state"] == "expired"


def test_the_mobile_line_is_refused_unless_commissioning(world: Kyoten, database: Database) -> None:
    _beat(database, "tokyo-1", line="mobile", features=["log-pulls", "commands"])
    for words in ((*EXEC, "routes", "--reason", "r"), ("logs", "tokyo-1", "--since", "1h", "--anyway"),
                  ("settings", "apply", "tokyo-1")):  # fmt: skip
        world("settings", "draft", "tokyo-1", "log.level=debug")
        assert "mobile line" in world(*words, status=3).err, words


def test_crashes_are_listed_and_shown(world: Kyoten, database: Database) -> None:
    assert world("site", "crashes", "tokyo-1").out == "This router has reported no crash.\n"
    with database.write() as session:
        crash_reports.record(
            session, OPERATOR, site_id="tokyo-1", report_id="abcdef12" * 4, kind="killed", process="kyoten-agent",
            summary="ended\x1b[2J", first_at=NOW, last_at=NOW, count=3, versions={"agent": "0.1"},
            text="last words\x1b", now=NOW,
        )  # fmt: skip
    listed = world("site", "crashes", "tokyo-1").out
    assert "abcdef12" in listed and "killed" in listed and "\x1b" not in listed
    shown = world("site", "crashes", "tokyo-1", "show", "abcd").out
    assert "last words\ufffd" in shown and "0.1" in shown
    assert world("site", "crashes", "tokyo-1", "abcd", "--json").document["count"] == 3
    for wrong in (("show",), ("show", "a", "b"), ("show", "zz")):
        assert world("site", "crashes", "tokyo-1", *wrong, status=2).out == "", wrong
    assert world("--tenant", "birch", "site", "crashes", "tokyo-1", status=2).out == ""
