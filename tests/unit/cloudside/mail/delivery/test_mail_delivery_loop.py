"""The loop of delivery: what goes first, what rests, what comes back, what is told."""

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from scripted_smarthost import QUICK, Desk, Do, Scripted, attempt

from cloudside.errors import UnavailableError
from cloudside.mail.bounces import dsn
from cloudside.mail.delivery import delivery as module
from cloudside.mail.delivery import settling
from cloudside.mail.delivery.delivery import Delivery, Schedule
from cloudside.mail.delivery.outcome import Verdict
from cloudside.mail.delivery.pacer import Pacer
from cloudside.mail.delivery.quota import Reading
from cloudside.mail.delivery.sending import ReturnPath, Sender
from cloudside.mail.delivery.settling import Settler
from cloudside.mail.delivery.smarthost import Sessions
from cloudside.mail.delivery.supply import SupplyWatch
from cloudside.mail.intake.origins import Suppressed
from cloudside.mail.metrics import Metrics
from cloudside.mail.model import Kind, State

VOICE = dsn.Voice("relay.test", "kyoten@kyoten.test", "en")
RATE = "454 Throttling failure: Maximum sending rate exceeded."
DAY = "454 Throttling failure: Daily message quota exceeded."


class Account:
    """An account that says what it is told to."""

    def __init__(self, most=1000.0, sent=0.0, rate=0.0):
        self.most, self.sent, self.rate, self.asked = most, sent, rate, 0
        self.fault = None

    async def read(self, now):
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return Reading(now.timestamp(), self.most, self.sent, self.rate)


class World:
    def __init__(self, host, tmp_path, monkeypatch):
        self.host, self.tmp_path, self.desk = host, tmp_path, Desk()
        self.metrics = Metrics()
        monkeypatch.setattr(module, "POLL_S", 0.05)
        monkeypatch.setattr(settling, "AGAIN_S", 0.05)
        monkeypatch.setattr(settling, "THROTTLED_S", 0.05)

    @asynccontextmanager
    async def delivering(
        self, *, connections=2, rate=0.0, account=None, suppressed=None, first_s=0.2, give_up_s=60.0, poll_s=0.05
    ):
        sessions = Sessions(self.host.smarthost(self.tmp_path, None), "relay.test", QUICK)
        settler = Settler(
            self.desk,
            Schedule(first_s, 2 * first_s, give_up_s),
            VOICE,
            notify={"tokyo-1": "owner@site.test"}.get,
            metrics=self.metrics,
        )
        supply = None if account is None else SupplyWatch(account, poll_s=poll_s, reserve_pct=10)
        made = Delivery(
            self.desk,
            sessions,
            Sender(sessions, ReturnPath((b"k" * 32,), "bounces.test")),
            settler,
            connections=connections,
            longest_rest_s=first_s,
            pacer=Pacer(rate),
            supply=supply,
            suppressed=suppressed or module.nobody,
            metrics=self.metrics,
        )
        settler.on_reports(made.wake)
        stop = asyncio.Event()
        task = asyncio.create_task(made.run(stop))
        try:
            yield made
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with Scripted().running() as host:
        yield World(host, tmp_path, monkeypatch)


async def until(true, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.005)


async def test_everything_goes_out_once_over_few_connections(world):
    world.desk.put(*[attempt(number) for number in range(1, 301)])
    async with world.delivering(connections=4) as delivery:
        await world.desk.settled(300)
        assert delivery.tried and delivery.trouble is None
    assert len(world.host.taken) == 300 and world.host.most_open <= 4
    assert not world.desk.sending and world.host.quits == world.host.sessions
    assert world.desk.delivered_ones[1][1].startswith("0100-ses-")
    assert len(world.desk.claims) < 100
    assert b'finished_total{state="delivered"} 300.0' in world.metrics.text()


async def test_new_mail_does_not_wait_for_the_next_look(world, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 30.0)
    async with world.delivering() as delivery:
        await asyncio.sleep(0.1)
        for number in range(1, 6):
            world.desk.put(attempt(number))
            delivery.wake()
            began = time.monotonic()
            await world.desk.settled(number)
            assert time.monotonic() - began < 0.5


async def test_urgent_mail_overtakes_what_waits(world):
    world.desk.put(*[attempt(number) for number in range(1, 201)])
    async with world.delivering(connections=8, rate=10.0) as delivery:
        await until(lambda: len(world.host.taken) > 2)
        world.desk.put(attempt(999, recipient="fire@customer.test", urgent=True))
        delivery.wake()
        before = len(world.host.taken)
        await until(lambda: any(one.recipient == "fire@customer.test" for one in world.host.taken))
        assert len(world.host.taken) - before <= 10 * module.AHEAD_S + 2


