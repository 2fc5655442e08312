"""The queue: each operation whole or not at all, each recipient in one state."""

import asyncio
import sqlite3
import threading

import pytest

from cloudside.errors import ConfigurationError, InputError, UnavailableError
from cloudside.mail.model import TRANSITIONS, Kind, NewMessage, State
from cloudside.mail.store import view
from cloudside.mail.store.queue import FILE_NAME, Queue
from cloudside.mail.store.sqlite import StorageFullError, Writer

NOW = 1_800_000_000.0


def message(number=1, *, recipients=("a@x.test",), origin="tokyo-1", kind=Kind.MAIL, once=None, at=NOW):
    content = b"Subject: s\r\nFrom: <p@site.test>\r\n\r\nbody\r\n"
    return NewMessage(number, kind, origin, "10.0.0.1", "p@site.test", recipients, f"s{number}", content, at, once=once)


@pytest.fixture
def queue(tmp_path):
    queue = Queue(tmp_path, reserve_bytes=0)
    yield queue
    queue.close()


async def test_accepted_mail_is_claimed_once_with_its_content(queue):
    await queue.accept(message(recipients=("a@x.test", "b@x.test")))
    first = await queue.claim(NOW, 10)
    assert [(one.recipient, one.index) for one in first] == [("a@x.test", 0), ("b@x.test", 1)]
    assert first[0].content.endswith(b"body\r\n")
    assert await queue.claim(NOW, 10) == []


async def test_notices_go_first(queue):
    await queue.accept(message(1))
    await queue.accept(message(2, kind=Kind.NOTICE, origin="", at=NOW + 1))
    assert [one.original.kind for one in await queue.claim(NOW + 2, 1)] == [Kind.NOTICE]


async def test_what_was_being_sent_is_queued_again_after_a_restart(queue, tmp_path):
    await queue.accept(message())
    await queue.claim(NOW, 1)
    queue.close()
    again = Queue(tmp_path, reserve_bytes=0)
    assert await again.recover(NOW + 5) == 1
    assert len(await again.claim(NOW + 5, 1)) == 1
    again.close()


async def test_postponed_mail_waits_and_only_its_own_failures_count(queue):
    await queue.accept(message())
    (attempt,) = await queue.claim(NOW, 1)
    await queue.postpone(attempt, NOW, until=NOW + 10, reply="451", counted=True)
    assert await queue.next_due() == NOW + 10
    assert await queue.claim(NOW + 9, 1) == []
    (attempt,) = await queue.claim(NOW + 10, 1)
    assert attempt.attempts == 1
    await queue.postpone(attempt, NOW, until=NOW, reply="454", counted=False)
    assert (await queue.claim(NOW, 1))[0].attempts == 1


async def test_the_same_failure_twice_queues_one_report(queue, tmp_path):
    await queue.accept(message())
    (attempt,) = await queue.claim(NOW, 1)
    await queue.delivered(attempt, NOW, "250")
    report = message(2, kind=Kind.DSN, origin="")
    assert await queue.fail(1, 0, State.BOUNCED, NOW, "5.1.1", report)
    assert not await queue.fail(1, 0, State.BOUNCED, NOW, "5.1.1", message(3, kind=Kind.DSN, origin=""))
    assert view.counts(tmp_path) == {"bounced": 1, "queued": 1}


async def test_a_report_that_cannot_be_queued_leaves_the_failure_unrecorded(queue, tmp_path):
    await queue.accept(message())
    (attempt,) = await queue.claim(NOW, 1)
    await queue.delivered(attempt, NOW, "250")
    with pytest.raises(sqlite3.IntegrityError):
        await queue.fail(1, 0, State.BOUNCED, NOW, "5.1.1", message(1))  # the id is taken
    assert view.counts(tmp_path) == {"delivered": 1}


async def test_finished_states_stay(queue, tmp_path):
    await queue.accept(message())
    (attempt,) = await queue.claim(NOW, 1)
    await queue.fail(1, 0, State.EXPIRED, NOW, "4.4.7", None)
    await queue.delivered(attempt, NOW, "250")
    assert view.counts(tmp_path) == {"expired": 1}


def test_every_state_can_be_reached_and_left_as_the_table_says():
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State)


async def test_once_is_once(queue):
    assert (await queue.accept(message(1, once="incident/1"))).taken
    assert not (await queue.accept(message(2, once="incident/1"))).taken


