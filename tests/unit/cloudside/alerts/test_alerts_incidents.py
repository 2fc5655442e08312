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


def test_unnotified_are_the_open_ones_nobody_was_told_of(database):
    with database.write() as session:
        for subject in ("told", "closed", "new"):
            incidents.open_incident(session, "k", subject, {}, NOW)
        session.flush()
        incidents.mark_notified(session, incidents.open_incidents(session)[0].id, NOW)
        incidents.close_incident(session, "k", "closed", NOW)
    with database.read() as session:
        assert [one.subject for one in incidents.unnotified(session)] == ["new"]


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


KINDS = ("mail-flood", "smarthost-quota", "smarthost-refused", "smarthost-unreachable", "site-silent", "chore-failed")
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
}


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_notice_that_names_its_subject_and_a_command(kind, language):
    notice = notices.write(kind, "tokyo-1", PARAMS, NOW, language=language)
    assert "tokyo-1" in notice.subject and "kyoten" in notice.body and "{" not in notice.body
    assert not notice.subject.startswith("alerts.")


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
