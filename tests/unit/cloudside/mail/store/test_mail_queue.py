"""The queue: each operation whole or not at all, each recipient in one state. The same on both engines."""

import asyncio

import pytest
from queue_places import BODY, HEAD, NOW, message

from cloudside.errors import UnavailableError
from cloudside.mail.model import (
    TRANSITIONS,
    UNFINISHED,
    Kind,
    Selection,
    State,
    shown_id,
)
from cloudside.mail.store.engine import StorageFullError
from cloudside.mail.store.moving import HEAD_MAX_BYTES, RECOVERIES_MAX
from cloudside.mail.store.queue import Queue

EVERYTHING = Selection()


async def sent(queue, number=1, **given):
    """A message that was delivered."""
    await queue.accept(message(number, **given))
    for attempt in await queue.claim(NOW, 10):
        await queue.delivered(attempt, NOW + 1, "250 OK", f"remote-{attempt.original.id}")


async def test_accepted_mail_is_claimed_once_and_whole(queue):
    new = message(recipients=("a@x.test", "b@x.test"))
    receipt = await queue.accept(new)
    assert (receipt.taken, receipt.held, receipt.hour_count) == (True, "", 2)
    first = await queue.claim(NOW, 10)
    assert [(one.recipient, one.index) for one in first] == [("a@x.test", 0), ("b@x.test", 1)]
    assert (first[0].head, first[0].body, first[0].size) == (HEAD, BODY, len(HEAD) + 2 + len(BODY))
    original = first[0].original
    assert (original.id, original.tenant, original.origin, original.device) == (1, "acme", "tokyo-1", "10.0.0.1")
    assert (original.subject, original.head, original.automatic) == ("s1", HEAD, False)
    assert await queue.claim(NOW, 10) == []


async def test_notices_go_first_then_urgent_mail_then_the_longest_due(queue):
    await queue.accept(message(1, at=NOW - 5))
    await queue.accept(message(2, at=NOW - 9))
    await queue.accept(message(3, urgent=True))
    await queue.accept(message(4, kind=Kind.NOTICE))
    await queue.accept(message(5, at=NOW - 7, kind=Kind.DSN))
    assert [one.original.id for one in await queue.claim(NOW, 1, urgent_only=True)] == [4]
    (urgent,) = await queue.claim(NOW, 10, urgent_only=True)
    assert urgent.urgent and urgent.original.id == 3
    assert [one.original.id for one in await queue.claim(NOW, 10)] == [2, 5, 1]


async def test_what_was_being_sent_is_queued_again_after_a_restart(place):
    queue = place.open()
    await queue.accept(message())
    await queue.claim(NOW, 1)
    queue.close()
    again = place.open()
    assert await again.recover(NOW + 5) == 1
    assert len(await again.claim(NOW + 5, 1)) == 1
    again.close()


async def test_what_ends_the_relay_again_and_again_is_parked(queue):
    await queue.accept(message())
    for _ in range(RECOVERIES_MAX):
        assert len(await queue.claim(NOW, 1)) == 1
        assert await queue.recover(NOW) == 1
    await queue.claim(NOW, 1)
    assert await queue.recover(NOW) == 0
    (entry,) = await queue.entries(EVERYTHING, 10)
    assert (entry.state, entry.reply) == ("held", "poison")
    assert await queue.release(EVERYTHING, NOW) == 1
    await queue.claim(NOW, 1)
    assert await queue.recover(NOW) == 1  # it has its tries again


async def test_an_attempt_that_ended_well_forgives_recoveries(queue):
    await queue.accept(message())
    for _ in range(2 * RECOVERIES_MAX):
        await queue.claim(NOW, 1)
        assert await queue.recover(NOW) == 1
        (attempt,) = await queue.claim(NOW, 1)
        await queue.postpone(attempt, NOW, until=NOW, reply="451", counted=True)


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
    assert await queue.next_due() is None