async def test_the_rate_is_kept(world):
    world.desk.put(*[attempt(number) for number in range(1, 101)])
    async with world.delivering(connections=8, rate=40.0):
        await asyncio.sleep(1.0)
        assert 25 <= len(world.host.taken) <= 44


async def test_what_the_account_says_is_the_rate_unless_the_configuration_does(world):
    world.desk.put(*[attempt(number) for number in range(1, 101)])
    async with world.delivering(connections=8, account=Account(rate=20.0)) as delivery:
        await asyncio.sleep(1.0)
        assert len(world.host.taken) <= 60  # those before the first answer, and then 20 a second
        assert delivery._pacer.limit == 20
    async with world.delivering(connections=8, rate=70.0, account=Account(rate=20.0)) as delivery:
        await asyncio.sleep(0.2)
        assert delivery._pacer.limit == 70


async def test_too_fast_slows_down_and_uses_up_no_tries(world):
    world.host.script = {"mail": ["250 Ok"] * 20 + [RATE] * 3}
    world.desk.put(*[attempt(number) for number in range(1, 41)])
    async with world.delivering(connections=4) as delivery:
        await until(lambda: len(world.desk.postponed) == 3)
        assert delivery._pacer.rate(time.monotonic()) > 0 and delivery.trouble is None
        await world.desk.settled(40, 20)
    assert all(not counted and reply == RATE for _, _, reply, counted in world.desk.postponed)
    assert len(world.host.taken) == 40


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        ({"mail": [DAY]}, Verdict.QUOTA),
        ({"mail": ["530 Authentication required"]}, Verdict.REFUSED),
        ({"connect": ["421 come later"]}, Verdict.UNREACHABLE),
        ({"connect": [Do.CLOSE]}, Verdict.UNREACHABLE),
        ({"end": ["554 Message rejected: Sending paused for this account."]}, Verdict.REFUSED),
    ],
)
async def test_faults_that_are_no_mails_rest_the_queue_and_say_so(world, script, verdict):
    world.host.script = script
    world.desk.put(*[attempt(number) for number in range(1, 11)])
    # Each fault again for the probe; then all is well.
    for answers in script.values():
        answers += answers
    async with world.delivering(connections=1, first_s=0.4) as delivery:
        await until(lambda: delivery.trouble is not None)
        trouble = delivery.trouble
        assert trouble.verdict is verdict and trouble.reply and abs(trouble.since - time.time()) < 5
        await until(lambda: not world.desk.sending, 2)
        await world.desk.settled(10, 10)
        assert delivery.trouble is None
    assert not any(counted for *_, counted in world.desk.postponed)
    assert len(world.host.taken) == 10 and not world.desk.failed


async def test_after_a_rest_one_mail_goes_first(world):
    world.host.script = {"connect": ["421 no"] * 11}
    world.desk.put(*[attempt(number) for number in range(1, 31)])
    async with world.delivering(connections=8, first_s=0.2):
        await world.desk.settled(30, 15)
    connected = world.host.connected_at
    assert connected[7] - connected[0] < 0.15  # all at once,
    assert all(later - earlier > 0.15 for earlier, later in pairwise(connected[7:12]))  # then one at a time


async def test_while_it_rests_nothing_stays_claimed(world):
    world.host.script = {"mail": ["250 Ok", DAY]}
    world.desk.put(*[attempt(number) for number in range(1, 31)])
    async with world.delivering(connections=1, first_s=5.0) as delivery:
        await until(lambda: delivery.trouble is not None)
        await until(lambda: not world.desk.sending, 1)
        assert len(world.desk.queued) == 29 and {reply for _, _, reply, _ in world.desk.postponed} == {DAY}


async def test_temporary_failures_are_tried_again_and_given_up_in_the_end(world):
    world.host.script = {"rcpt": ["450 4.2.1 busy"] * 2}
    world.desk.put(attempt(1))
    async with world.delivering(first_s=0.1):
        await world.desk.settled(1)
    assert [(round(delay, 2), counted) for _, delay, _, counted in world.desk.postponed] == [(0.1, True)] * 2
    world.host.script = {"rcpt": ["450 4.2.1 busy"] * 9}
    world.desk.put(attempt(2, attempts=5, accepted_at=time.time() - 59.95))
    async with world.delivering(first_s=0.1):
        await world.desk.settled(2)
    state, reply, permanent, suppress = world.desk.failed[2]
    assert (state, reply, permanent, suppress) == (State.EXPIRED, "450 4.2.1 busy", False, "")
    assert [report.recipients for report in world.desk.reports] == [("plc@site.test",), ("owner@site.test",)]


