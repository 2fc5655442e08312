"""Journals: what was promised is found again, once, whatever the file looks like."""

import asyncio
import errno
import fcntl
import os
import random
from dataclasses import replace

import pytest
from queue_places import NOW, message

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.model import Action, Limit, Receipt, Scope, Selection, Spilled
from cloudside.mail.store.journal import leftover
from cloudside.mail.store.journal import taking as taking_of
from cloudside.mail.store.journal.adoption import Adoption
from cloudside.mail.store.journal.ahead import Ahead
from cloudside.mail.store.journal.file import Journal
from cloudside.mail.store.journal.records import (
    PAGE_BYTES,
    framed,
    message_of,
    payload_of,
    records_in,
    size_of,
)
from cloudside.mail.store.queue import Queue

HOLD = Limit(Scope.SITE, "tokyo-1", 0, None, Action.HOLD)
REFUSE = Limit(Scope.SITE, "tokyo-1", 5, None, Action.REFUSE)
TELL = Limit(Scope.SITE, "tokyo-1", 5, None, Action.NOTIFY)


@pytest.fixture
def queue(tmp_path):
    opened = Queue(tmp_path / "queue", reserve_bytes=0)
    yield opened
    opened.close()


# Octets.


def test_a_message_comes_back_whole():
    new = message(
        3**39, body=bytes(range(256)), recipients=("a@x.test", "b@x.test"), subject="日本語 ✓", urgent=True,
        held="hold: why", automatic=True, limits=(HOLD, TELL),
    )  # fmt: skip
    assert message_of(payload_of(new)) == replace(new, limits=(HOLD,))


def test_what_is_no_message_is_refused():
    payload = payload_of(message())
    for wrong in (b"", payload[:-1], payload + b"x", b"\0" * 12, bytes(12) + b"{}"):
        with pytest.raises(ValueError):
            message_of(wrong)


def test_what_a_journal_cannot_have_is_refused(tmp_path):
    for wrong in (message(body=Spilled(tmp_path / "x", 1)), message(subject="\ud800")):
        with pytest.raises(ValueError):
            payload_of(wrong)


def test_records_end_at_a_torn_one_and_at_an_older_one():
    payloads = [bytes([number]) * size for number, size in enumerate((10, 5000, 4076, 4077, 0))]
    content = b"".join(framed(number, payload) for number, payload in enumerate(payloads, start=7))
    assert len(content) == sum(map(size_of, payloads))
    assert len(content) % PAGE_BYTES == 0
    found = list(records_in(content + bytes(PAGE_BYTES)))
    assert found == list(enumerate(payloads, start=7))
    for place in range(0, len(content) - PAGE_BYTES, 97):
        torn = bytearray(content)
        torn[place] ^= 0x40
        some = list(records_in(bytes(torn)))
        assert some == found[: len(some)]
    assert list(records_in(framed(9, b"new") + framed(3, b"old"))) == [(9, b"new")]
    assert list(records_in(framed(9, b"new") + framed(11, b"later"))) == [(9, b"new")]
    assert not list(records_in(content[3:]))


# The file.


def left_in(path):
    copy = path.with_name("copy")  # the journal itself is locked as long as somebody writes it
    copy.write_bytes(path.read_bytes())
    return [number for number, _ in leftover.records_of(copy)]


async def test_what_is_written_is_found_and_handed_on_in_order(tmp_path):
    handed = []
    journal = Journal(tmp_path / "a.journal", lambda group: handed.extend(one.number for one in group))
    assert all(await asyncio.gather(*(journal.write(message(number)) for number in range(1, 30))))
    journal.close()
    assert handed == list(range(1, 30)) == left_in(tmp_path / "a.journal")


