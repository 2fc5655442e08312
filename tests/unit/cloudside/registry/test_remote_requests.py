"""Drafts, changes to many sites, log pulls, commands, crash reports: what is kept, what is audited, whose it is."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from registry_engines import Engine
from sqlalchemy.orm import Session

from cloudside.errors import InputError, RefusedError
from cloudside.registry import (
    audit,
    crash_reports,
    log_pulls,
    settings,
    settings_changes,
    settings_drafts,
    site_commands,
)
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database
from cloudside.registry.log_pulls import PullState
from cloudside.registry.settings_changes import ChangeState, SiteState
from cloudside.registry.site_commands import CommandState

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
ACME, ZENITH = Caller("acme"), Caller("zenith")
PULL, COMMAND = "1" * 32, "2" * 32


def draft(session: Session, caller: Caller, site: str, **changes: Any) -> Any:
    named = {name.replace("__", "."): value for name, value in changes.items()} or {"log.level": "debug"}
    return settings_drafts.add(session, caller, site_id=site, changes=named, author="ann", now=NOW)


def pull(session: Session, caller: Caller, site: str, pull_id: str = PULL, **more: Any) -> Any:
    options = {"units": ("agent",), "since": None, "until": None, "lines": 0, "follow": False, **more}
    return log_pulls.ask(
        session, caller, pull_id=pull_id, site_id=site, max_bytes=1000, mobile_max_bytes=100, mobile_rate_bytes_s=10,
        requested_by="ann", expires_at=LATER, now=NOW, **options,
    )  # fmt: skip


def command(session: Session, caller: Caller, site: str, **more: Any) -> Any:
    options = {"name": "ping", "reason": "why not", "command_id": COMMAND, **more}
    return site_commands.ask(
        session, caller, site_id=site, arguments={"address": "192.0.2.1"}, timeout_s=30, requested_by="ann",
        expires_at=LATER, now=NOW, **options,
    )  # fmt: skip


def answer(session: Session, caller: Caller, site: str, command_id: str = COMMAND) -> Any:
    return site_commands.answer(
        session, caller, command_id=command_id, site_id=site, state=CommandState.DONE, status=0, output="secret words",
        truncated=False, began_at=NOW, duration_ms=5, problem=None, now=NOW,
    )  # fmt: skip


def piece(session: Session, caller: Caller, site: str) -> Any:
    return log_pulls.take_piece(
        session, caller, pull_id=PULL, site_id=site, offset=0, total=4, sha256="0" * 64, content=b"abcd", now=NOW
    )


def change(session: Session, caller: Caller, *names: str) -> Any:
    return settings_changes.add(
        session, caller, site_ids=names, changes={"log.level": "debug", "mobile.pin": "1234"}, reason="r",
        author="ann", stagger=1, every_s=1, stop_after=1, until=LATER, now=NOW,
    )  # fmt: skip


def crash(session: Session, caller: Caller, site: str) -> Any:
    return crash_reports.record(
        session, caller, site_id=site, report_id="ab" * 16, kind="child", process="p", summary="s", first_at=NOW,
        last_at=NOW, count=1, versions={}, text="t", now=NOW,
    )  # fmt: skip


@pytest.fixture(scope="session")
def asked_template(engine: Engine, populated_template: str) -> str:
    url = engine.new(populated_template)
    with closing(Database(url)) as database, database.write() as session:
        settings.add_version(session, OPERATOR, site_id="osaka-1", values={"a": 1}, author="ops", now=NOW)
        draft(session, OPERATOR, "osaka-1")
        pull(session, OPERATOR, "osaka-1")
        command(session, OPERATOR, "osaka-1")
        crash(session, OPERATOR, "osaka-1")
        change(session, ZENITH, "osaka-1")
    return url


@pytest.fixture
def filled(engine: Engine, asked_template: str) -> Iterator[Database]:
    """Zenith's site has one of everything."""
    url = engine.new(asked_template)
    with closing(Database(url)) as database:
        yield database
    engine.drop(url)


