"""Incidents are opened once, silent sites are found, chores that fail are told and forgotten."""

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from sqlalchemy import select

from cloudside.alerts import incidents, notices, silent, worker
from cloudside.alerts.silent import Intervals, Sign
from cloudside.config import Config
from cloudside.errors import UnavailableError
from cloudside.registry.database import Database
from cloudside.registry.tables import Heartbeat, Incident, Site, Tenant

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
INTERVALS = Intervals(wired_s=30, mobile_s=120, allowed=4)


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    database.migrate()
    with database.write() as session:
        session.add(Tenant(id="acme", block=ip_network("10.1.0.0/16"), created_at=NOW))
        session.flush()
        for number, (site, kind) in enumerate({"tokyo-1": "wired", "osaka-1": "mobile"}.items()):
            prefix = ip_network(f"10.1.{number}.0/24")
            session.add(Site(id=site, tenant_id="acme", overlay=prefix, lan=prefix, phase="operation", created_at=NOW))
            session.flush()
            report = {"uplink": {"kind": kind}}
            session.add(Heartbeat(site_id=site, received_at=NOW, source=ip_address("10.1.0.1"), report=report))
    yield database
    database.close()


def all_incidents(database):
    with database.read() as session:
        return list(session.scalars(select(Incident).order_by(Incident.id)))


def test_raising_twice_is_one_incident_and_after_closing_a_new_one(database):
    with database.write() as session:
        assert incidents.open_incident(session, "k", "s", {"n": 1}, NOW)
        assert not incidents.open_incident(session, "k", "s", {"n": 2}, NOW)
        assert incidents.open_incident(session, "k", "other", {}, NOW)
    with database.write() as session:
        assert incidents.close_incident(session, "k", "s", NOW)
        assert not incidents.close_incident(session, "k", "s", NOW)
        assert incidents.open_incident(session, "k", "s", {"n": 3}, NOW)
    assert [one.params for one in all_incidents(database) if one.subject == "s"] == [{"n": 1}, {"n": 3}]


def take(database, now, most=10):
    with database.write() as session:
        return incidents.take(session, now, for_s=30, most=most)


def tell(database, now):
    """What staff would be told now, as (subject, over)."""
    taken = take(database, now)
    with database.write() as session:
        for incident in taken:
            incidents.mark_notified(session, incident, now)
    return [(incident.subject, incident.closed_at is not None) for incident in taken]


def later(seconds):
    return NOW + timedelta(seconds=seconds)


def test_each_change_is_told_once(database):
    with database.write() as session:
        incidents.open_incident(session, "k", "s", {}, NOW)
    assert tell(database, NOW) == [("s", False)] and tell(database, later(60)) == []
    with database.write() as session:
        assert incidents.tell_again(session, "k", "s", {"count": 2}, later(3600))
        assert not incidents.tell_again(session, "k", "unknown", {}, later(3600))
    assert tell(database, later(3600)) == [("s", False)] and tell(database, later(3700)) == []
    with database.write() as session:
        incidents.close_incident(session, "k", "s", later(7200))
    assert tell(database, later(7200)) == [("s", True)] and tell(database, later(9999)) == []
    assert all_incidents(database)[0].params == {"count": 2}


def test_the_end_of_what_nobody_was_told_of_is_not_told(database):
    with database.write() as session:
        incidents.open_incident(session, "k", "s", {}, NOW)
        incidents.close_incident(session, "k", "s", NOW)
    assert tell(database, NOW) == []


def test_two_relays_do_not_both_tell_it_and_one_that_dies_leaves_it_due(database):
    with database.write() as session:
        for subject in ("a", "b"):
            incidents.open_incident(session, "k", subject, {}, NOW)
    assert [one.subject for one in take(database, NOW, most=1)] == ["a"]
    assert [one.subject for one in take(database, NOW)] == ["b"]
    assert take(database, later(29)) == []
    assert [one.subject for one in take(database, later(31))] == ["a", "b"]


def test_what_changes_while_it_is_told_is_told_afterwards(database):
    with database.write() as session:
        for subject in ("worse", "over"):
            incidents.open_incident(session, "k", subject, {}, NOW)
    taken = take(database, NOW)
    with database.write() as session:
        incidents.tell_again(session, "k", "worse", {"n": 2}, later(1))
        incidents.close_incident(session, "k", "over", later(1))
    with database.write() as session:
        for incident in taken:
            incidents.mark_notified(session, incident, later(2))
    assert tell(database, later(2)) == [("worse", False), ("over", True)]


def test_silent_is_older_than_the_allowed_intervals():
    signs = [Sign("a", NOW - timedelta(seconds=120), 30), Sign("b", NOW - timedelta(seconds=121), 30)]
    assert [sign.site for sign in silent.silent(signs, NOW, allowed=4)] == ["b"]


