"""What a client may say on port 25, and what it is answered."""

import asyncio
import time

import pytest
import uvloop

from cloudside.errors import UnavailableError
from cloudside.mail.model import Action, Limit, LimitExceededError, Scope, Spilled
from cloudside.mail.watch.sightings import Sight

MAIL = b"From: plc@site.test\r\nSubject: Fault 7\r\n\r\nPump 3 stopped.\r\n"


async def test_a_mail_is_taken_with_all_that_is_known_of_it(desk):
    async with desk() as open_desk:
        client = await (await open_desk.connect()).in_data()
        reply = await client.say(MAIL + b".\r\n")
        assert reply.startswith("250 2.0.0 Queued as ")
        assert (await client.say("QUIT")).startswith("221")
        assert await client.reply() == ""
        (new,) = open_desk.shelf.taken
    assert (new.origin, new.tenant, new.device, new.source) == ("tokyo-1", "acme", "127.0.1.20", "127.0.1.20")
    assert new.sender == "plc@site.test" and new.recipients == ("ops@customer.test",) and new.subject == "Fault 7"
    assert new.head.startswith(b"Received: from plc ([127.0.1.20])") and b"with ESMTP id" in new.head
    assert open_desk.shelf.bodies == [b"Pump 3 stopped.\r\n"]
    assert new.limits == (Limit(Scope.SITE, "tokyo-1", 60, 500, Action.NOTIFY),) and not new.held


async def test_commands_that_come_all_at_once_are_answered_in_order(desk):
    async with desk() as open_desk:
        client = await open_desk.connect()
        envelope = b"MAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA\r\n"
        client.send(b"EHLO plc\r\n" + (envelope + MAIL + b".\r\n") * 3 + b"QUIT\r\n")
        answered = await client.rest()
        assert answered.count("250 2.0.0 Queued") == 3 and answered.endswith("221 2.0.0 Bye\r\n")
        assert len(open_desk.shelf.taken) == 3


async def test_a_client_that_only_stops_sending_gets_its_answers(desk):
    async with desk() as open_desk:
        client = await open_desk.connect()
        client.send(
            b"EHLO plc\r\nMAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA\r\n" + MAIL + b".\r\n"
        )
        client.writer.write_eof()
        assert "250 2.0.0 Queued" in await client.rest()


async def test_a_client_that_leaves_has_its_mail_kept(desk):
    async with desk() as open_desk:
        open_desk.shelf.slow = asyncio.Event()
        client = await (await open_desk.connect()).in_data()
        client.send(MAIL + b".\r\n")
        await asyncio.sleep(0.05)
        client.writer.transport.abort()
        await asyncio.sleep(0.05)
        open_desk.shelf.slow.set()
        async with asyncio.timeout(20):
            while not open_desk.shelf.taken:
                await asyncio.sleep(0.005)


COMMANDS = [
    ("MAIL FROM:<plc@site.test> SIZE=99999999", "552"),
    ("MAIL FROM:<plc@site.test> SIZE=abc", "501"),
    ("MAIL FROM:<plc@site.test> BODY=BINARYMIME", "501"),
    ("MAIL FROM:<plc@site.test> SMTPUTF8", "501"),
    ("MAIL FROM:<plc@site.test> RET=HDRS", "555"),
    ("MAIL FROM:<plc@site.test> BODY=8BITMIME SIZE=100 AUTH=<>", "250"),
    ("MAIL FROM: plc@site.test", "250"),
    ("mail from:<>", "250"),
    ("MAIL FROM:<plc@site.test>X", "553"),
    ("MAIL FROM:<plc@site.test\tX>", "553"),
    ('MAIL FROM:<"plc x"@site.test>', "553"),
    ("MAIL FROM:<@a.test:plc@site.test>", "553"),
    ("MAIL FROM:<plc@[10.0.0.1]>", "553"),
    ("MAIL FROM:<plc>", "553"),
    ("MAIL FROM:<plc@site.test", "553"),
    ("MAIL FROM:<plc@site.test>\rRCPT TO:<x@y.test>", "500"),
    ("MAIL FROM:<plc@site.test>\x00", "500"),
    ("MAIL FROM:<plc\u00e9@site.test>", "500"),
    ("MAIL", "501"),
    ("RCPT TO:<a@b.test>", "503"),
    ("DATA", "503"),
    ("EHLO " + "x" * 2000, "500"),
    ("EHLO", "501"),
    ("VRFY root", "252"),
    ("EXPN staff", "502"),
    ("AUTH PLAIN AHBsYwB4", "502"),
    ("STARTTLS", "502"),
    ("HELP", "250"),
    ("NOOP anything", "250"),
    ("RSET", "250"),
    ("", "500"),
]