@pytest.mark.parametrize("inline_max_s", [0.0, 10.0])
async def test_a_full_journal_says_so_and_goes_on_when_the_queue_has_a_half_of_it(tmp_path, inline_max_s):
    path = tmp_path / "a.journal"
    journal = Journal(path, lambda _: None, half_bytes=4 * PAGE_BYTES, inline_max_s=inline_max_s)
    answers = await asyncio.gather(*(journal.write(message(number)) for number in range(1, 12)))
    assert answers == [True] * 8 + [False] * 3
    assert not await journal.write(message(12))
    journal.taken_over(3)
    assert not await journal.write(message(12))
    journal.taken_over(4)
    assert await journal.write(message(12))
    assert left_in(path) == [5, 6, 7, 8, 9]  # 1 to 4, which the queue has, were written over in part
    journal.close()


async def test_a_mail_larger_than_a_half_finds_no_room(tmp_path):
    journal = Journal(tmp_path / "a.journal", lambda _: None, half_bytes=4 * PAGE_BYTES)
    assert not await journal.write(message(body=b"x" * 5 * PAGE_BYTES))
    assert await journal.write(message())
    journal.close()


async def test_after_a_fault_of_the_disk_nothing_is_promised_any_more(tmp_path, monkeypatch):
    handed = []
    journal = Journal(tmp_path / "a.journal", handed.extend)

    def failing(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "pwritev", failing)
    assert not await journal.write(message())
    monkeypatch.undo()
    assert not await journal.write(message())
    assert not handed
    journal.close()