def test_a_mobile_site_may_be_quiet_longer(database):
    with database.write() as session:
        silent.check(session, INTERVALS, NOW + timedelta(seconds=200))
    assert [(one.kind, one.subject) for one in all_incidents(database)] == [("site-silent", "tokyo-1")]


def test_silence_is_told_once_and_ends_with_the_next_heartbeat(database):
    for seconds in (200, 210, 220):
        with database.write() as session:
            silent.check(session, INTERVALS, NOW + timedelta(seconds=seconds))
    with database.write() as session:
        session.get(Heartbeat, "tokyo-1").received_at = NOW + timedelta(seconds=225)
        silent.check(session, INTERVALS, NOW + timedelta(seconds=230))
    (incident,) = all_incidents(database)
    assert incident.closed_at == NOW + timedelta(seconds=230)


def test_revoked_and_retired_sites_are_not_missed(database):
    with database.write() as session:
        silent.check(session, INTERVALS, NOW + timedelta(seconds=1000))
        session.get(Site, "tokyo-1").revoked_at = NOW
        session.get(Site, "osaka-1").phase = "retired"
        session.flush()
        silent.check(session, INTERVALS, NOW + timedelta(seconds=1001))
    assert all(one.closed_at is not None for one in all_incidents(database))


KINDS = (
    "mail-flood", "mail-flood-day", "mail-near-limit", "mail-near-limit-day", "mail-unusual", "mail-new-domains",
    "mail-foreign-source", "mail-bounces", "mail-silent", "mail-silent-many", "mail-login-failures",
    "mail-unknown-source", "mail-parked", "mail-credential-abroad", "mail-old-tls", "smarthost-quota",
    "smarthost-refused", "smarthost-unreachable", "quota-near", "quota-reserve", "quota-unknown", "quota-disabled",
    "site-silent", "chore-failed", "alert-path-failed",
)  # fmt: skip
PARAMS = {
    "window": "w",
    "count": 61,
    "limit": 60,
    "recipients": "r",
    "sources": "s",
    "subjects": "t",
    "reply": "454",
    "waiting": "kyoten mail queue",
    "last": "l",
    "interval_s": 30,
    "reason": "x",
    "percent": 92,
    "expected": 1.5,
    "names": "n",
    "since": "today",
    "finished": 70,
    "longest_hours": 3.5,
    "watched": 100,
    "user": "plc",
    "sent": 46000,
    "reserve": 5000,
    "per_hour": 100,
    "forecast": "f",
    "per_key": "alerts.per-hour",
    "then_key": "alerts.then-hold",
    "span_key": "alerts.span-day",
    "basis_key": "alerts.silence-learnt",
    "commands": [["alerts.do-hold", "kyoten mail hold --site tokyo-1 --reason flood"]],
}
#: Those whose subject line is about many.
NAMELESS = ("mail-silent-many",)


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_notice_that_names_its_subject_and_a_command(kind, language):
    notice = notices.write(kind, "tokyo-1", PARAMS, NOW, language=language)
    assert kind in NAMELESS or "tokyo-1" in notice.subject + notice.body
    assert "kyoten" in notice.body and "{" not in notice.subject + notice.body
    assert "alerts." not in notice.subject + notice.body


def test_a_notice_has_its_commands_alone_on_their_lines():
    body = notices.write("mail-flood", "tokyo-1", PARAMS, NOW, language="en").body
    assert "    kyoten mail hold --site tokyo-1 --reason flood" in body.splitlines()
    assert "nothing is lost" in body


def test_stages_are_seen_in_the_subject():
    again = notices.write("mail-flood", "tokyo-1", PARAMS, NOW, language="en", stage=notices.Stage.AGAIN)
    ended = notices.write("mail-flood", "tokyo-1", PARAMS, NOW, language="en", stage=notices.Stage.ENDED)
    assert again.subject.startswith("Still: Mail flood") and ended.subject.startswith("Over: Mail flood")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_many_alarms_are_one_notice(language):
    notice = notices.digest([f"Silent site: s{number}" for number in range(500)], language=language)
    assert "500" in notice.subject and "s0" in notice.subject and "- Silent site: s29\n- ...\n" in notice.body
    assert "s30" not in notice.body


async def test_the_worker_runs_chores_and_tells_of_failing_ones_until_they_work(database, tmp_path):
    stop = asyncio.Event()
    calls = []

    def chore(now):
        calls.append(now)
        if len(calls) <= 3:
            raise UnavailableError("pki.somewhere", where="x")

    config = Config(state_directory=tmp_path)
    task = asyncio.create_task(worker.run(config, stop, chores=[worker.Chore("crl", 0.02, chore)]))
    async with asyncio.timeout(10):
        while not any(one.kind == "chore-failed" and one.closed_at for one in all_incidents(database)):
            await asyncio.sleep(0.02)
    stop.set()
    await task
    assert [one.subject for one in all_incidents(database) if one.kind == "chore-failed"] == ["crl"]