async def test_commands_and_their_answers(desk):
    async with desk(connections_per_site=100) as open_desk:
        client = await (await open_desk.connect()).greeted()
        answered = []
        for command, _ in COMMANDS:
            answered.append((command, (await client.say(command))[:3]))
            assert (await client.say("RSET")).startswith("250")
            if command.startswith("EHLO"):
                client = await (await open_desk.connect()).greeted()
    assert answered == COMMANDS


#: What means something else to somebody: source routes, quoted and literal forms, lists, none at all.
STRANGE = [
    "a@b@customer.test", '"a@evil.test"@customer.test', "@evil.test:a@customer.test", "a@[203.0.113.1]", "a@",
    "@b.test", "a", "<>", "a b@customer.test", "a,b@customer.test", "a@customer.test,c@d.test", "postmaster",
    "a@customer.test.",
]  # fmt: skip


async def test_strange_recipients_are_refused(desk):
    async with desk() as open_desk:
        client = await (await open_desk.connect()).greeted()
        await client.say("MAIL FROM:<plc@site.test>")
        for recipient in STRANGE:
            assert (await client.say(f"RCPT TO:<{recipient}>"))[:3] in ("501", "553"), recipient
        assert (await client.say("DATA")).startswith("503")


async def test_nobody_we_do_not_know_relays_through_us(desk):
    async with desk() as open_desk:
        for source in ("127.0.0.1", "127.0.2.20"):  # nobody's address, a revoked site's
            client = await (await open_desk.connect(source=source)).greeted()
            assert (await client.say("MAIL FROM:<a@site.test>")).startswith("550")
            assert (await client.say("RCPT TO:<ops@customer.test>")).startswith("503")
            assert (await client.say("DATA")).startswith("503")
        seen = {(one.source, one.detail) for one in open_desk.sightings.recent(Sight.UNKNOWN_SOURCE, time.time())}
        assert seen == {("127.0.0.1", "mail.unknown-source"), ("127.0.2.20", "mail.site-revoked")}
        assert not open_desk.shelf.taken


@pytest.mark.parametrize("junk", ["GET / HTTP/1.1", "POST / HTTP/1.1", "BDAT 100 LAST"])
async def test_what_is_no_conversation_ends_at_once(desk, junk):
    async with desk() as open_desk:
        client = await (await open_desk.connect()).greeted()
        client.send(f"{junk}\r\nMAIL FROM:<plc@site.test>")
        answered = await client.rest()
        assert answered.startswith("502") and "250" not in answered


async def test_bdat_is_not_offered_and_pipelining_is(desk):
    async with desk() as open_desk:
        client = await open_desk.connect()
        await client.reply()
        offered = (await client.say("EHLO plc")).splitlines()
        assert offered[0] == "250-relay.test"
        assert {line[4:] for line in offered[1:]} == {"PIPELINING", "SIZE 100000", "8BITMIME", "HELP"}


async def test_a_flood_of_commands_ends(desk):
    async with desk() as open_desk:
        client = await (await open_desk.connect()).greeted()
        client.send(b"NOOP\r\n" * 3000)
        answered = await client.rest()
        assert answered.endswith("421 4.7.0 Too many commands without a mail, closing\r\n")
        client = await (await open_desk.connect()).greeted()
        client.send(b"EVIL\r\n" * 10)
        assert (await client.rest()).count("\r\n") == 5


async def test_a_line_without_end_is_answered_and_endless_ones_are_cut(desk):
    async with desk() as open_desk:
        client = await (await open_desk.connect()).greeted()
        assert (await client.say(b"X" * 500_000 + b"\r\n")).startswith("500 Command line too long")
        assert (await client.say("NOOP")).startswith("250")
        client.send(b"X" * 2_000_000)
        await client.rest()  # its answer may be lost: TCP resets a connection that is closed with data unread