@pytest.mark.parametrize(
    ("reply", "suppress"),
    [("550 5.1.1 user unknown", "bounce"), ("554 Message rejected: Email address is not verified.", ""),
     ("552 5.3.4 too large", "")],
)  # fmt: skip
async def test_a_refusal_for_good_is_told_at_once(world, reply, suppress):
    world.host.script = {"end": [reply]}
    world.desk.put(attempt(1))
    async with world.delivering():
        await world.desk.settled(1)
    assert world.desk.failed[1] == (State.BOUNCED, reply, True, suppress)
    assert len(world.desk.reports) == 2


@pytest.mark.parametrize("change", [{"kind": Kind.DSN}, {"kind": Kind.NOTICE}, {"automatic": True}])
async def test_nobody_is_told_of_our_own_mail_or_of_auto_replies(world, change):
    world.host.script = {"rcpt": ["550 5.1.1 user unknown"]}
    world.desk.put(attempt(1, **change))
    async with world.delivering():
        await world.desk.settled(1)
    assert not world.desk.reports


def on_the_list(cause="bounce", expires_at=1_800_086_400.0):
    found = Suppressed("gone@customer.test", cause, "550 5.1.1 unknown", "00ff", 1_800_000_000.0, expires_at)
    return lambda tenant, address: found if (tenant, address) == ("acme", "gone@customer.test") else None


@pytest.mark.parametrize("cause", ["bounce", "complaint", "manual"])
async def test_a_suppressed_address_gets_nothing_and_the_sender_learns_why(world, cause):
    world.desk.put(attempt(1, recipient="gone@customer.test"), attempt(2))
    async with world.delivering(suppressed=on_the_list(cause)):
        await world.desk.settled(2)
    assert [one.recipient for one in world.host.taken] == ["ops@customer.test"]
    state, why, permanent, suppress = world.desk.failed[1]
    assert (state, permanent, suppress) == (State.BOUNCED, True, "")
    assert "2027-01-15 08:00 UTC" in why and "550 5.1.1 unknown" in why
    assert "kyoten mail suppressions remove gone@customer.test --tenant acme" in why
    assert "2027-01-16" in why
    assert len(world.desk.reports) == 2


async def test_suppression_is_the_tenants_mail_alone_and_may_have_no_end(world):
    world.desk.put(attempt(1, recipient="gone@customer.test", kind=Kind.NOTICE))
    async with world.delivering(suppressed=on_the_list()):
        await world.desk.settled(1)
        world.desk.put(attempt(2, recipient="gone@customer.test"))
    assert len(world.host.taken) == 1
    async with world.delivering(suppressed=on_the_list(expires_at=None)):
        await world.desk.settled(2)
    assert "stays there until" in world.desk.failed[2][1]


async def test_the_reserve_is_for_urgent_mail_and_notices(world):
    account = Account(most=1000.0, sent=895.0)
    world.desk.put(*[attempt(number) for number in range(1, 41)])
    async with world.delivering(connections=1, account=account, poll_s=30.0) as delivery:
        await until(lambda: delivery.trouble is not None)
        await asyncio.sleep(0.2)
        trouble, sent = delivery.trouble, len(world.host.taken)
        assert trouble.verdict is Verdict.RESERVE and "of 1000 left" in trouble.reply
        assert 5 <= sent <= 8 and not world.desk.sending
        world.desk.put(attempt(100, urgent=True), attempt(101, kind=Kind.NOTICE))
        delivery.wake()
        await until(lambda: len(world.host.taken) == sent + 2)
        assert delivery.quota.left < 100 and delivery.quota.reserve == 100
    assert world.desk.claims[-1][1] and not any(counted for *_, counted in world.desk.postponed)


async def test_the_reserve_is_over_when_enough_came_back(world):
    account = Account(most=1000.0, sent=950.0)
    async with world.delivering(account=account) as delivery:
        await until(lambda: delivery.trouble is not None)
        world.desk.put(*[attempt(number) for number in range(1, 11)])
        await asyncio.sleep(0.15)
        assert not world.host.taken
        account.sent = 890.0  # back above the reserve, but not by enough
        await asyncio.sleep(0.15)
        assert delivery.trouble is not None
        account.sent = 500.0
        await world.desk.settled(10)
        assert delivery.trouble is None


