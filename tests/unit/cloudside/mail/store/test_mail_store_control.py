"""`kyoten mail`'s way to the queue: the same through a running relay and without one."""

import asyncio
import socket
from contextlib import asynccontextmanager, closing

import pytest
from queue_places import NOW, PostgresqlPlace, message

from cloudside.config import Config, Relay
from cloudside.errors import InputError, UnavailableError
from cloudside.mail.model import UNFINISHED, Selection, State
from cloudside.mail.store import control, wire
from cloudside.mail.store.access import opened
from cloudside.mail.store.queue import Queue, open_queue

EVERYTHING = Selection()


@pytest.fixture
def config(tmp_path):
    return Config(state_directory=tmp_path / "state", runtime_directory=tmp_path / "run")


@asynccontextmanager
async def serving(queue, config, *, there_before=False):
    stop = asyncio.Event()
    path = config.runtime_directory / control.FILE_NAME
    task = asyncio.create_task(control.serve(queue, path, stop))
    async with asyncio.timeout(5):
        while there_before or not path.exists():
            await asyncio.sleep(0.01)
            there_before = False
    yield path
    stop.set()
    await task
    assert not path.exists()


def work(config):
    """What staff do, and all that they see of it."""
    seen = []
    with opened(config) as access:
        seen.append(access.states())
        seen.append(access.entries(Selection(origins=("osaka-1", "tokyo-1"), states=UNFINISHED), 1000))
        seen.append(access.hold(Selection(ids=(1, 2, 3)), NOW + 1, "hold: 確認"))
        seen.append(access.release(Selection(ids=(1,)), NOW + 2))
        seen.append(access.retry(Selection(states=(State.QUEUED,), since=NOW, until=NOW + 9), NOW + 3))
        seen.append(
            access.drop(Selection(ids=(2,), tenant="acme", address="A@x.test", device="10.0.0.1"), NOW + 4, "x")
        )
    with opened(config) as access:
        seen.append(access.stories(EVERYTHING, 3))
        seen.append(access.entries(EVERYTHING, 1000))
        seen.append(access.states())
        seen.append(access.entries(Selection(origins=()), 5))
    return seen


async def fill(queue):
    for number in range(1, 2 * wire.PART_MAX + 10):
        await queue.accept(message(number, subject="故障 \U0001f525"))
    (attempt,) = await queue.claim(NOW, 1)
    await queue.postpone(attempt, NOW, until=NOW + 60, reply="451", counted=True)


async def test_a_running_relay_and_none_give_the_same(config, tmp_path):
    queue = open_queue(config)
    await fill(queue)
    async with serving(queue, config):
        through_relay = await asyncio.to_thread(work, config)
    queue.close()
    other = Config(state_directory=tmp_path / "other", runtime_directory=tmp_path / "none")
    queue = open_queue(other)
    await fill(queue)
    queue.close()
    assert await asyncio.to_thread(work, other) == through_relay
    assert through_relay[2:6] == [3, 1, 2 * wire.PART_MAX + 9 - 2, 1]
    assert through_relay[8] == {"queued": 2 * wire.PART_MAX + 7, "held": 1, "dropped": 1}


async def test_a_shared_queue_is_opened_beside_its_relays(server, tmp_path):
    place = PostgresqlPlace(server, tmp_path)
    config = Config(
        state_directory=tmp_path / "state", runtime_directory=tmp_path, relay=Relay(queue_url=place.url, name="r1")
    )
    queue = open_queue(config)
    await fill(queue)
    seen = await asyncio.to_thread(work, config)
    assert seen[2] == 3 and seen[8] == await queue.states()
    queue.close()
    place.drop()


async def test_only_the_relays_user_may_ask(config):
    queue = open_queue(config)
    async with serving(queue, config) as path:
        assert path.stat().st_mode & 0o777 == 0o600
    queue.close()


async def test_the_socket_of_a_dead_relay_is_replaced(config):
    config.runtime_directory.mkdir(parents=True)
    path = config.runtime_directory / control.FILE_NAME
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(path))
    queue = open_queue(config)
    await queue.accept(message())
    queue.close()
    assert await asyncio.to_thread(lambda: _states(config)) == {"queued": 1}  # nobody listens: directly
    queue = open_queue(config)
    async with serving(queue, config, there_before=True):
        assert await asyncio.to_thread(lambda: _states(config)) == {"queued": 1}
    queue.close()


def _states(config):
    with opened(config) as access:
        return access.states()


def test_where_there_is_no_queue_none_is_made(config):
    with pytest.raises(UnavailableError) as error, opened(config):
        pass
    assert error.value.key == "mail.no-queue"
    assert not config.queue_directory.exists()


class _Failing(Queue):
    async def states(self):
        raise UnavailableError("mail.disk-full", path="/x")

    async def hold(self, which, now, reason):
        raise ZeroDivisionError


async def test_errors_come_back_as_they_were(config):
    queue = _Failing(config.queue_directory)
    async with serving(queue, config):

        def ask():
            with opened(config) as access:
                with pytest.raises(UnavailableError) as error:
                    access.states()
                with pytest.raises(InputError) as fault:
                    access.hold(EVERYTHING, NOW, "")
                return error.value, fault.value, access.entries(EVERYTHING, 5)

        error, fault, entries = await asyncio.to_thread(ask)
    assert (error.key, error.params, fault.key, entries) == ("mail.disk-full", {"path": "/x"}, "mail.control-fault", [])
    queue.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\0\0\5hello",
        b"\xff\xff\xff\xff",
        b"\0\0\0\2{}",
        wire.frame({"do": "entries", "which": {"states": ["none"]}, "limit": 1}),
        wire.frame({"do": "close", "which": {}, "now": 1}),
        wire.frame({"do": "hold", "which": {"shell": "x"}, "now": 1}),
        b"\0\0",
    ],
)
async def test_nonsense_ends_one_conversation_only(config, sent):
    queue = open_queue(config)
    await queue.accept(message())
    async with serving(queue, config) as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(sent)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert await asyncio.to_thread(lambda: _states(config)) == {"queued": 1}
    queue.close()


async def test_a_relay_that_hangs_up_is_told(config):
    queue = open_queue(config)
    path = config.runtime_directory / control.FILE_NAME
    path.parent.mkdir()
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path)
    with pytest.raises(UnavailableError) as error:
        await asyncio.to_thread(lambda: _states(config))
    assert error.value.key == "mail.relay-silent"
    server.close()
    queue.close()
