"""The judge of the crash rig: it sees each kind of loss, and no others."""

import dataclasses

import pytest

from cloudside.mail.model import State
from lab.mail_proof.ledger import Take
from lab.mail_proof.traffic import Fate, Mix, digest, made
from lab.mail_proof.verdict import Standing, duplicates, judge, reported_twice

MIX = Mix(sizes=((100, 1),), fates=((Fate.TAKEN, 1),), recipients_max=1)
FAILING = Mix(sizes=((100, 1),), fates=((Fate.GONE, 1),), recipients_max=1)
MAIL = made(7, MIX)
(RECIPIENT,) = MAIL.recipients
DIGEST = digest(MAIL.body)
EMPTY = Standing({}, {}, frozenset())


def standing(*states: State, waiting: str = "") -> Standing:
    return Standing({RECIPIENT: states}, {RECIPIENT: waiting} if waiting else {}, frozenset())


def take(recipient: str = RECIPIENT, body: str = DIGEST, at: float = 0.0, **more: str) -> Take:
    return dataclasses.replace(Take(recipient, body, "id@relay", "", at), **more)


def test_what_is_delivered_and_taken_is_well() -> None:
    assert not judge([7], MIX, [take()], standing(State.DELIVERED), ended=True).lost


@pytest.mark.parametrize("state", [State.QUEUED, State.SENDING, State.HELD])
def test_what_waits_with_its_body_is_well_until_the_end(state: State) -> None:
    waiting = standing(state, waiting=DIGEST)
    assert not judge([7], MIX, [], waiting, ended=False).lost
    assert judge([7], MIX, [], waiting, ended=True).mails_lost == 1


@pytest.mark.parametrize(
    ("takes", "found", "why"),
    [
        ([take()], EMPTY, "not in the queue"),
        ([take()], standing(State.DELIVERED, State.DELIVERED), "2 times"),
        ([], standing(State.DELIVERED), "smarthost has nothing"),
        ([take(body="other")], standing(State.DELIVERED), "another body"),
        ([], standing(State.QUEUED), "never comes up"),
        ([], standing(State.HELD, waiting="other"), "another body"),
        ([], standing(State.BOUNCED), "nobody was told"),
        ([], standing(State.EXPIRED), "nobody was told"),
        ([], standing(State.DROPPED), "nobody had asked"),
    ],
)
def test_each_loss_is_seen(takes: list[Take], found: Standing, why: str) -> None:
    assert why in judge([7], MIX, takes, found, ended=False).lost[RECIPIENT]


def test_a_bounce_needs_its_report_sent_or_waiting() -> None:
    mail = made(7, FAILING)
    (recipient,) = mail.recipients
    bounced = {recipient: (State.BOUNCED,)}
    sent = take(mail.sender, "report", reported=recipient)
    assert not judge([7], FAILING, [sent], Standing(bounced, {}, frozenset()), ended=True).lost
    assert not judge([7], FAILING, [], Standing(bounced, {}, frozenset({recipient})), ended=True).lost
    assert judge([7], FAILING, [], Standing(bounced, {}, frozenset()), ended=True).lost


def test_half_a_mail_that_nobody_promised_is_torn() -> None:
    mix = Mix(sizes=((100, 1),), fates=((Fate.TAKEN, 1),), recipients_max=4)
    mail = next(mail for mail in (made(number, mix) for number in range(100)) if len(mail.recipients) > 1)
    whole = dict.fromkeys(mail.recipients, (State.QUEUED,))
    assert not judge([], mix, [], Standing(whole, {}, frozenset()), ended=False).torn
    half = dict(list(whole.items())[1:])
    assert judge([], mix, [], Standing(half, {}, frozenset()), ended=False).torn == {mail.number}


def test_a_copy_is_excused_by_a_cut_between_only() -> None:
    twice = [take(at=10.0), take(at=20.0)]
    assert duplicates(twice, [5.0, 10.5, 30.0]).windows_s == (0.5,)
    assert duplicates(twice, [5.0, 30.0]).unexplained == (RECIPIENT,)
    # The relay's last bytes were read after its death.
    late = dataclasses.replace(take(at=11.0), opened=9.0), take(at=20.0)
    assert duplicates(late, [5.0, 10.5, 30.0]).windows_s == (0.0,)
    assert duplicates(late, [5.0, 30.0]).unexplained == (RECIPIENT,)
    assert duplicates([take(at=10.0)], []) == duplicates([], [])


def test_two_reports_about_one_recipient_are_told_from_one_sent_twice() -> None:
    first, second = (take("plc-7@site.test", "report", reported=RECIPIENT, message_id=name) for name in "ab")
    assert reported_twice([first, first]) == ()
    assert reported_twice([first, second]) == (RECIPIENT,)