async def test_without_an_answer_from_the_account_mail_goes_on_and_it_is_said(world):
    account = Account()
    account.fault = UnavailableError("delivery.ses-silent", endpoint="https://ses.test", reason="timeout")
    world.desk.put(attempt(1))
    async with world.delivering(account=account) as delivery:
        await world.desk.settled(1)
        assert delivery.quota is None and "https://ses.test" in delivery.quota_error
    account.fault = None
    async with world.delivering(account=account) as delivery:
        await until(lambda: delivery.quota is not None)
        assert delivery.quota_error == "" and delivery.quota.max_24h == 1000
        account.fault = ValueError("a bug")
        await until(lambda: delivery.quota_error)
        assert delivery.quota is not None


async def test_an_outcome_that_cannot_be_written_is_kept_and_not_sent_twice(world):
    world.desk.put(*[attempt(number) for number in range(1, 4)])
    world.desk.faults = [UnavailableError("mail.disk-full", path="/x")] * 5
    async with world.delivering():
        await world.desk.settled(3)
    assert len(world.host.taken) == 3


async def test_a_full_disk_does_not_let_mails_pile_up_that_a_crash_would_send_again(world, monkeypatch):
    monkeypatch.setattr(settling, "UNWRITTEN_MAX", 5)
    world.desk.put(*[attempt(number) for number in range(1, 101)])
    world.desk.faults = [UnavailableError("mail.disk-full", path="/x")] * 10_000
    async with world.delivering(connections=2):
        await asyncio.sleep(0.5)
        assert len(world.host.taken) <= 5 + 2
        world.desk.faults.clear()
        await world.desk.settled(100)


async def test_a_queue_that_fails_for_a_while_is_asked_again(world):
    async with world.delivering() as delivery:
        claim, world.desk.claim = world.desk.claim, None  # a bug, even
        await asyncio.sleep(0.2)
        world.desk.claim = claim
        world.desk.put(attempt(1))
        delivery.wake()
        await world.desk.settled(1)


async def test_after_a_crash_mail_goes_one_by_one_at_first(world):
    """A mail that ends the process must not make poison of its neighbours."""
    world.desk.put(*[attempt(number) for number in range(1, 31)])
    most = []
    claim = world.desk.claim

    async def watched(now, limit, *, urgent_only=False):
        claimed = await claim(now, limit, urgent_only=urgent_only)
        most.append((len(world.desk.delivered_ones), len(world.desk.sending)))
        return claimed

    world.desk.claim = watched
    async with world.delivering(connections=4) as delivery:
        delivery.begin_carefully(10)
        await world.desk.settled(30)
    # One more may be sent but not written down yet.
    assert all(sending <= 2 for done, sending in most if done < 9)
    assert any(sending > 4 for done, sending in most if done >= 9)


async def test_at_the_end_transactions_finish_and_the_rest_goes_back(world):
    world.host.delay_s = 0.2
    world.desk.put(*[attempt(number) for number in range(1, 31)])
    async with world.delivering(connections=3):
        await until(lambda: world.host.open_now == 3)
    assert not world.desk.sending
    assert len(world.desk.delivered_ones) == len(world.host.taken) <= 6
    assert len(world.desk.queued) == 30 - len(world.host.taken)
    assert not any(counted for *_, counted in world.desk.postponed)


async def test_a_smarthost_with_fewer_places_than_we_would_take(world):
    """SES: 421 Too many concurrent SMTP connections. The others go on, and nothing rests."""
    world.host.delay_s = 0.05
    world.host.script = {"connect": ["220 hello", *["421 Too many concurrent SMTP connections"] * 2]}
    world.desk.put(attempt(1))
    async with world.delivering(connections=3) as delivery:
        await world.desk.settled(1)
        world.desk.put(*[attempt(number) for number in range(2, 22)])
        delivery.wake()
        await world.desk.settled(21)
        assert delivery.trouble is None and delivery._lanes_max < 3
    assert not world.desk.postponed


async def test_a_bug_met_by_one_mail_is_that_mails_failure(world):
    broken = attempt(1)
    object.__setattr__(broken, "body", None)
    world.desk.put(broken, attempt(2))
    async with world.delivering(first_s=5.0):
        await world.desk.settled(1)
        await until(lambda: world.desk.postponed)
    assert world.desk.postponed[0][0] == 1 and world.desk.postponed[0][3]
    assert list(world.desk.delivered_ones) == [2]


async def test_the_log_names_no_address_and_no_reply(world, capsys):
    world.host.script = {"rcpt": ["550 5.1.1 <ops@customer.test> unknown here"]}
    world.desk.put(attempt(1))
    async with world.delivering():
        await world.desk.settled(1)
    printed = capsys.readouterr()
    assert "mail-attempt" in printed.out + printed.err
    assert "customer" not in printed.out + printed.err and "Pump" not in printed.out + printed.err