#: Each takes the caller and a site: zenith's "osaka-1", or "nowhere-1", which nobody has.
_ON_SITE: dict[str, Callable[[Session, Caller, str], object]] = {
    "settings.wanted": lambda s, c, site: settings.wanted(s, c, site),
    "settings.get": lambda s, c, site: settings.get(s, c, site, 1),
    "settings.withdraw": lambda s, c, site: settings.withdraw(s, c, site_id=site, version=1, problem={}),
    "settings_drafts.find": lambda s, c, site: settings_drafts.find(s, c, site),
    "settings_drafts.get": lambda s, c, site: settings_drafts.get(s, c, site),
    "settings_drafts.add": lambda s, c, site: draft(s, c, site),
    "settings_drafts.apply": lambda s, c, site: settings_drafts.apply(
        s, c, site_id=site, author="a", overwrite=True, now=NOW
    ),
    "settings_drafts.discard": lambda s, c, site: settings_drafts.discard(s, c, site_id=site),
    "settings_changes.add": lambda s, c, site: change(s, c, site),
    "log_pulls.ask": lambda s, c, site: pull(s, c, site, "3" * 32),
    "log_pulls.of_site": lambda s, c, site: log_pulls.of_site(s, c, site, most=9),
    "log_pulls.waiting": lambda s, c, site: log_pulls.waiting(s, c, site, now=NOW),
    "site_commands.ask": lambda s, c, site: command(s, c, site, command_id="4" * 32, tenants_may=frozenset({"ping"})),
    "site_commands.of_site": lambda s, c, site: site_commands.of_site(s, c, site, most=9),
    "site_commands.waiting": lambda s, c, site: site_commands.waiting(s, c, site, now=NOW),
    "crash_reports.record": lambda s, c, site: crash(s, c, site),
    "crash_reports.of_site": lambda s, c, site: crash_reports.of_site(s, c, site),
    "crash_reports.get": lambda s, c, site: crash_reports.get(s, c, site, "ab"),
}
#: Each takes the caller alone, and is about what is zenith's.
_BY_ID: dict[str, tuple[str, Callable[[Session, Caller], object]]] = {
    "log_pulls.get": ("unknown-log-request", lambda s, c: log_pulls.get(s, c, PULL)),
    "log_pulls.upload_of": ("unknown-log-request", lambda s, c: log_pulls.upload_of(s, c, PULL)),
    "log_pulls.received": ("unknown-log-request", lambda s, c: log_pulls.received(s, c, PULL)),
    "log_pulls.pieces": ("unknown-log-request", lambda s, c: list(log_pulls.pieces(s, c, PULL))),
    "log_pulls.take_piece": ("unknown-log-request", lambda s, c: piece(s, c, "osaka-1")),
    "log_pulls.note": ("unknown-log-request", lambda s, c: log_pulls.note(
        s, c, pull_id=PULL, site_id="osaka-1", waits=None)),
    "log_pulls.want": ("unknown-log-request", lambda s, c: log_pulls.want(s, c, pull_id=PULL, until=LATER)),
    "log_pulls.start_over": ("unknown-log-request", lambda s, c: log_pulls.start_over(
        s, c, pull_id=PULL, site_id="osaka-1")),
    "log_pulls.end": ("unknown-log-request", lambda s, c: log_pulls.end(
        s, c, pull_id=PULL, state=PullState.CANCELLED, now=NOW)),
    "log_pulls.is_as_announced": ("unknown-log-request", lambda s, c: log_pulls.is_as_announced(s, c, PULL)),
    "site_commands.get": ("unknown-id", lambda s, c: site_commands.get(s, c, COMMAND)),
    "site_commands.answer": ("unknown-id", lambda s, c: answer(s, c, "osaka-1")),
    "settings_changes.get": ("unknown-change", lambda s, c: settings_changes.get(s, c, 1)),
    "settings_changes.site_rows": ("unknown-change", lambda s, c: settings_changes.site_rows(s, c, 1)),
    "settings_changes.counts": ("unknown-change", lambda s, c: settings_changes.counts(s, c, 1)),
    "settings_changes.last_stated": ("unknown-change", lambda s, c: settings_changes.last_stated(s, c, 1)),
    "settings_changes.ready": ("unknown-change", lambda s, c: settings_changes.ready(
        s, c, 1, most=9, wired_since=NOW, mobile_since=NOW, mobile_phases=frozenset())),
    "settings_changes.move": ("unknown-change", lambda s, c: settings_changes.move(
        s, c, change_id=1, state=ChangeState.PAUSED, now=NOW)),
    "settings_changes.resume": ("unknown-change", lambda s, c: settings_changes.resume(
        s, c, change_id=1, more_failures=1, now=NOW)),
}  # fmt: skip


@pytest.mark.parametrize("name", _ON_SITE)
def test_foreign_site_is_an_unknown_site(filled: Database, name: str) -> None:
    act = _ON_SITE[name]
    answers = []
    for site in ("osaka-1", "nowhere-1"):
        with pytest.raises(InputError) as caught, filled.write() as session:
            act(session, ACME, site)
        answers.append((caught.value.key, caught.value.params.get("known")))
    assert answers[0] == answers[1]
    assert answers[0][0] == "registry.unknown-site" and "osaka" not in str(answers[0][1])
    with filled.write() as session:  # the owner is let in: the refusal above was about the caller
        act(session, ZENITH, "osaka-1")


@pytest.mark.parametrize("name", _BY_ID)
def test_what_is_another_tenants_is_unknown(filled: Database, name: str) -> None:
    key, act = _BY_ID[name]
    with pytest.raises(InputError, match=key), filled.write() as session:
        act(session, ACME)
    if name != "settings_changes.resume":  # it is not paused
        with filled.write() as session:
            act(session, ZENITH)


