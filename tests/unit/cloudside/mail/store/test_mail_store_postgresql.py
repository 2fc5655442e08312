"""What only the shared engine has: relays with names and leases, a server that restarts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_places import NOW, PostgresqlPlace, message

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.model import Selection, State
from cloudside.mail.store import leases
from cloudside.mail.store.postgresql import PostgresqlEngine
from lab.postgresql import PostgresqlServer, postgresql_server


@pytest.fixture
def shared(server: PostgresqlServer, tmp_path: Path) -> Iterator[PostgresqlPlace]:
    made = PostgresqlPlace(server, tmp_path)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresqlServer]:
    """One that a test may stop."""
    with postgresql_server() as running:
        yield running


async def test_two_relays_share_a_queue_and_nothing_is_sent_twice(shared):
    first, second = shared.open("relay1"), shared.open("relay2")
    await asyncio.gather(*((first, second)[n % 2].accept(message(n)) for n in range(1, 101)))
    claims = await asyncio.gather(*(relay.claim(NOW, 5) for relay in (first, second) * 12))
    ids = [attempt.original.id for claim in claims for attempt in claim]
    assert len(ids) == len(set(ids)) >= 100 - 2 * 5
    rest = await first.claim(NOW, 100)
    assert sorted(ids + [attempt.original.id for attempt in rest]) == list(range(1, 101))
    first.close()
    second.close()


async def test_a_relay_that_starts_takes_back_its_own_and_leaves_what_others_are_sending(shared):
    first, second = shared.open("relay1"), shared.open("relay2")
    await first.accept(message(1))
    await first.accept(message(2))
    await first.claim(NOW, 1)
    (theirs,) = await second.claim(NOW, 1)
    first.close()
    first = shared.open("relay1")
    assert await first.recover(NOW) == 1
    (own,) = await first.claim(NOW, 5)
    assert {own.original.id, theirs.original.id} == {1, 2}
    first.close()
    second.close()


async def test_what_a_dead_relay_was_sending_is_taken_over_by_the_living(server, tmp_path):
    place = PostgresqlPlace(server, tmp_path, lease_s=0.6)
    dead, living = place.open("relay1"), place.open("relay2")
    await dead.accept(message())
    (attempt,) = await dead.claim(NOW, 1)
    dead._engine._lease._stop.set()  # its signs of life end, as if it were cut off
    async with asyncio.timeout(10):
        while not (found := await living.claim(NOW * 2, 1)):
            await asyncio.sleep(0.05)
    assert found[0].original.id == 1
    # It comes back and knows nothing of it: it must not put back what another one is sending.
    await dead.postpone(attempt, NOW, until=NOW, reply="451", counted=True)
    assert await living.states() == {"sending": 1}
    # That it was delivered is worth knowing all the same.
    await dead.delivered(attempt, NOW, "250")
    await living.fail(1, 0, State.EXPIRED, NOW, "4.4.7", (), permanent=False)
    assert await living.states() == {"delivered": 1}
    dead.close()
    living.close()
    place.drop()


def test_a_name_belongs_to_one_relay(shared, monkeypatch):
    monkeypatch.setattr(leases, "LOCK_WAIT_S", 0.2)
    first = shared.open("relay1")
    with pytest.raises(ConfigurationError) as refused:
        shared.open("relay1")
    assert refused.value.key == "mail.relay-name-in-use" and refused.value.params == {"name": "relay1"}
    first.close()
    shared.open("relay1").close()


async def test_whoever_looks_after_the_queue_is_no_relay(shared):
    relay, staff = shared.open("relay1"), shared.open(None)
    await relay.accept(message())
    assert await staff.hold(Selection(), NOW, "hold: test") == 1
    assert await relay.states() == {"held": 1}
    assert not (shared.directory / "nobody").exists()
    assert shared.rows("SELECT name FROM relays") == [("relay1",)]
    staff.close()
    relay.close()
    assert shared.rows("SELECT name FROM relays") == []


async def test_after_a_restart_of_the_server_everything_goes_on(own_server, tmp_path):
    place = PostgresqlPlace(own_server, tmp_path, lease_s=1.2)
    queue = place.open()
    await queue.accept(message(1))
    (attempt,) = await queue.claim(NOW, 1)
    own_server.stop()
    for work in (queue.accept(message(2)), queue.delivered(attempt, NOW, "250"), queue.states(), queue.claim(NOW, 1)):
        with pytest.raises(UnavailableError) as error:
            await work
        assert error.value.key == "mail.queue-failed"
    own_server.start()
    await settled(queue)
    await queue.delivered(attempt, NOW, "250")
    assert (await queue.accept(message(2))).taken
    assert await queue.states() == {"delivered": 1, "queued": 1}
    assert [one.original.id for one in await queue.claim(NOW, 1)] == [2]
    # Its name is its own again.
    async with asyncio.timeout(10):
        while not place.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
            await asyncio.sleep(0.05)
    queue.close()


async def test_what_was_acknowledged_before_the_server_crashed_is_there_and_once(own_server, tmp_path):
    place = PostgresqlPlace(own_server, tmp_path)
    queue = place.open()
    taken, lost = [], []

    async def client(start: int) -> None:
        for number in range(start, start + 60):
            try:
                await queue.accept(message(number))
                taken.append(number)
            except UnavailableError:
                lost.append(number)
                await asyncio.sleep(0.05)

    async def crash() -> None:
        await asyncio.sleep(0.15)
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(own_server.start)

    await asyncio.gather(crash(), *(client(1000 * number) for number in range(1, 9)))
    await settled(queue)
    assert lost and taken
    entries = await queue.entries(Selection(), 10_000)
    found = [int(entry.message, 16) for entry in entries]
    assert len(found) == len(set(found)) and set(taken) <= set(found)
    queue.close()


async def test_a_body_that_two_transactions_left_to_each_other_goes_with_the_purge(shared):
    queue = shared.open()
    await queue.accept(message(1))
    await queue.accept(message(2))
    session_job = "UPDATE recipients SET state = 'delivered' WHERE message = 1"  # and the body is still there
    queue._engine.submit(lambda session: session.execute(session_job).rowcount).result(5)
    assert shared.rows("SELECT count(*) FROM bodies") == [(2,)]
    await queue.purge(NOW - 1, NOW - 1)
    assert shared.rows("SELECT message FROM bodies") == [(2,)]
    queue.close()


async def test_one_bad_job_does_not_spoil_its_group(shared):
    queue = shared.open()
    results = await asyncio.gather(
        *(queue.accept(message(number // 2)) for number in range(2, 42)), return_exceptions=True
    )
    good = [result for result in results if not isinstance(result, BaseException)]
    assert len(good) == 20 and sum(isinstance(result, UnavailableError) for result in results) == 20
    assert await queue.states() == {"queued": 20}
    queue.close()


def test_commits_are_synced_by_the_server(shared):
    queue = shared.open()
    found = queue._engine.submit(lambda session: session.execute("SHOW synchronous_commit").fetchone()).result(5)
    assert found == ("on",)
    queue.close()


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("postgresql://relay:secret@db/mail", "mail.queue-password-in-url"),
        ("postgresql://relay@db/mail?password=secret", "mail.queue-password-in-url"),
        ("mysql://db/mail", "mail.queue-bad-url"),
        ("secret", "mail.queue-bad-url"),
        ("postgresql://relay@/mail?host=/nonexistent", "mail.queue-unusable"),
    ],
)
def test_a_bad_url_is_told_without_its_password(url, key):
    with pytest.raises(ConfigurationError) as error:
        PostgresqlEngine(url, relay="relay1")
    assert error.value.key == key and "secret" not in str(error.value)


async def settled(queue) -> None:
    """Wait until the server is there again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await queue.states()
                await queue.next_due()
                await queue.note(0, 0, NOW, "", "")
            except UnavailableError:
                await asyncio.sleep(0.1)
            else:
                return