async def test_the_same_failure_twice_queues_one_report(queue):
    await sent(queue)
    report = message(2, kind=Kind.DSN)
    assert await queue.fail(1, 0, State.BOUNCED, NOW, "5.1.1", (report,), permanent=True)
    again = message(3, kind=Kind.DSN)
    assert not await queue.fail(1, 0, State.BOUNCED, NOW, "5.1.1", (again,), permanent=True)
    assert await queue.states() == {"bounced": 1, "queued": 1}
    assert not await queue.fail(99, 0, State.BOUNCED, NOW, "5.1.1", (again,), permanent=True)


async def test_a_failure_queues_all_its_reports_or_is_not_recorded(queue):
    await sent(queue)
    reports = (message(2, kind=Kind.DSN), message(1, kind=Kind.DSN))  # this id is taken
    with pytest.raises(UnavailableError):
        await queue.fail(1, 0, State.BOUNCED, NOW, "5.1.1", reports, permanent=True, suppress="bounce")
    assert await queue.states() == {"delivered": 1}
    assert await queue.suppressing() == []


async def test_finished_states_stay(queue):
    await queue.accept(message())
    (attempt,) = await queue.claim(NOW, 1)
    assert await queue.fail(1, 0, State.EXPIRED, NOW, "4.4.7", (), permanent=False)
    await queue.delivered(attempt, NOW, "250")
    await queue.postpone(attempt, NOW, until=NOW, reply="", counted=False)
    assert await queue.release(EVERYTHING, NOW) + await queue.drop(EVERYTHING, NOW, "") == 0
    assert await queue.states() == {"expired": 1}


def test_every_state_can_be_reached_and_left_as_the_table_says():
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State)
    assert {state for state in State if TRANSITIONS[state] - {State.BOUNCED}} == set(UNFINISHED)


async def test_once_is_once(queue):
    assert (await queue.accept(message(1, kind=Kind.NOTICE, once="incident/1"))).taken
    assert not (await queue.accept(message(2, kind=Kind.NOTICE, once="incident/1"))).taken
    assert (await queue.accept(message(3, kind=Kind.NOTICE))).taken
    assert (await queue.accept(message(4, kind=Kind.NOTICE))).taken
    assert await queue.states() == {"queued": 3}


async def test_a_long_head_is_delivered_whole_and_reported_clipped_at_a_line(queue):
    head = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 900) for number in range(60))
    await queue.accept(message(head=head))
    (attempt,) = await queue.claim(NOW, 1)
    assert attempt.head == head
    kept = attempt.original.head
    assert len(kept) <= HEAD_MAX_BYTES and kept.endswith(b"x\r\n") and head.startswith(kept)


async def test_bodies_leave_when_finished_and_headers_stay_until_the_purge(queue, place):
    await queue.accept(message(recipients=("a@x.test", "b@x.test")))
    first, second = await queue.claim(NOW, 2)
    await queue.delivered(first, NOW, "250")
    assert place.rows("SELECT count(*) FROM bodies") == [(1,)]
    await queue.delivered(second, NOW, "250")
    assert place.rows("SELECT count(*) FROM bodies") == [(0,)]
    found = await queue.original(1, 1)
    assert found is not None and found[0].head == HEAD and found[1] == "b@x.test"
    await queue.accept(message(2))
    await queue.accept(message(3, held="hold: test"))
    assert await queue.purge(NOW + 1, NOW - 3600) == 1
    assert await queue.original(1, 0) is None
    assert await queue.original(2, 0) is not None and await queue.original(3, 0) is not None


async def test_a_purge_takes_everything_that_belongs_to_a_message(queue, place):
    for number in range(1, 4):
        await queue.accept(message(number))
        await queue.claim(NOW, 1)
        await queue.fail(number, 0, State.BOUNCED, NOW, "550", (), permanent=True, feedback="f1", suppress="bounce")
    assert await queue.purge(NOW + 1, NOW + 7200) == 3
    for table in ("messages", "recipients", "events", "feedback", "bodies", "counts"):
        assert place.rows(f"SELECT count(*) FROM {table}") == [(0,)], table  # noqa: S608
    assert len(await queue.suppressing()) == 3  # that is somebody's to fetch


