"""The embedded engine: groups, sick disks, locks."""

import asyncio
import sqlite3
import threading

import pytest
from queue_places import NOW, message

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.store import sqlite
from cloudside.mail.store.engine import Haste
from cloudside.mail.store.queue import FILE_NAME, Queue
from cloudside.mail.store.sqlite import SqliteEngine

#: What PRAGMA synchronous says.
NORMAL, FULL = 1, 2


@pytest.fixture
def engine(tmp_path):
    engine = SqliteEngine(tmp_path / "q.sqlite", _prepare)
    yield engine
    engine.close()


def _prepare(connection):
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")


def insert(number):
    return lambda session: session.execute("INSERT INTO t VALUES (?)", (number,)).rowcount


async def test_one_failing_job_does_not_spoil_its_group(engine):
    futures = [asyncio.wrap_future(engine.submit(insert(number))) for number in (1, 2, 2, 3)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [int, int, UnavailableError, int]


def test_a_caller_that_goes_away_does_not_end_the_writer(engine):
    began, go_on = threading.Event(), threading.Event()

    def slow(session):
        began.set()
        go_on.wait(5)
        return session.execute("INSERT INTO t VALUES (1)").rowcount

    running = engine.submit(slow)
    assert began.wait(5)
    waiting = engine.submit(insert(2))
    assert not running.cancel() and waiting.cancel()
    go_on.set()
    count = engine.submit(lambda session: session.execute("SELECT group_concat(n) FROM t").fetchone()[0])
    assert count.result(5) == "1" and running.result(5) == 1


def test_a_reader_sees_what_was_committed_and_cannot_write(engine):
    engine.submit(insert(1)).result(5)
    assert engine.read(lambda session: session.execute("SELECT n FROM t").fetchall()).result(5) == [(1,)]
    with pytest.raises(UnavailableError):
        engine.read(insert(2)).result(5)


def test_a_long_look_does_not_keep_mail_waiting(engine):
    looking, go_on = threading.Event(), threading.Event()

    def long_look(session):
        before = session.execute("SELECT count(*) FROM t").fetchone()[0]
        looking.set()
        go_on.wait(5)
        return before, session.execute("SELECT count(*) FROM t").fetchone()[0]

    look = engine.read(long_look)
    assert looking.wait(5)
    assert engine.submit(insert(1)).result(5) == 1
    go_on.set()
    assert look.result(5) == (0, 0)  # one moment, not two


def test_every_commit_is_synced(engine):
    def settings(session):
        return [session.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert engine.submit(lambda session: settings(session)).result(5) == ["wal", 2]


def test_a_damaged_queue_is_named(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError) as error:
        Queue(tmp_path)
    assert error.value.key == "mail.queue-unusable"


def test_a_second_relay_on_the_same_queue_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "LOCK_WAIT_S", 0.1)
    first = Queue(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        Queue(tmp_path)
    assert refused.value.key == "mail.queue-in-use"
    first.close()
    Queue(tmp_path).close()


def test_a_relay_waits_for_whoever_has_the_queue_for_a_moment(tmp_path):
    first = Queue(tmp_path)
    timer = threading.Timer(0.2, first.close)
    timer.start()
    Queue(tmp_path).close()
    timer.join()


class _Sick:
    """A connection to a disk that fails: COMMIT and the first ROLLBACK after it raise."""

    def __init__(self, real):
        self._real = real
        self.failing = {"COMMIT", "ROLLBACK"}

    def __getattr__(self, name):
        return getattr(self._real, name)

    def execute(self, statement, *parameters):
        if statement in self.failing:
            self.failing.discard(statement)
            raise sqlite3.OperationalError("disk I/O error")
        return self._real.execute(statement, *parameters)


async def test_a_disk_that_fails_at_the_worst_moment_does_not_end_the_writer(tmp_path):
    queue = Queue(tmp_path, reserve_bytes=0)
    queue._engine._connection = _Sick(queue._engine._connection)
    for number in (1, 2):  # the second finds the first one's transaction open, and ends it
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(queue.accept(message(number)), 5)
    await asyncio.wait_for(queue.accept(message(3)), 5)
    assert [attempt.original.id for attempt in await queue.claim(NOW, 5)] == [3]
    queue.close()


def _synchronous(session):
    return session.execute("PRAGMA synchronous").fetchone()[0]


def test_a_job_that_shares_waits_for_another_commit_but_not_long(engine, monkeypatch):
    monkeypatch.setattr(sqlite, "SHARED_S", 30.0)
    patient = engine.submit(insert(1), haste=Haste.SHARED)
    with pytest.raises(TimeoutError):
        patient.result(0.05)
    assert engine.submit(insert(2)).result(5) == 1
    assert patient.result(5) == 1
    monkeypatch.setattr(sqlite, "SHARED_S", 0.05)
    assert engine.submit(insert(3), haste=Haste.SHARED).result(5) == 1


def test_a_job_that_shares_is_committed_when_the_engine_closes(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "SHARED_S", 30.0)
    engine = SqliteEngine(tmp_path / "q.sqlite", _prepare)
    patient = engine.submit(insert(1), haste=Haste.SHARED)
    engine.close()
    assert patient.result(0) == 1


def test_only_a_group_that_asked_for_it_is_not_synced(engine):
    assert engine.submit(_synchronous).result(5) == FULL
    assert engine.submit(_synchronous, haste=Haste.UNSYNCED).result(5) == NORMAL
    assert engine.submit(_synchronous, haste=Haste.SHARED).result(5) == FULL
    assert engine.submit(_synchronous, haste=Haste.UNSYNCED).result(5) == NORMAL
    assert engine.submit(_synchronous).result(5) == FULL