async def test_recipients_are_counted_by_origin_and_hour_over_restarts(queue, tmp_path):
    assert (await queue.accept(message(1, recipients=("a@x.test", "b@x.test")))).hour_count == 2
    await queue.accept(message(2, origin="osaka-1"))
    queue.close()
    again = Queue(tmp_path, reserve_bytes=0)
    assert (await again.accept(message(3))).hour_count == 3
    assert (await again.accept(message(4, at=NOW + 3600))).hour_count == 1
    assert await again.counts(int(NOW // 3600)) == {"tokyo-1": 3, "osaka-1": 1}
    again.close()


async def test_traffic_names_the_most_frequent(queue):
    for number in range(5):
        await queue.accept(message(number + 1, recipients=("a@x.test",) if number else ("b@x.test",), at=NOW + number))
    traffic = await queue.traffic("tokyo-1", NOW)
    assert traffic.recipients == (("a@x.test", 4), ("b@x.test", 1))
    assert traffic.sources == (("10.0.0.1", 5),)
    assert traffic.subjects == ("s5", "s4", "s3")


async def test_content_leaves_when_finished_and_headers_stay_until_the_purge(queue, tmp_path):
    await queue.accept(message())
    (attempt,) = await queue.claim(NOW, 1)
    await queue.delivered(attempt, NOW, "250")
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        assert connection.execute("SELECT content FROM messages").fetchone() == (None,)
    connection.close()
    found = await queue.original(1, 0)
    assert found is not None and b"Subject: s\r\n" in found[0].head
    await queue.accept(message(2))
    assert await queue.purge(NOW + 1) == 1
    assert await queue.original(1, 0) is None and await queue.original(2, 0) is not None


async def test_no_room_is_said_before_anything_is_written(tmp_path):
    queue = Queue(tmp_path, reserve_bytes=2**60)
    with pytest.raises(StorageFullError):
        queue.require_space(1)
    queue.close()


async def test_one_failing_job_does_not_spoil_its_group(tmp_path):
    writer = Writer(tmp_path / "q.sqlite", "CREATE TABLE t (n INTEGER PRIMARY KEY);")

    def insert(number):
        return lambda connection: connection.execute("INSERT INTO t VALUES (?)", (number,)).rowcount

    futures = [asyncio.wrap_future(writer.submit(insert(number))) for number in (1, 2, 2, 3)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [int, int, sqlite3.IntegrityError, int]
    writer.close()


def test_a_caller_that_goes_away_does_not_end_the_writer(tmp_path):
    writer = Writer(tmp_path / "q.sqlite", "CREATE TABLE t (n INTEGER PRIMARY KEY);")
    began, go_on = threading.Event(), threading.Event()

    def slow(connection):
        began.set()
        go_on.wait(5)
        return connection.execute("INSERT INTO t VALUES (1)").rowcount

    running = writer.submit(slow)
    assert began.wait(5)
    waiting = writer.submit(lambda connection: connection.execute("INSERT INTO t VALUES (2)").rowcount)
    assert not running.cancel() and waiting.cancel()
    go_on.set()
    count = writer.submit(lambda connection: connection.execute("SELECT group_concat(n) FROM t").fetchone()[0])
    assert count.result(5) == "1" and running.result(5) == 1
    writer.close()


def test_a_damaged_queue_is_named(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError) as error:
        Queue(tmp_path)
    assert error.value.key == "mail.queue-unusable"


def test_looking_where_there_is_no_queue(tmp_path):
    with pytest.raises(UnavailableError) as error:
        view.waiting(tmp_path)
    assert error.value.key == "mail.no-queue"


async def test_trace_finds_by_id_address_and_site(queue, tmp_path):
    await queue.accept(message(255))
    for what in ("00000000000000ff", "a@x.test", "p@site.test", "tokyo-1"):
        assert [story.entries[0].message for story in view.trace(tmp_path, what)] == ["00000000000000ff"]
    with pytest.raises(InputError):
        view.trace(tmp_path, "nobody@x.test")


def test_a_second_relay_on_the_same_queue_does_not_start(tmp_path):
    first = Queue(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        Queue(tmp_path)
    assert refused.value.key == "mail.queue-in-use"
    first.close()
    Queue(tmp_path).close()


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


async def test_a_disk_that_fails_at_the_worst_moment_does_not_end_the_writer(queue):
    queue._writer._connection = _Sick(queue._writer._connection)
    for number in (1, 2):  # the second finds the first one's transaction open, and ends it
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(queue.accept(message(number)), 5)
    await asyncio.wait_for(queue.accept(message(3)), 5)
    assert [attempt.original.id for attempt in await queue.claim(NOW, 5)] == [3]
