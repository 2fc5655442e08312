"""Large bodies: on the disk before the message, gone after its last recipient, none lost and none left behind."""

import asyncio
import os
import stat
from pathlib import Path

import pytest
from queue_places import NOW, SqlitePlace, message

from cloudside.errors import UnavailableError
from cloudside.mail.model import Action, Kind, Limit, LimitExceededError, Scope, Selection, Spilled, State, shown_id
from cloudside.mail.store import bodies
from cloudside.mail.store.bodies import IN_DATABASE_MAX_BYTES

LARGE = b"x" * (IN_DATABASE_MAX_BYTES + 1)


def spilled(queue, content=LARGE, name="7f"):
    path = queue.incoming / name
    path.write_bytes(content)
    return Spilled(path, len(content))


def content_of(attempt):
    return attempt.body.read_bytes() if isinstance(attempt.body, Path) else attempt.body


def files(place):
    return sorted(path.name for path in place.directory.rglob("*") if path.parent.name in ("bodies", "incoming"))


async def settled(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("as_file", [False, True])
async def test_a_large_body_arrives_whole_and_leaves_nothing_behind(place, as_file):
    queue = place.open()
    body = spilled(queue) if as_file else LARGE
    new = message(5, body=body, recipients=("a@x.test", "b@x.test"))
    assert new.size == len(new.head) + 2 + len(LARGE)
    await queue.accept(new)
    if as_file:
        assert not body.path.exists() or place.name == "postgresql"
    queue.close()
    queue = place.open()
    first, second = await queue.claim(NOW, 2)
    assert content_of(first) == content_of(second) == LARGE and first.size == new.size
    assert isinstance(first.body, Path) is (place.name == "sqlite")
    await queue.delivered(first, NOW, "250")
    assert content_of(second) == LARGE
    await queue.fail(5, 1, State.BOUNCED, NOW, "550", (), permanent=True)
    await settled(lambda: files(place) == [])
    queue.close()


async def test_a_small_body_in_a_file_is_taken_as_well(queue):
    await queue.accept(message(5, body=spilled(queue, b"small\r\n")))
    (attempt,) = await queue.claim(NOW, 1)
    assert content_of(attempt) == b"small\r\n"


async def test_a_dropped_body_goes(queue, place):
    await queue.accept(message(5, body=LARGE, held="hold: test"))
    assert await queue.drop(Selection(), NOW, "") == 1
    await settled(lambda: files(place) == [])


@pytest.mark.parametrize("as_file", [False, True])
async def test_what_is_not_taken_leaves_no_file(queue, place, as_file):
    def body(name):
        return spilled(queue, name=name) if as_file else LARGE

    limits = (Limit(Scope.SITE, "tokyo-1", 0, None, Action.REFUSE),)
    with pytest.raises(LimitExceededError):
        await queue.accept(message(5, body=body("1"), limits=limits))
    await queue.accept(message(6, kind=Kind.NOTICE, once="one"))
    assert not (await queue.accept(message(7, body=body("2"), kind=Kind.NOTICE, once="one"))).taken
    await settled(lambda: files(place) == [])


async def test_a_body_whose_fate_is_unknown_stays(tmp_path):
    queue = SqlitePlace(tmp_path).open()
    await queue.accept(message(5))
    with pytest.raises(UnavailableError):
        await queue.accept(message(5, body=LARGE))  # stands for a commit that failed, nobody knows how
    assert files(SqlitePlace(tmp_path)) == [shown_id(5)]
    queue.close()


async def test_a_file_that_is_not_there_is_our_fault(queue):
    with pytest.raises(UnavailableError):
        await queue.accept(message(5, body=Spilled(queue.incoming / "none", 100)))
    assert await queue.states() == {}


async def test_orphans_go_at_the_start_and_needed_bodies_stay(tmp_path):
    place = SqlitePlace(tmp_path)
    queue = place.open()
    await queue.accept(message(5, body=LARGE))
    (tmp_path / "bodies" / shown_id(6)).write_bytes(b"a commit that never came")
    (tmp_path / "bodies" / "README").write_bytes(b"not ours")
    (tmp_path / "incoming" / "half").write_bytes(b"a client that was cut off")
    queue.close()
    queue = place.open()
    assert files(place) == [shown_id(5), "README"]
    queue.close()


async def test_a_body_is_synced_with_its_directory_before_the_commit(tmp_path, monkeypatch):
    queue = SqlitePlace(tmp_path).open()
    told = []

    def fsync(descriptor):
        found = os.fstat(descriptor)
        told.append("directory" if stat.S_ISDIR(found.st_mode) else f"file of {found.st_size}")
        real(descriptor)

    real = os.fsync
    monkeypatch.setattr(bodies.os, "fsync", fsync)
    submit = queue._engine.submit

    def submitted(job, order=()):
        told.append("transaction")
        return submit(job, order)

    monkeypatch.setattr(queue._engine, "submit", submitted)
    await queue.accept(message(5, body=LARGE))
    await queue.accept(message(6, body=spilled(queue, b"y" * 100)))
    assert told == [f"file of {len(LARGE)}", "directory", "transaction", "file of 100", "directory", "transaction"]
    queue.close()


async def test_small_mail_does_not_wait_for_the_sync_of_a_large_one(tmp_path, monkeypatch):
    queue = SqlitePlace(tmp_path).open()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_descriptor):
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)

    monkeypatch.setattr(bodies.os, "fsync", slow)
    large = asyncio.create_task(queue.accept(message(5, body=LARGE)))
    await asyncio.wait_for(queue.accept(message(6)), 5)
    assert not large.done()
    go_on.set()
    assert (await large).taken
    queue.close()


async def test_a_body_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    queue = SqlitePlace(tmp_path).open()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bodies.os, "fsync", full)
    with pytest.raises(UnavailableError) as error:
        await queue.accept(message(5, body=LARGE))
    assert error.value.key == "mail.disk-full"
    assert files(SqlitePlace(tmp_path)) == [] and await queue.states() == {}
    queue.close()


@pytest.mark.parametrize("there", [LARGE[1:], LARGE + b"x", None])
async def test_a_body_that_is_not_what_was_received_is_not_accepted(queue, there):
    body = spilled(queue)
    if there is None:
        body.path.unlink()
    else:
        body.path.write_bytes(there)
    with pytest.raises(UnavailableError):
        await queue.accept(message(5, body=body))
    assert await queue.claim(NOW, 1) == []
