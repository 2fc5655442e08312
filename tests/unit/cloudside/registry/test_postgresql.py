"""What a server of its own brings: it restarts, it is away, several machines are on it; and what it refuses itself."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from registry_engines import PostgresqlEngine

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.registry import audit, chain, reports, settings, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell
from lab.postgresql import PostgresqlServer, postgresql_server

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@pytest.fixture
def shared(server: PostgresqlServer, populated_postgresql: str) -> Iterator[str]:
    """The URL of a populated registry on the server that all tests use."""
    engine = PostgresqlEngine(server, f"shared{uuid4().hex}_")
    url = engine.new(populated_postgresql)
    yield url
    engine.drop(url)


@pytest.fixture(scope="session")
def restarting() -> Iterator[PostgresqlServer]:
    """A server that may be stopped and started."""
    with postgresql_server() as running:
        yield running


@pytest.fixture
def frail(restarting: PostgresqlServer) -> Iterator[Database]:
    """An empty registry on it."""
    engine = PostgresqlEngine(restarting, f"frail{uuid4().hex}_")
    url = engine.new()
    with closing(Database(url, lock_wait_s=5)) as database:
        database.migrate()
        with database.write() as session:
            tenants.add(
                session, OPERATOR, tenant_id="acme", overlay=ip_network("10.0.0.0/8"), block="10.10.0.0/16", now=NOW
            )
        yield database
    engine.drop(url)


def _add(database: Database, site: str) -> None:
    with database.write() as session:
        sites.add(session, OPERATOR, site_id=site, tenant_id="acme", now=NOW)


def _names(database: Database) -> list[str]:
    with database.read() as session:
        return [site.id for site in sites.every(session, OPERATOR)]


def _heartbeat(database: Database, site: str) -> None:
    source = ip_address("10.10.0.1")
    with database.record("web") as session:
        reports.record_heartbeat(session, OPERATOR, site_id=site, received_at=NOW, source=source, report={})


def test_restart_in_the_middle_of_a_change_leaves_nothing_half_done(
    frail: Database, restarting: PostgresqlServer
) -> None:
    _add(frail, "tokyo-1")
    with pytest.raises(UnavailableError) as caught, frail.write() as session:
        sites.add(session, OPERATOR, site_id="osaka-1", tenant_id="acme", now=NOW)
        restarting.stop()
        restarting.start()
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
    assert caught.value.key == "registry.server-unavailable"
    assert _names(frail) == ["tokyo-1"]  # the next session works, at once
    _add(frail, "osaka-1")
    with frail.read() as session:
        assert chain.verify(audit.entries(session, OPERATOR)).key is None


def test_restart_between_two_sessions_is_not_noticed(frail: Database, restarting: PostgresqlServer) -> None:
    _add(frail, "tokyo-1")
    assert _names(frail) == ["tokyo-1"]
    restarting.stop()
    restarting.start()
    _add(frail, "osaka-1")
    _heartbeat(frail, "osaka-1")
    assert _names(frail) == ["osaka-1", "tokyo-1"]


def test_server_that_is_away_is_told_in_our_words(frail: Database, restarting: PostgresqlServer) -> None:
    restarting.stop()
    try:
        for way in (frail.read, frail.write, frail.record):
            with pytest.raises(UnavailableError) as caught, way() as session:
                tenants.every(session, OPERATOR)
            assert caught.value.key == "registry.server-unavailable"
            assert "\n" not in str(caught.value.params["reason"])
        with pytest.raises(UnavailableError):
            frail.require_current()
        with pytest.raises(UnavailableError):
            frail.migrate()
    finally:
        restarting.start()
    frail.require_current()


def _rings_within(bell: socket.socket, seconds: float) -> bool:
    ready, _, _ = select.select([bell], [], [], seconds)
    return bool(ready)


def _drain(bell: socket.socket) -> None:
    bell.setblocking(False)
    try:
        while bell.recv(64):
            pass
    except BlockingIOError:
        pass


def test_ring_is_heard_on_another_machine_and_by_its_own_kind_only(shared: str, tmp_path: Path) -> None:
    with closing(Database(shared)) as here, closing(Database(shared)) as there:
        with Doorbell(tmp_path / "there", "gateway", there).listen() as bell:
            assert _rings_within(bell, 10)  # it listens now; what was before, nobody knows
            _drain(bell)
            Doorbell(tmp_path / "here", "worker", here).ring()
            assert not _rings_within(bell, 0.5)
            began = time.monotonic()
            Doorbell(tmp_path / "here", "gateway", here).ring()
            assert _rings_within(bell, 10)
            assert time.monotonic() - began < 1
        assert not [thread for thread in threading.enumerate() if thread.name == "doorbell"]


def test_listener_survives_a_restart_and_rings_after_it(
    frail: Database, restarting: PostgresqlServer, tmp_path: Path
) -> None:
    with Doorbell(tmp_path / "there", "gateway", frail).listen() as bell:
        assert _rings_within(bell, 10)
        _drain(bell)
        restarting.stop()
        Doorbell(tmp_path / "here", "gateway", frail).ring()  # nobody hears it, and nobody minds
        restarting.start()
        assert _rings_within(bell, 10)  # something may have been missed
        time.sleep(0.1)
        _drain(bell)
        Doorbell(tmp_path / "here", "gateway", frail).ring()
        assert _rings_within(bell, 10)


def test_doorbell_on_sqlite_has_no_thread(registry_path: Path, tmp_path: Path) -> None:
    with (
        closing(Database(f"sqlite:///{registry_path}")) as database,
        Doorbell(tmp_path, "gateway", database).listen() as bell,
    ):
        assert not [thread for thread in threading.enumerate() if thread.name == "doorbell"]
        Doorbell(tmp_path, "gateway", database).ring()
        assert _rings_within(bell, 5)


def test_writers_wait_for_one_another_and_recorders_for_none(shared: str) -> None:
    with closing(Database(shared, lock_wait_s=0.3)) as database:
        with database.write():
            began = time.monotonic()
            with pytest.raises(UnavailableError) as caught, database.write():
                pytest.fail("wrote beside another writer")
            assert 0.2 < time.monotonic() - began < 3
            assert "lock timeout" in str(caught.value.params["reason"])
            for site in ("tokyo-1", "osaka-1"):
                _heartbeat(database, site)
            assert _names(database) == ["osaka-1", "tokyo-1"]
        with database.read() as session:
            assert len(reports.heartbeats(session, OPERATOR)) == 2


def test_recorder_waits_when_what_it_writes_is_audited(shared: str) -> None:
    with (
        closing(Database(shared, lock_wait_s=0.3)) as database,
        database.write(),
        pytest.raises(UnavailableError),
        database.record() as session,
    ):
        settings.add_version(session, OPERATOR, site_id="tokyo-1", values={}, author="a", now=NOW)


def test_database_itself_refuses_prefixes_that_overlap(shared: str, server: PostgresqlServer) -> None:
    engine = PostgresqlEngine(server, "unused")
    with pytest.raises(psycopg.errors.ExclusionViolation):
        engine.execute(shared, "UPDATE sites SET overlay = '10.10.0.128/25' WHERE id = 'osaka-1'")
    with pytest.raises(psycopg.errors.ExclusionViolation):
        engine.execute(shared, "INSERT INTO tenants VALUES ('new', '10.0.0.0/8', now())")
    engine.execute(shared, "INSERT INTO tenants VALUES ('new', '10.30.0.0/16', now())")


def test_tables_that_are_not_ours_to_read_are_told_in_our_words(shared: str, server: PostgresqlServer) -> None:
    engine = PostgresqlEngine(server, "unused")
    engine.execute(shared, "ALTER TABLE tenants RENAME TO away")
    with closing(Database(shared)) as database, pytest.raises(UnavailableError), database.read() as session:
        tenants.every(session, OPERATOR)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("postgresql://kyoten:hunter2@db/kyoten", "registry.password-in-url"),
        ("postgresql://kyoten@db/kyoten?password=hunter2", "registry.password-in-url"),
        ("mysql://kyoten@db/kyoten", "registry.bad-url"),
        ("hunter2", "registry.bad-url"),
    ],
)
def test_wrong_urls_are_refused_without_repeating_them(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert caught.value.key == key
    assert "hunter2" not in repr(caught.value)