async def test_recipients_are_limited(desk):
    async with desk(recipients_max=2) as open_desk:
        client = await (await open_desk.connect()).greeted()
        await client.say("MAIL FROM:<plc@site.test>")
        codes = [(await client.say(f"RCPT TO:<a{number}@customer.test>"))[:3] for number in range(3)]
        assert codes == ["250", "250", "452"]


async def test_mails_a_minute_are_limited(desk):
    async with desk(rate_per_minute=2) as open_desk:
        client = await (await open_desk.connect()).greeted()
        codes = []
        for _ in range(3):
            codes.append((await client.say("MAIL FROM:<plc@site.test>"))[:3])
            await client.say("RSET")
        assert codes == ["250", "250", "450"]


async def test_connections_are_limited_in_total_and_by_site(desk):
    async with desk(connections_max=3, connections_per_site=2) as open_desk:
        first = [await open_desk.connect(source=f"127.0.1.{number}") for number in (1, 2)]
        for client in first:
            await client.greeted()
        assert (await (await open_desk.connect(source="127.0.1.3")).reply()).startswith("421")
        await (await open_desk.connect(source="127.0.0.1")).greeted()
        assert (await (await open_desk.connect(source="127.0.0.9")).reply()).startswith("421")
        await first[0].say("QUIT")
        assert await first[0].reply() == ""
        await (await open_desk.connect(source="127.0.1.3")).greeted()


async def test_idle_connections_end_and_slow_mails_do_not(desk):
    async with desk(idle_s=0.5) as open_desk:
        idle = await (await open_desk.connect()).greeted()
        sender = await (await open_desk.connect()).in_data()
        for _ in range(12):
            sender.send(b"slow: " + b"x" * 60 + b"\r\n")
            await asyncio.sleep(0.1)
        assert (await sender.say(b".\r\n")).startswith("250")
        assert (await idle.rest()).startswith("421 4.4.2 Nothing said")


async def test_a_mail_that_trickles_is_cut(desk, monkeypatch):
    monkeypatch.setattr("cloudside.mail.intake.wire.MINIMUM_BYTES_PER_S", 64_000)
    async with desk(idle_s=0.3) as open_desk:
        sender = await (await open_desk.connect()).in_data()

        async def trickle():
            while True:
                sender.send(b"x")
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        assert (await sender.rest()).startswith("421 4.4.2 Too slow")
        task.cancel()


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        (b"a" * 999 + b"\r\n", "554 5.6.0"),
        (b"Subject: x\r\n\r\n" + b"a" * 998 + b"\r\n", "250"),
        (b"Received: x\r\n" * 31 + b"\r\nx\r\n", "554 5.4.6"),
        (b"X: " + b"y" * 60 + b"\r\n", "250"),
        ((b"X: " + b"y" * 60 + b"\r\n") * 1100, "552 5.3.4 The header section"),
        (b"\r\n" + b"a\r\n" * 40_000, "552 5.3.4 The message"),
        (b"a" * 150_000 + b"\r\n", "552 5.3.4 The message"),
        (b"", "250"),
        (b"\r\n", "250"),
        (b"Subject: \xe6\x95\x85\r\n\r\n\xff\xfe\r\n", "250"),
    ],
)
async def test_a_mail_out_of_bounds_is_refused_and_the_next_one_taken(desk, content, reply):
    async with desk() as open_desk:
        client = await (await open_desk.connect()).in_data()
        assert (await client.say(content + b".\r\n")).startswith(reply)
        client.send(b"MAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA\r\n" + MAIL + b".\r\n")
        assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "354", "250"]


async def test_large_bodies_come_through_a_file(desk):
    body = b"".join(b"%06d line of a report\r\n" % number for number in range(30_000))
    async with desk(max_message_bytes=1_000_000, spill_bytes=4096) as open_desk:
        client = await (await open_desk.connect()).in_data()
        assert (await client.say(b"Subject: report\r\n\r\n" + body + b".\r\n")).startswith("250")
        (new,) = open_desk.shelf.taken
        assert isinstance(new.body, Spilled) and new.size == len(new.head) + 2 + len(body)
        assert open_desk.shelf.bodies == [body]