def test_a_journal_that_cannot_be_made_is_not_there(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="no space"):
        Journal(tmp_path / "a.journal", lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_what_was_promised_and_not_taken_over_is_there(tmp_path, seed):
    dice = random.Random(seed)
    path = tmp_path / "a.journal"
    written = []
    journal = Journal(
        path, lambda group: written.extend(one.number for one in group), half_bytes=6 * PAGE_BYTES,
        inline_max_s=dice.choice((0.0, 10.0)),
    )  # fmt: skip
    reached = 0
    for _ in range(25):
        before, promised = path.read_bytes(), len(written)
        sizes = [dice.choice((0, 3000, 5000, 9000)) for _ in range(dice.randint(1, 5))]
        await asyncio.gather(*(journal.write(message(1, body=bytes(size))) for size in sizes))
        after = path.read_bytes()
        assert [number for number in left_in(path) if number > reached] == written[reached:]
        # A cut during these writes: of the pages that they change any may be missing.
        pages = range(0, len(before), PAGE_BYTES)
        torn = tmp_path / "torn"
        torn.write_bytes(b"".join(dice.choice((before, after))[page : page + PAGE_BYTES] for page in pages))
        assert set(left_in(torn)) >= set(written[reached:promised])
        reached = dice.randint(reached, len(written))
        journal.taken_over(reached)
    assert written == list(range(1, len(written) + 1))
    journal.close()


# Taking mail.


class Shelf:
    """A queue that remembers. ``error`` is raised instead."""

    def __init__(self):
        self.accepted = []
        self.error = None

    def require_space(self, size_bytes):
        assert size_bytes >= 0

    async def accept(self, new):
        if self.error is not None:
            raise self.error
        self.accepted.append(new.id)
        return Receipt(taken=True, held="", hour_count=1)


async def test_mail_goes_into_the_journal_unless_the_queue_has_a_word_to_say(tmp_path):
    shelf, handed, told = Shelf(), [], []
    ahead = Ahead(shelf, lambda new, receipt: told.append((new.id, receipt.hour_count)))
    assert await ahead.accept(message(1)) is not None  # there is no journal yet
    ahead.begin(tmp_path / "a.journal", handed.extend)
    for number, given in enumerate(
        ({"limits": (REFUSE,)}, {"body": bytes(70_000)}, {"once": "x"}, {"subject": "\ud800"}), start=2
    ):
        assert await ahead.accept(message(number, **given)) is not None
    assert shelf.accepted == [1, 2, 3, 4, 5]
    assert await ahead.accept(message(6)) is None
    assert await ahead.accept(message(7, limits=(HOLD, TELL))) is None
    assert shelf.accepted == [1, 2, 3, 4, 5]
    async with asyncio.timeout(5):
        while len(handed) < 2:
            await asyncio.sleep(0.001)
    assert [message_of(payload).id for _, payload in handed] == [6, 7]
    ahead.taken_over(2, [Receipt(taken=True, held="", hour_count=count) for count in (5, 6)])
    assert told == [(6, 5), (7, 6)]
    ahead.close()
    assert await ahead.accept(message(8)) is not None


async def test_at_the_end_what_is_gathered_is_handed_over(tmp_path):
    handed = []
    ahead = Ahead(Shelf(), lambda _new, _receipt: None)
    ahead.begin(tmp_path / "a.journal", handed.extend)
    await ahead.accept(message())
    ahead.close()
    assert len(handed) == 1


# Into the queue.


def records(*messages):
    return [(number, payload_of(new)) for number, new in enumerate(messages, start=1)]


async def test_the_queue_takes_over_and_holds_what_a_limit_holds(queue):
    receipts = await queue.take_over("a", records(message(1), message(2, limits=(HOLD,))))
    assert [(one.taken, one.hour_count) for one in receipts] == [(True, 1), (True, 2)]
    assert not receipts[0].held
    assert receipts[1].held.startswith("limit: ")
    assert await queue.states() == {"queued": 1, "held": 1}
    # What a journal has may have reached the queue by itself, when the journal's disk failed.
    assert not (await queue.take_over("a", records(message(1))))[0].taken
    assert await queue.states() == {"queued": 1, "held": 1}
    with pytest.raises(ValueError):
        await queue.take_over("a", [*records(message(3)), (2, b"no message")])
    assert await queue.states() == {"queued": 1, "held": 1}


class Taker:
    """A queue that fails when it is told to."""

    def __init__(self):
        self.groups = []
        self.failing = 0
        self.bad = 0

    async def take_over(self, name, given):
        if self.failing:
            self.failing -= 1
            raise UnavailableError("mail.queue-failed", path="x", reason="y")
        if any(number == self.bad for number, _ in given):
            raise RuntimeError("a bug")
        self.groups.append([number for number, _ in given])
        return [Receipt(taken=True, held="", hour_count=number) for number, _ in given]


async def test_an_adoption_goes_on_when_the_queue_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("cloudside.mail.store.journal.adoption.AGAIN_S", 0.01)
    taker, reached = Taker(), []
    taker.failing = 2
    path = tmp_path / "a.journal"
    path.touch()
    adoption = Adoption(taker, path, lambda number, receipts: reached.append((number, len(receipts))))
    adoption.put(records(message(1), message(2)))
    await asyncio.sleep(0)
    adoption.put([(3, payload_of(message(3)))])
    await adoption.finish(5)
    assert taker.groups == [[1, 2], [3]] or taker.groups == [[1, 2, 3]]
    assert sum(count for _, count in reached) == 3
    assert reached[-1][0] == 3
    assert not path.exists()


async def test_a_journal_that_was_not_taken_over_in_time_stays(tmp_path):
    taker = Taker()
    taker.failing = 1000
    path = tmp_path / "a.journal"
    path.touch()
    adoption = Adoption(taker, path, lambda _number, _receipts: None)
    adoption.put(records(message(1)))
    await adoption.finish(0.05)
    assert path.exists()


async def test_a_mail_that_the_queue_cannot_take_is_put_aside_and_the_rest_goes_on(tmp_path):
    taker, reached = Taker(), []
    taker.bad = 2
    path = tmp_path / "a.journal"
    path.touch()
    adoption = Adoption(taker, path, lambda number, receipts: reached.append((number, receipts)))
    given = records(message(1), message(2), message(3))
    adoption.put(given)
    await adoption.finish(5)
    assert taker.groups == [[1], [3]]
    assert [receipt.taken for receipt in reached[0][1]] == [True, False, True]
    (aside,) = tmp_path.glob("*.aside")
    assert aside.read_bytes() == given[1][1]


# The next start.


async def write(path, *messages):
    journal = Journal(path, lambda _: None)
    assert all([await journal.write(new) for new in messages])
    return journal


async def test_a_start_takes_over_what_the_queue_has_not_and_does_so_once(tmp_path):
    queue = Queue(tmp_path, reserve_bytes=0)
    path = queue.new_journal()
    assert path is not None
    (await write(path, message(1), message(2), message(3))).close()
    kept = path.read_bytes()
    await queue.take_over(path.name, records(message(1)))
    queue.close()
    queue = Queue(tmp_path, reserve_bytes=0)
    assert not path.exists()
    assert {entry.message for entry in await queue.entries(Selection(), 10)} == {f"{n:016x}" for n in (1, 2, 3)}
    attempts = await queue.claim(NOW, 10)
    for attempt in attempts:
        await queue.delivered(attempt, NOW, "250")
    queue.close()
    queue = Queue(tmp_path, reserve_bytes=0)
    assert await queue.states() == {"delivered": 3}
    assert await queue.purge(NOW + 1, 0) == 3
    queue.close()
    # A journal that was taken over and whose removal a power cut undid, with the messages forgotten long ago.
    again = Queue(tmp_path, reserve_bytes=0)
    await again.take_over(path.name, records(message(4), message(5), message(6)))
    again.close()
    path.write_bytes(kept)
    queue = Queue(tmp_path, reserve_bytes=0)
    assert len(await queue.entries(Selection(), 10)) == 3
    queue.close()


async def test_a_start_waits_for_the_process_that_writes_and_gives_up_when_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(leftover, "LOCK_WAIT_S", 0.05)
    queue = Queue(tmp_path, reserve_bytes=0)
    path = queue.new_journal()
    queue.close()
    journal = await write(path, message(1))
    with pytest.raises(ConfigurationError) as error:
        Queue(tmp_path, reserve_bytes=0)
    assert error.value.key == "mail.queue-in-use"
    journal.close()
    queue = Queue(tmp_path, reserve_bytes=0)
    assert await queue.states() == {"queued": 1}
    queue.close()


async def test_a_start_puts_aside_what_it_cannot_take(tmp_path, monkeypatch):
    queue = Queue(tmp_path, reserve_bytes=0)
    path = queue.new_journal()
    queue.close()
    (await write(path, message(1), message(2))).close()

    def read(payload):
        new = message_of(payload)
        if new.id == 1:
            raise ValueError("a bug")
        return new

    monkeypatch.setattr(taking_of, "message_of", read)
    queue = Queue(tmp_path, reserve_bytes=0)
    assert await queue.states() == {"queued": 1}
    assert message_of(next(path.parent.glob("*.aside")).read_bytes()).id == 1
    assert not path.exists()
    queue.close()


async def test_a_start_leaves_a_journal_that_finds_no_space(tmp_path, monkeypatch):
    queue = Queue(tmp_path, reserve_bytes=0)
    path = queue.new_journal()
    queue.close()
    (await write(path, message(1))).close()

    def full(*_):
        raise UnavailableError("mail.disk-full", path="x")

    monkeypatch.setattr(leftover, "take", full)
    queue = Queue(tmp_path, reserve_bytes=0)
    assert path.exists()
    assert await queue.states() == {}
    queue.close()
    monkeypatch.undo()
    queue = Queue(tmp_path, reserve_bytes=0)
    assert await queue.states() == {"queued": 1}
    assert not path.exists()
    queue.close()


def test_the_lock_of_a_journal_lasts_as_long_as_it(tmp_path):
    path = tmp_path / "a.journal"
    journal = Journal(path, lambda _: None, half_bytes=PAGE_BYTES)
    with path.open("rb") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
