"""The door for bounces: whom it listens to, how often, how much of it; and what it writes down."""

import asyncio
from contextlib import asynccontextmanager

import aiosmtplib
import pytest
from bounce_corpus import shapes
from bounce_world import DOMAIN, KEYS, NOTIFY, RECIPIENT, SENDER, BounceWorld

from cloudside.mail.bounces import listener, verp
from cloudside.mail.bounces.listener import BounceHandler
from cloudside.mail.bounces.rates import Rate
from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.gate import Gate
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.spool import Memory, Spool

SHAPES = {shape.name: shape for shape in shapes()}


@pytest.fixture
async def mail(tmp_path):
    world = BounceWorld.at(tmp_path)
    yield world
    world.queue.close()


@asynccontextmanager
async def opened(handler, spool=None):
    """The handler on a real socket; its port."""
    door = Door(Server, handler, name="bounce", host_name="relay.test", size_max=2_000_000, gate=Gate(50, 50),
                memory=Memory(), spool=spool, **({} if spool is None else {"normalise": False}))  # fmt: skip
    server = await asyncio.get_running_loop().create_server(door.connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in tuple(door.connections):
            connection.abort()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def client(port):
    async with aiosmtplib.SMTP(
        hostname="127.0.0.1", port=port, start_tls=False, local_hostname="mx", timeout=10
    ) as one:
        yield one


async def hand_in(port, address, raw, sender=""):
    async with client(port) as one:
        return await one.sendmail(sender, [address], raw)


async def test_a_failure_is_reported_once_however_often_it_comes(mail):
    mail.notify = NOTIFY
    number = await mail.sent()
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        for _ in range(3):
            await hand_in(port, mail.address(number), SHAPES["postfix-unknown"].raw)
    entry = await mail.entry(number)
    assert (entry.state, entry.outcome) == ("bounced", "permanent") and entry.reply.startswith("5.1.1 550 5.1.1")
    assert set(await mail.letters()) == {SENDER, NOTIFY} and mail.wakes == 1
    assert [one.cause for one in await mail.queue.suppressing()] == ["bounce"]


@pytest.mark.parametrize(
    ("shape", "state", "event", "suppressed"),
    [
        ("postfix-delayed", "delivered", "report-delayed", 0),
        ("postfix-success", "delivered", "report-delivered", 0),
        ("microsoft365-out-of-office", "delivered", "report-auto-reply", 0),
        ("a-person-answers", "delivered", "report-unclear", 0),
        ("postfix-too-large", "bounced", "bounced", 0),
        ("postfix-quota-temporary-given-up", "bounced", "bounced", 0),
        ("complaint-arf", "delivered", "complained", 1),
    ],
)
async def test_what_a_report_changes(mail, shape, state, event, suppressed):
    number = await mail.sent()
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        for _ in range(2):
            await hand_in(port, mail.address(number), SHAPES[shape].raw, SHAPES[shape].sender)
    assert (await mail.entry(number)).state == state
    assert event in await mail.events(number)
    assert len(await mail.queue.suppressing()) == suppressed
    told = state == "bounced" or event == "complained"
    assert len(await mail.letters()) == mail.wakes == int(told)


async def test_bounces_of_our_own_letters_are_absorbed(mail):
    from cloudside.mail.model import Kind

    number = await mail.sent(kind=Kind.DSN, origin="", tenant="", sender="", automatic=True)
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        await hand_in(port, mail.address(number, own=True), SHAPES["postfix-unknown"].raw)
    assert (await mail.entry(number)).state == "bounced"
    assert not await mail.letters() and not await mail.queue.suppressing()


async def test_only_signed_addresses_are_taken_and_guessing_is_slowed(mail):
    number = await mail.sent()
    good = mail.address(number)
    forged = good.replace(good[5], "a" if good[5] != "a" else "b", 1)
    foreign = verp.compose(verp.ReturnAddress(number, 0, own=False), key=bytes(32), domain=DOMAIN)
    handler = BounceHandler(mail.recorder, KEYS, DOMAIN)
    async with opened(handler) as port:
        for address in (forged, foreign, "someone@customer.test", f"b+@{DOMAIN}", f"postmaster@{DOMAIN}"):
            with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
                await hand_in(port, address, b"Subject: x\r\n\r\nx\r\n")
            assert refused.value.recipients[0].code == 550
        async with client(port) as one:
            await one.ehlo()
            await one.mail("")
            codes = []
            for _ in range(listener.GUESSES_AT_ONCE + 5):
                codes.append((await one.execute_command(b"RCPT", b"TO:<" + forged.encode() + b">")).code)
            assert codes[0] == 550 and codes[-1] == 450
    assert (await mail.entry(number)).state == "delivered"


async def test_an_address_has_a_rate(mail, monkeypatch):
    monkeypatch.setattr(listener, "BOUNCES_AT_ONCE", 3)
    monkeypatch.setattr(listener, "BOUNCES_PER_MINUTE", 0.1)  # none comes back while this runs
    number = await mail.sent()
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        codes = []
        for _ in range(5):
            try:
                await hand_in(port, mail.address(number), SHAPES["postfix-delayed"].raw)
                codes.append(250)
            except aiosmtplib.SMTPDataError as error:
                codes.append(error.code)
    assert codes == [250, 250, 250, 450, 450]


async def test_bare_line_ends_are_refused(mail):
    number = await mail.sent()
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        for bad in (b"Subject: x\n.\nMAIL FROM:<a@b.c>", b"Subject: x\r\n\r\na\rb", b"Subject: x\r\n\r\na\nb"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<" + mail.address(number).encode() + b">\r\nDATA\r\n")
            writer.write(bad + b"\r\n.\r\nQUIT\r\n")
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            assert b"554 5.6.0" in answer and answer.count(b"250 2.0.0 Noted") == 0
    assert (await mail.entry(number)).state == "delivered"


async def test_a_large_bounce_goes_through_a_file_that_is_gone_afterwards(mail, tmp_path):
    number = await mail.sent()
    directory = tmp_path / "incoming"
    directory.mkdir()
    spool = Spool(directory, spill_bytes=10_000, require_space=lambda _size: None)
    padding = b"X" * 70 + b"\r\n"
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN), spool) as port:
        await hand_in(port, mail.address(number), SHAPES["postfix-unknown"].raw + padding * 15_000)
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as refused:  # it says how large its mail is
            await hand_in(port, mail.address(number), SHAPES["postfix-unknown"].raw + padding * 40_000)
        assert refused.value.code == 552
    spool.close()
    assert (await mail.entry(number)).state == "bounced"
    assert not list(directory.iterdir())