def test_lists_hold_only_the_callers_own(filled: Database) -> None:
    with filled.write() as session:
        change(session, OPERATOR, "tokyo-1", "osaka-1")
    with filled.read() as session:
        assert settings_changes.every(session, ACME, most=9) == []
        assert [one.id for one in settings_changes.every(session, ZENITH, most=9)] == [1], "an operator's is not theirs"
        assert [one.id for one in settings_changes.running(session, OPERATOR)] == [1, 2]
        assert log_pulls.overdue(session, ACME, now=LATER) == []
        assert log_pulls.find(session, ACME, PULL) is None
        assert not site_commands.is_any_late(session, ACME, now=LATER)
        assert site_commands.is_any_late(session, ZENITH, now=LATER)


def test_a_router_hands_over_its_own_only(filled: Database) -> None:
    for act in (piece, answer):
        with pytest.raises(InputError), filled.write() as session:
            act(session, OPERATOR, "tokyo-1")


def test_commands_are_for_operators_unless_permitted(populated: Database) -> None:
    with populated.write() as session:
        with pytest.raises(RefusedError, match="operators-only"):
            command(session, ACME, "tokyo-1")
        with pytest.raises(RefusedError, match="operators-only"):
            command(session, ACME, "tokyo-1", name="reboot", tenants_may=frozenset({"ping"}))
        assert command(session, ACME, "tokyo-1", tenants_may=frozenset({"ping"})).name == "ping"
        with pytest.raises(InputError, match="no-reason"):
            command(session, OPERATOR, "tokyo-1", reason="  ", command_id="5" * 32)


def test_drafts_gather_conflict_and_end(populated: Database) -> None:
    with populated.write() as session:
        settings.change(session, OPERATOR, site_id="tokyo-1", changes={"a": 1, "b": 1}, author="bob", now=NOW)
        draft(session, OPERATOR, "tokyo-1", a=2)
        draft(session, OPERATOR, "tokyo-1", b=None, c=3)
        settings.change(session, OPERATOR, site_id="tokyo-1", changes={"d": 4}, author="bob", now=NOW)
        kept = settings_drafts.get(session, OPERATOR, "tokyo-1")
        assert settings_drafts.moved(kept, settings.wanted(session, OPERATOR, "tokyo-1")) == ()
        settings.change(session, OPERATOR, site_id="tokyo-1", changes={"a": 9}, author="bob", now=NOW)
        with pytest.raises(InputError, match="draft-moved") as caught:
            settings_drafts.apply(session, OPERATOR, site_id="tokyo-1", author="ann", overwrite=False, now=NOW)
        assert caught.value.params["names"] == "a"
        stated = settings_drafts.apply(session, OPERATOR, site_id="tokyo-1", author="ann", overwrite=True, now=NOW)
        assert stated is not None and stated.values == {"a": 2, "c": 3, "d": 4}
        with pytest.raises(InputError, match="no-draft"):
            settings_drafts.get(session, OPERATOR, "tokyo-1")
        draft(session, OPERATOR, "tokyo-1", a=2)
        same = settings_drafts.apply(session, OPERATOR, site_id="tokyo-1", author="ann", overwrite=False, now=NOW)
        assert same is None and settings_drafts.find(session, OPERATOR, "tokyo-1") is None


def test_a_version_is_withdrawn_only_while_nobody_has_taken_it_up(populated: Database) -> None:
    with populated.write() as session:
        for version, applied in ((1, False), (2, True)):
            settings.add_version(session, OPERATOR, site_id="tokyo-1", values={"a": version}, author="ann", now=NOW)
            if applied:
                settings.mark_applied(session, OPERATOR, site_id="tokyo-1", version=version)
            taken = settings.withdraw(session, OPERATOR, site_id="tokyo-1", version=version, problem={"key": "x"})
            assert taken is not applied
        assert settings.wanted(session, OPERATOR, "tokyo-1") == {"a": 2}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"units": ("weather",)}, "logs.unknown-unit"),
        ({"since": LATER, "until": NOW}, "logs.empty-range"),
        ({"since": NOW, "until": NOW}, "logs.empty-range"),
        ({"lines": -1}, "logs.bad-lines"),
    ],
)
def test_a_pull_that_makes_no_sense_is_refused(populated: Database, more: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught, populated.write() as session:
        pull(session, OPERATOR, "tokyo-1", **more)
    assert caught.value.key == key


def test_who_asked_and_what_came_of_it_is_audited_and_secrets_are_not(filled: Database) -> None:
    with filled.write("router osaka-1") as session:
        answer(session, OPERATOR, "osaka-1")
        piece(session, OPERATOR, "osaka-1")
        draft(session, OPERATOR, "osaka-1", mobile__pin="8642")
        settings_changes.site_rows(session, OPERATOR, 1)[0].state = SiteState.APPLIED.value
    with filled.read() as session:
        entries = audit.latest(session, OPERATOR, most=99)
    kinds = {entry.kind for entry in entries}
    assert {"site_commands", "log_pulls", "settings_drafts", "settings_changes"} <= kinds
    assert not kinds & {"log_pieces", "log_uploads", "crash_reports", "settings_change_sites"}
    told = "".join(f"{entry.before}{entry.after}" for entry in entries)
    assert "8642" not in told and "1234" not in told and "secret words" not in told
    assert {entry.tenant_id for entry in entries if entry.kind in ("site_commands", "log_pulls")} == {"zenith"}