async def test_no_room_is_said_before_anything_is_written(tmp_path):
    queue = Queue(tmp_path, reserve_bytes=2**60)
    with pytest.raises(StorageFullError):
        queue.require_space(1)
    queue.close()


async def test_feedback_is_taken_once(queue):
    await sent(queue, recipients=("a@x.test", "b@x.test"))
    assert await queue.note(1, 0, NOW, "delayed", "451", feedback="f1")
    assert not await queue.note(1, 0, NOW, "delayed", "451", feedback="f1")
    assert await queue.note(1, 1, NOW, "delayed", "451", feedback="f1")  # another recipient
    assert await queue.note(1, 0, NOW, "delayed", "451") and await queue.note(1, 0, NOW, "delayed", "451")
    assert not await queue.fail(1, 0, State.BOUNCED, NOW, "550", (), permanent=True, feedback="f1")
    assert await queue.fail(1, 0, State.BOUNCED, NOW, "550", (), permanent=True, feedback="f2")
    assert not await queue.note(1, 0, NOW, "bounced", "550", feedback="f2")
    assert not await queue.note(9, 0, NOW, "delayed", "")


async def test_a_complaint_leaves_the_mail_delivered_and_suppresses_the_address(queue):
    await sent(queue, recipients=("A@X.test",))
    report = message(7, kind=Kind.DSN)
    assert await queue.complained(1, 0, NOW + 2, "abuse", (report,), feedback="f1")
    assert not await queue.complained(1, 0, NOW + 2, "abuse", (message(8, kind=Kind.DSN),), feedback="f1")
    assert not await queue.complained(1, 0, NOW + 2, "abuse", (message(8, kind=Kind.DSN),), feedback="f2")
    entry = (await queue.entries(Selection(ids=(1,)), 10))[0]
    assert (entry.state, entry.outcome, entry.reply) == ("delivered", "complained", "250 OK")
    (one,) = await queue.suppressing()
    assert (one.tenant, one.address, one.cause, one.reason, one.message, one.at) == (
        *("acme", "a@x.test", "complaint", "abuse", 1),
        NOW + 2,
    )
    await queue.suppressed([one.id])
    assert await queue.suppressing() == []
    assert await queue.outcomes("tokyo-1", NOW) == {"complained": 1}
    assert await queue.states() == {"delivered": 1, "queued": 1}


async def test_what_was_taken_under_a_remote_name_is_found_by_it(queue):
    await sent(queue)
    assert await queue.by_remote_id("remote-1") == ((1, 0),)
    assert await queue.by_remote_id("remote-2") == await queue.by_remote_id("") == ()


async def test_the_story_of_a_message_tells_each_step(queue):
    await queue.accept(message(255, recipients=("a@x.test", "b@x.test")))
    first, second = await queue.claim(NOW, 2)
    await queue.postpone(first, NOW + 1, until=NOW + 2, reply="451 later", counted=True)
    await queue.delivered(second, NOW + 1, "250 OK")
    await queue.hold(Selection(address="A@x.test"), NOW + 3, "hold: flood")
    await queue.release(Selection(tenant="acme"), NOW + 4)
    (again,) = await queue.claim(NOW + 5, 5)
    await queue.delivered(again, NOW + 6, "250 fine")
    await queue.fail(255, 0, State.BOUNCED, NOW + 7, "550 after all", (), permanent=True)
    for which in (
        Selection(ids=(255,)),
        Selection(address="B@X.TEST"),
        Selection(address="p@site.test"),
        Selection(origins=("osaka-1", "tokyo-1")),
        Selection(device="10.0.0.1", since=NOW, until=NOW + 1, states=(State.BOUNCED,)),
    ):
        (story,) = await queue.stories(which, 10)
        assert [entry.message for entry in story.entries] == [shown_id(255)] * 2
    told = [(one.event, one.detail) for one in story.happenings if one.recipient == "a@x.test"]
    assert told == [
        *(("accepted", ""), ("postponed", "451 later"), ("held", "hold: flood"), ("released", "")),
        *(("delivered", "250 fine"), ("bounced", "550 after all")),
    ]
    assert [one.event for one in story.happenings if one.recipient == "b@x.test"] == ["accepted", "delivered"]
    assert (story.entries[0].outcome, story.entries[1].outcome) == ("permanent", "")
    for nothing in (Selection(ids=(1,)), Selection(origins=()), Selection(tenant="zenith"), Selection(until=NOW)):
        assert await queue.stories(nothing, 10) == []