async def test_a_bounce_for_a_forgotten_mail_is_taken_and_changes_nothing(mail):
    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        await hand_in(port, mail.address(424242), SHAPES["postfix-unknown"].raw)
    assert not mail.meanings and not await mail.letters()


async def test_a_queue_that_is_away_makes_the_server_come_again(mail, monkeypatch):
    from cloudside.mail.store.engine import StorageFullError
    from cloudside.mail.store.queue import Queue

    number = await mail.sent()
    really = Queue.fail

    async def fail(*_args, **_options):
        raise StorageFullError("mail.disk-full", path="x")

    async with opened(BounceHandler(mail.recorder, KEYS, DOMAIN)) as port:
        monkeypatch.setattr(Queue, "fail", fail)
        with pytest.raises(aiosmtplib.SMTPDataError) as postponed:
            await hand_in(port, mail.address(number), SHAPES["postfix-unknown"].raw)
        assert postponed.value.code == 452
        monkeypatch.setattr(Queue, "fail", really)
        await hand_in(port, mail.address(number), SHAPES["postfix-unknown"].raw)
    assert (await mail.entry(number)).state == "bounced" and list(await mail.letters()) == [SENDER]
    assert RECIPIENT in (await mail.entry(number)).recipient


def test_rates_refill_and_forget():
    rate = Rate(per_minute=60, burst=2)
    assert [rate.take("a", 0), rate.take("a", 0), rate.take("a", 0), rate.take("b", 0)] == [True, True, False, True]
    assert not rate.allows("a", 0.5) and rate.allows("a", 1.1)
    assert [rate.take("a", 100), rate.take("a", 100), rate.take("a", 100)] == [True, True, False]
    # One IPv6 customer has 2^64 addresses.
    assert [rate.take(f"2001:db8::{one}", 0) for one in range(3)] == [True, True, False]
    for one in range(20_000):
        rate.take(f"10.0.{one >> 8}.{one & 255}", 0)
    assert len(rate._buckets) <= 10_000