async def test_when_memory_is_used_up_mail_goes_to_files_or_comes_later(desk):
    async with desk(max_message_bytes=1_000_000) as open_desk:
        memory = open_desk.intake.memory
        memory.tight_bytes, memory.full_bytes = 50_000, 200_000
        small = await (await open_desk.connect()).in_data()
        large = await (await open_desk.connect()).in_data()
        small.send(b"Subject: s\r\n\r\n" + b"small\r\n" * 8000)
        large.send(b"Subject: l\r\n\r\n" + b"large\r\n" * 20_000)
        await asyncio.sleep(0.2)
        assert memory.used < 200_000
        for client in (small, large):
            assert (await client.say(b".\r\n")).startswith("250")
        assert sum(isinstance(new.body, Spilled) for new in open_desk.shelf.taken) >= 1
        memory.full_bytes = -1
        client = await (await open_desk.connect()).in_data()
        client.send(b"Subject: s")
        await asyncio.sleep(0.05)
        assert (await client.say(b"\r\n\r\nx\r\n.\r\n")).startswith("452 4.3.1")


@pytest.mark.parametrize("left", ["in the middle", "refused"])
async def test_no_file_stays_behind(desk, left):
    async with desk(max_message_bytes=200_000, spill_bytes=4096) as open_desk:
        client = await (await open_desk.connect()).in_data()
        client.send(b"Subject: s\r\n\r\n" + b"body\r\n" * 10_000)
        directory = open_desk.config.queue_directory / "incoming"
        async with asyncio.timeout(20):
            while not directory.exists() or not list(directory.iterdir()):
                await asyncio.sleep(0.005)
        if left == "in the middle":
            client.writer.transport.abort()
        else:
            assert (await client.say(b"body\r\n" * 40_000 + b".\r\n")).startswith("552")
        async with asyncio.timeout(20):
            while list(directory.iterdir()):
                await asyncio.sleep(0.005)


async def test_our_own_faults_are_4xx(desk):
    async with desk() as open_desk:
        shelf = open_desk.shelf
        shelf.error = UnavailableError("mail.queue-failed", path="/secret/path", reason="secret reason")
        client = await (await open_desk.connect()).in_data()
        assert (await client.say(MAIL + b".\r\n")) == "451 4.3.0 A fault on our side, try again later\r\n"
        shelf.error = ZeroDivisionError("secret")
        client.send(b"MAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA\r\n" + MAIL + b".\r\n")
        replies = [await client.reply() for _ in range(4)]
        assert replies[3] == "451 4.3.0 A fault on our side, try again later\r\n"
        shelf.full = True
        assert (await client.say("MAIL FROM:<plc@site.test>")).startswith("452")


async def test_a_limit_that_refuses_is_450_and_seen(desk):
    async with desk() as open_desk:
        open_desk.shelf.error = LimitExceededError("mail.limit-exceeded", scope="device", name="127.0.1.20", why="6/5")
        client = await (await open_desk.connect()).in_data()
        reply = await client.say(MAIL + b".\r\n")
        assert reply.startswith("450 4.7.1 The mail limit of device 127.0.1.20 is used up")
        (seen,) = open_desk.sightings.recent(Sight.LIMIT_REFUSED, time.time())
        assert (seen.subject, seen.count, seen.detail) == ("device/127.0.1.20", 1, "Fault 7")


async def test_who_is_told_to_finish_finishes_its_mail_first(desk):
    async with desk() as open_desk:
        idle = await (await open_desk.connect()).greeted()
        sender = await (await open_desk.connect()).in_data()
        for connection in tuple(open_desk.intake.site.connections):
            connection.finish()
        assert (await idle.rest()).startswith("421")
        sender.send(MAIL + b".\r\n")
        answered = await sender.rest()
        assert answered.startswith("250 2.0.0 Queued") and "421 4.3.2" in answered


#: The relay's loop is not the one that tests run on.
ON_UVLOOP = [
    test_commands_that_come_all_at_once_are_answered_in_order,
    test_a_client_that_only_stops_sending_gets_its_answers,
    test_a_client_that_leaves_has_its_mail_kept,
    test_a_flood_of_commands_ends,
    test_large_bodies_come_through_a_file,
    test_when_memory_is_used_up_mail_goes_to_files_or_comes_later,
    test_idle_connections_end_and_slow_mails_do_not,
    test_who_is_told_to_finish_finishes_its_mail_first,
]


@pytest.mark.parametrize("number", range(len(ON_UVLOOP)))
def test_the_same_on_uvloop(desk, number):
    uvloop.run(ON_UVLOOP[number](desk))