async def test_entries_come_oldest_first_and_stories_newest_first_up_to_a_limit(queue):
    for number, at in ((1, NOW), (2, NOW - 9), (3, NOW + 9)):
        await queue.accept(message(number, at=at))
    assert [entry.subject for entry in await queue.entries(Selection(states=UNFINISHED), 2)] == ["s2", "s1"]
    assert [story.entries[0].subject for story in await queue.stories(EVERYTHING, 2)] == ["s3", "s1"]


async def test_hold_release_retry_and_drop_change_what_is_selected_and_nothing_else(queue, place):
    for number in range(1, 5):
        await queue.accept(message(number, origin=f"site-{number % 2}"))
    (attempt,) = await queue.claim(NOW, 1)  # number 1, of site-1: on its way
    assert await queue.hold(Selection(origins=("site-1",)), NOW + 1, "hold: why") == 1
    assert await queue.hold(Selection(origins=("site-1",)), NOW + 1, "hold: why") == 0
    assert await queue.states() == {"sending": 1, "held": 1, "queued": 2}
    assert await queue.claim(NOW, 10, urgent_only=True) == []
    await queue.postpone(attempt, NOW, until=NOW + 900, reply="451", counted=True)
    assert await queue.retry(Selection(ids=(1,)), NOW + 2) == 1
    (entry,) = await queue.entries(Selection(ids=(1,)), 1)
    assert entry.next_attempt.timestamp() == NOW + 2 and entry.reply == "451"
    assert await queue.drop(Selection(states=(State.HELD,)), NOW + 3, "dropped: spam") == 1
    assert await queue.states() == {"dropped": 1, "queued": 3}
    assert place.rows("SELECT count(*) FROM bodies") == [(3,)]
    (entry,) = await queue.entries(Selection(states=(State.DROPPED,)), 5)
    assert (entry.reply, entry.next_attempt) == ("dropped: spam", None)


async def test_mail_held_from_the_start_waits(queue):
    receipt = await queue.accept(message(held="hold: stolen credential"))
    assert receipt.held == "hold: stolen credential"
    assert await queue.claim(NOW, 10) == [] and await queue.next_due() is None
    assert await queue.release(EVERYTHING, NOW + 60) == 1
    assert len(await queue.claim(NOW + 60, 10)) == 1


async def test_a_recipient_is_claimed_by_one_of_many(queue):
    for number in range(1, 41):
        await queue.accept(message(number))
    claims = await asyncio.gather(*(queue.claim(NOW, 7) for _ in range(10)))
    ids = [attempt.original.id for claim in claims for attempt in claim]
    assert sorted(ids) == list(range(1, 41))


async def test_a_claim_whose_answer_was_lost_is_made_good_by_the_next(queue):
    await queue.accept(message(1))
    await queue.accept(message(2))
    (known,) = await queue.claim(NOW, 1)
    submit = queue._engine.submit
    lost = []

    def lose(job, order=(), **haste):
        future = submit(job, order, **haste)
        lost.append(future.result(5))
        failed = submit(_raise)
        queue._engine.submit = submit
        return failed

    queue._engine.submit = lose
    with pytest.raises(UnavailableError):
        await queue.claim(NOW, 1)
    assert len(lost[0]) == 1 and await queue.states() == {"sending": 2}
    (again,) = await queue.claim(NOW, 5)
    assert again.original.id == 2 and known.original.id == 1


def _raise(_session):
    raise UnavailableError("mail.queue-failed", path="", reason="")
