"""status, tunnels, settings, logs, ssh at the command line, on a registry that a fleet has written to."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry import log_requests, reports, settings
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

Kyoten = Callable[..., Any]


def now() -> datetime:
    """Not the time of the import: under load that is minutes before the test."""
    return datetime.now(UTC)


@pytest.fixture
def database(world: Kyoten, tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    yield opened
    opened.close()


def _report(database: Database, site: str, uplink: str = "wired", *, up: bool = True, problems: Any = ()) -> None:
    with database.write() as session:
        reports.record_heartbeat(
            session,
            OPERATOR,
            site_id=site,
            received_at=now() - timedelta(minutes=5),
            source=ip_address("10.0.0.1"),
            report={"uplink": {"kind": uplink}, "problems": list(problems), "settings": {"version": 0}},
        )
        reports.record_tunnel(session, OPERATOR, site_id=site, gateway="gw1", up=up, since=now() - timedelta(hours=1))


def test_status_says_how_each_site_is(world: Kyoten, database: Database) -> None:
    problem = {"key": "access.no-pinned-key", "params": {"target": "x"}}
    _report(database, "tokyo-1", "mobile", problems=[problem])
    _report(database, "kobe-1", up=False)
    shown = {row["site"]: row for row in world("status", "--json").document["sites"]}
    tokyo, kobe, osaka = shown["tokyo-1"], shown["kobe-1"], shown["osaka-1"]
    assert (tokyo["tunnel"], tokyo["uplink"], kobe["tunnel"], osaka["tunnel"]) == ("up", "mobile", "down", "never")
    assert 295 <= tokyo["heartbeat_age_s"] <= 400
    assert tokyo["problems"][0]["key"] == "access.no-pinned-key"
    table = world("status").out
    assert "DOWN" in table and "never up" in table and "5 min" in table and "No SSH host key" in table


def test_what_a_router_says_cannot_drive_a_terminal(world: Kyoten, database: Database) -> None:
    _report(database, "tokyo-1", problems=[{"key": "agent.\x1b[31mred", "params": {"x": "\x1b]0;title\x07"}}])
    shown = world("status").out
    assert "\x1b" not in shown and "\x07" not in shown


def test_a_text_with_wrong_parameters_still_shows(world: Kyoten, database: Database) -> None:
    _report(database, "tokyo-1", problems=[{"key": "access.mobile-line", "params": {}}])
    assert "access.mobile-line" in world("status", "tokyo-1").out


def test_status_of_a_tenant_shows_no_other_and_no_gateway(world: Kyoten, database: Database) -> None:
    with database.write() as session:
        reports.record_gateway(session, OPERATOR, name="gw1", seen_at=now(), rule_set="abc", dataplane="kernel")
    assert [row["gateway"] for row in world("status", "--json").document["gateways"]] == ["gw1"]
    theirs = world("--tenant", "birch", "status", "--json").document
    assert ([row["site"] for row in theirs["sites"]], theirs["gateways"]) == (["kobe-1", "nagoya-1"], [])
    assert "gw1" not in world("--tenant", "birch", "status").out


def test_tunnels_are_listed(world: Kyoten, database: Database) -> None:
    _report(database, "tokyo-1")
    shown = world("tunnels", "--json").document["tunnels"]
    assert [(row["site"], row["gateway"], row["up"]) for row in shown] == [("tokyo-1", "gw1", True)]


def test_settings_are_stated_without_waiting(world: Kyoten, database: Database) -> None:
    stated = world("site", "set", "tokyo-1", "log.level=debug", "--no-wait", "--json").document
    assert (stated["version"], stated["state"], stated["values"]) == (1, "pending", {"log.level": "debug"})
    later = world("site", "set", "tokyo-1", "log.level=", "tunnel.dpd_s=9", "--no-wait", "--json").document
    assert later["values"] == {"tunnel.dpd_s": 9.0}


def _once_stated(database: Database, act: Callable[[Any], None]) -> threading.Thread:
    def answer() -> None:
        for _ in range(500):
            with database.read() as session:
                stated = settings.latest(session, OPERATOR, "tokyo-1")
            if stated is not None:
                with database.write() as session:
                    act(session)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_settings_that_the_router_took_up_are_told(world: Kyoten, database: Database) -> None:
    router = _once_stated(
        database, lambda session: settings.mark_applied(session, OPERATOR, site_id="tokyo-1", version=1)
    )
    assert "works with settings version 1" in world("site", "set", "tokyo-1", "log.level=debug").out
    router.join()


def test_settings_that_the_router_undid_are_told_and_exit_3(world: Kyoten, database: Database) -> None:
    problem = {"key": "access.no-answer", "params": {"target": "cloud", "address": "192.0.2.1", "reason": "time-out"}}
    router = _once_stated(
        database,
        lambda session: settings.mark_reverted(session, OPERATOR, site_id="tokyo-1", version=1, problem=problem),
    )
    shown = world("site", "set", "tokyo-1", "tunnel.gateways=192.0.2.1", status=3)
    router.join()
    assert "undid settings version 1" in shown.err and "192.0.2.1" in shown.err
    assert world("status", "tokyo-1", "--json").document["sites"][0]["problems"][0]["key"] == "fleet.settings-reverted"


def test_settings_that_nobody_takes_up_are_told(world: Kyoten) -> None:
    late = world("site", "set", "tokyo-1", "log.level=debug", "--timeout", "0.1", "--json", status=5)
    assert late.error["key"] == "fleet.settings-pending"


def test_a_log_is_pulled(world: Kyoten, database: Database) -> None:
    def hand_over() -> None:
        for _ in range(500):
            with database.write() as session:
                for request in log_requests.waiting(session, OPERATOR, "tokyo-1"):
                    log_requests.answer(
                        session, OPERATOR, request_id=request.id, site_id="tokyo-1",
                        content=gzip.compress(b"09:00 up\n\x1b[2Jcleared\n"), now=now(),
                    )  # fmt: skip
                    return
            time.sleep(0.01)

    router = threading.Thread(target=hand_over)
    router.start()
    shown = world("logs", "tokyo-1", "--lines", "10").out
    router.join()
    assert shown == "09:00 up\n\ufffd[2Jcleared\n"


def test_a_log_that_does_not_come_names_the_request(world: Kyoten) -> None:
    late = world("logs", "tokyo-1", "--timeout", "0.1", "--json", status=5).error
    assert late["key"] == "access.log-not-yet"
    again = world("logs", "tokyo-1", "--request", late["params"]["request"], "--timeout", "0", "--json", status=5)
    assert again.error["params"]["request"] == late["params"]["request"]
    assert world("logs", "tokyo-1", "--request", "0" * 32, status=2).out == ""


@pytest.mark.parametrize(
    "arguments",
    [("ssh", "kobe-1", "true"), ("logs", "kobe-1"), ("site", "set", "kobe-1", "log.level=debug", "--no-wait")],
)
def test_the_mobile_line_is_refused_unless_commissioning(
    world: Kyoten, database: Database, arguments: tuple[str, ...]
) -> None:
    world("site", "enroll", "kobe-1", "--csr", "router.csr")
    _report(database, "kobe-1", "mobile")
    refused = world(*arguments, status=3).err
    assert "mobile line" in refused and "kyoten site phase kobe-1 commissioning" in refused
    with database.read() as session:
        assert settings.latest(session, OPERATOR, "kobe-1") is None
        assert log_requests.waiting(session, OPERATOR, "kobe-1") == []
    world("site", "phase", "kobe-1", "commissioning")
    if arguments[0] == "site":
        world(*arguments)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("ssh", "tokyo-1", "true"), 2, "enroll"),
        (("ssh", "tokyo-1/plc", "true"), 3, "set-host-key"),
        (("ssh", "tokyo-1/hmi", "true"), 2, "plc"),
        (("ssh", "tokyo-1/a/b", "true"), 2, "SITE"),
    ],
)
def test_ssh_refuses_before_it_connects(world: Kyoten, arguments: tuple[str, ...], status: int, words: str) -> None:
    assert words.lower() in world(*arguments, status=status).err.lower()


def test_ssh_on_a_site_that_never_reported_says_so(world: Kyoten) -> None:
    world("site", "enroll", "tokyo-1", "--csr", "router.csr")
    assert "never reported" in world("ssh", "tokyo-1", "true", status=5).err


def test_a_router_has_one_login(world: Kyoten, database: Database) -> None:
    world("site", "enroll", "tokyo-1", "--csr", "router.csr")
    _report(database, "tokyo-1")
    assert "root" in world("ssh", "--user", "admin", "tokyo-1", "true", status=2).err
