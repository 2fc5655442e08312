"""A queue of the version before is brought to this one in place, with nothing lost."""

import sqlite3
from contextlib import closing

import pytest
from queue_places import NOW, message

from cloudside.errors import ConfigurationError
from cloudside.mail.model import Kind, Scope, Selection
from cloudside.mail.store import schema, upgrading
from cloudside.mail.store.journal.records import payload_of
from cloudside.mail.store.queue import FILE_NAME, Queue, hour_of

#: As it was before queues had versions.
OLD = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, origin TEXT NOT NULL, source TEXT NOT NULL, sender TEXT NOT NULL,
    subject TEXT NOT NULL, automatic INTEGER NOT NULL, accepted_at REAL NOT NULL, size INTEGER NOT NULL,
    once TEXT UNIQUE, head BLOB NOT NULL, content BLOB);
CREATE INDEX IF NOT EXISTS messages_by_origin ON messages (origin, accepted_at);
CREATE INDEX IF NOT EXISTS messages_by_time ON messages (accepted_at);
CREATE TABLE IF NOT EXISTS recipients (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    address TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL NOT NULL,
    reply TEXT NOT NULL DEFAULT '', changed_at REAL NOT NULL, PRIMARY KEY (message, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS recipients_due ON recipients (next_attempt) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS recipients_sending ON recipients (message) WHERE state = 'sending';
CREATE TABLE IF NOT EXISTS events (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    at REAL NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_message ON events (message, at);
CREATE TABLE IF NOT EXISTS counts (
    origin TEXT NOT NULL, hour INTEGER NOT NULL, sent INTEGER NOT NULL, PRIMARY KEY (origin, hour)) WITHOUT ROWID;
"""
HEAD = b"Subject: s\r\nFrom: <p@site.test>\r\n"
WHOLE = HEAD + b"\r\nbody\r\n"
LONG = b"X: y\r\n" * 10_000
BIG = b"big" + b"b" * 90_000
M = 3**39  # a large id
ROWS = (
    ("messages", (M, "mail", "tokyo-1", "10.0.0.1", "p@site.test", "s", 0, NOW, 300, None, HEAD, WHOLE)),
    ("messages", (7, "mail", "osaka-1", "10.0.0.2", "q@site.test", "t", 1, NOW - 9, 70_000, None, LONG[:32768],
                  LONG + b"\r\n" + BIG)),
    ("messages", (8, "notice", "", "", "", "n", 1, NOW, 100, "incident/1", HEAD, HEAD + b"\r\nn")),
    ("messages", (9, "mail", "tokyo-1", "10.0.0.1", "p@site.test", "u", 0, NOW - 5, 300, None, HEAD, None)),
    ("recipients", (M, 0, "a@x.test", "queued", 2, NOW + 60, "451 later", NOW + 1)),
    ("recipients", (M, 1, "b@x.test", "delivered", 0, NOW, "250 OK", NOW + 2)),
    ("recipients", (7, 0, "c@x.test", "sending", 0, NOW, "", NOW)),
    ("recipients", (8, 0, "ops@x.test", "queued", 0, NOW, "", NOW)),
    ("recipients", (9, 0, "d@x.test", "bounced", 0, NOW, "550 no", NOW + 3)),
    ("events", (M, 0, NOW + 1, "postponed", "451 later")),
    ("events", (M, 1, NOW + 2, "delivered", "250 OK")),
    ("events", (9, 0, NOW + 2, "delivered", "250 OK")),
    ("events", (9, 0, NOW + 3, "bounced", "550 no")),
    ("counts", ("tokyo-1", hour_of(NOW), 3)),
)  # fmt: skip


@pytest.fixture
def old(tmp_path):
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(OLD)
        for table, row in ROWS:
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        connection.commit()
    return path


def dump(path):
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


async def test_nothing_is_lost(old, tmp_path):
    queue = Queue(tmp_path, reserve_bytes=0)
    assert await queue.states() == {"queued": 2, "delivered": 1, "sending": 1, "bounced": 1}
    assert await queue.recover(NOW) == 1
    notice, big, mail = await queue.claim(NOW + 60, 10)
    assert (notice.original.kind, notice.head, notice.body) == (Kind.NOTICE, HEAD, b"n")
    assert (big.head, big.body, big.original.automatic) == (LONG, BIG, True)
    assert (mail.original.id, mail.index, mail.attempts, mail.body) == (M, 0, 2, b"body\r\n")
    assert (mail.original.origin, mail.original.tenant, mail.original.sender) == ("tokyo-1", "", "p@site.test")
    assert await queue.counts(Scope.SITE, hour_of(NOW), hour_of(NOW) + 1) == {"tokyo-1": 3}
    (story,) = await queue.stories(Selection(ids=(M,)), 1)
    assert [(one.recipient, one.event) for one in story.happenings] == [
        *(("a@x.test", "accepted"), ("b@x.test", "accepted")),
        *(("a@x.test", "postponed"), ("b@x.test", "delivered")),
    ]
    (story,) = await queue.stories(Selection(ids=(9,)), 1)
    assert [one.event for one in story.happenings] == ["accepted", "delivered", "bounced"]
    found = await queue.original(9, 0)
    assert found is not None and found[0].head == HEAD
    queue.close()


def test_it_is_done_once(old, tmp_path):
    Queue(tmp_path).close()
    first = dump(old)
    Queue(tmp_path).close()
    assert dump(old) == first
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name LIKE 'old_%'").fetchall()


def test_an_upgraded_queue_has_the_same_tables_as_a_new_one(old, tmp_path):
    Queue(tmp_path).close()
    Queue(tmp_path / "new").close()
    shapes = []
    for path in (old, tmp_path / "new" / FILE_NAME):
        with closing(sqlite3.connect(path)) as connection:
            shapes.append(sorted(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")))
    assert shapes[0] == shapes[1]


async def test_a_queue_of_the_version_before_keeps_its_mail(tmp_path):
    queue = Queue(tmp_path, reserve_bytes=0)
    await queue.accept(message())
    queue.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript("DROP TABLE journals; DROP INDEX recipients_held; PRAGMA user_version = 1")
    queue = Queue(tmp_path, reserve_bytes=0)
    assert await queue.states() == {"queued": 1}
    assert await queue.take_over("x", [(1, payload_of(message(2)))])
    queue.close()


@pytest.mark.parametrize("breaking", [sqlite3.OperationalError("database or disk is full"), KeyboardInterrupt()])
def test_an_upgrade_that_is_cut_off_leaves_the_old_queue(old, tmp_path, monkeypatch, breaking):
    before = dump(old)

    def cut(_content):
        raise breaking

    monkeypatch.setattr(upgrading, "split", cut)
    with pytest.raises((ConfigurationError, KeyboardInterrupt)):
        Queue(tmp_path)
    assert dump(old) == before
    monkeypatch.undo()
    Queue(tmp_path).close()


def test_the_queue_of_a_newer_version_is_left_alone(tmp_path):
    Queue(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(ConfigurationError) as error:
        Queue(tmp_path)
    assert error.value.key == "mail.queue-newer"
