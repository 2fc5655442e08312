"""One mail to a smarthost that misbehaves at each stage: the time is bounded and the outcome is the right one."""

import asyncio
import ssl
import time
import tracemalloc

import pytest
from scripted_smarthost import ENDLESS, GARBAGE, MANY_LINES, QUICK, Do, Scripted, attempt

from cloudside.mail.delivery import smarthost as smarthost_module
from cloudside.mail.delivery.conversation import PIECE_BYTES
from cloudside.mail.delivery.outcome import Verdict
from cloudside.mail.delivery.sending import CrowdedError, ReturnPath, Sender
from cloudside.mail.delivery.smarthost import Sessions

RETURN_PATH = ReturnPath((b"k" * 32,), "bounces.test")
TEMPORARY, UNREACHABLE, REFUSED = Verdict.TEMPORARY, Verdict.UNREACHABLE, Verdict.REFUSED


@pytest.fixture(params=["plain", "tls"])
async def host(request, certificate):
    """Both ways: an answer takes different paths through TLS."""
    context = None
    if request.param == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
    async with Scripted(context).running() as scripted:
        yield scripted


ONLY_TLS = pytest.mark.parametrize("host", ["tls"], indirect=True)


@pytest.fixture
def sessions(host, tmp_path, certificate):
    made = Sessions(host.smarthost(tmp_path, certificate.certificate), "relay.test", QUICK)
    yield made
    made.close()


@pytest.fixture
def sender(sessions):
    return Sender(sessions, RETURN_PATH)


async def timed(sender, mail, within_s=3.0):
    async with asyncio.timeout(within_s):
        return await sender.send(mail)


@pytest.mark.parametrize("extensions", [("PIPELINING", "8BITMIME", "SIZE 1000000"), ()])
async def test_a_mail_goes_out_as_it_is(host, sender, extensions):
    host.extensions = extensions
    body = "\r\n.\r\n..two\r\ncafé \xff\r\n".encode("latin-1") + b"x" * 5000 + b"\r\n. \r\n.end\r\n"
    mail = attempt(body=body)
    outcome = await timed(sender, mail)
    assert outcome.verdict is Verdict.DELIVERED and outcome.remote_id == "0100-ses-1"
    assert outcome.reply == "250 Ok 0100-ses-1"
    (taken,) = host.taken
    assert taken.content == mail.head + b"\r\n" + body
    assert taken.recipient == "ops@customer.test"
    assert taken.sender.startswith("b+") and taken.sender.endswith("@bounces.test")
    assert taken.parameters == (f"SIZE={mail.size} BODY=8BITMIME" if extensions else "")


async def test_sessions_are_kept_and_used_again(host, sender, sessions):
    for number in range(1, 6):
        assert (await timed(sender, attempt(number))).verdict is Verdict.DELIVERED
    assert host.sessions == 1 and host.resets == 0 and sessions.count == 1
    sessions.close()
    async with asyncio.timeout(2):
        while not host.quits:
            await asyncio.sleep(0.01)
    assert sessions.count == 0


async def test_a_session_idle_for_long_is_closed_and_not_used(host, sender, sessions, monkeypatch):
    monkeypatch.setattr(smarthost_module, "IDLE_MAX_S", 0.05)
    await timed(sender, attempt(1))
    await asyncio.sleep(0.1)
    sessions.tidy()
    assert sessions.count == 0
    await timed(sender, attempt(2))
    assert host.sessions == 2 and host.quits == 1


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
@pytest.mark.parametrize(
    ("script", "verdict", "reply"),
    [
        ({"mail": ["454 Throttling failure: Maximum sending rate exceeded."]}, Verdict.THROTTLED, "454"),
        ({"mail": ["454 Throttling failure: Daily message quota exceeded."]}, Verdict.QUOTA, "454"),
        ({"end": ["454 Throttling failure: Maximum sending rate exceeded."]}, Verdict.THROTTLED, "454"),
        ({"mail": ["530 Authentication required"]}, REFUSED, "530"),
        ({"rcpt": ["550 5.1.1 no such user"]}, Verdict.PERMANENT, "550"),
        ({"rcpt": ["450 4.2.1 later"]}, TEMPORARY, "450"),
        ({"data": ["451 no room"]}, TEMPORARY, "451"),
        ({"end": ["554-Message rejected:\n554 not verified"]}, Verdict.PERMANENT, "554"),
        ({"mail": ["250-first\n250 second"], "end": ["354 what?"]}, TEMPORARY, "354"),
        ({"rcpt": ["354 odd"], "data": ["250 odd"]}, TEMPORARY, "354"),
    ],
)
async def test_refusals_have_their_verdict_and_the_session_lives(host, sender, extensions, script, verdict, reply):
    host.extensions = extensions
    host.script = {stage: list(texts) for stage, texts in script.items()}
    outcome = await timed(sender, attempt(1))
    assert outcome.verdict is verdict and outcome.reply.startswith(reply)
    assert (await timed(sender, attempt(2))).verdict is Verdict.DELIVERED
    assert host.sessions == 1


async def test_a_smarthost_that_wants_the_text_for_nobody_gets_none(host, sender):
    """RFC 2920 3.1: a server may answer a pipelined DATA with 354 though it refused the recipient."""
    host.script = {"rcpt": ["550 5.1.1 no such user"], "data": ["354 go on"]}
    assert (await timed(sender, attempt(1))).verdict is Verdict.PERMANENT
    assert (await timed(sender, attempt(2))).verdict is Verdict.DELIVERED
    assert host.sessions == 1 and len(host.taken) == 1


STAGES = {
    "connect": UNREACHABLE,
    "ehlo": UNREACHABLE,
    "mail": TEMPORARY,
    "rcpt": TEMPORARY,
    "data": TEMPORARY,
    "end": TEMPORARY,
}


@pytest.mark.parametrize("fault", [Do.STALL, Do.CLOSE, Do.RUDE, GARBAGE, ENDLESS, MANY_LINES],
                         ids=["stall", "close", "rude", "garbage", "endless", "many"])  # fmt: skip
@pytest.mark.parametrize(("stage", "verdict"), STAGES.items())
async def test_faults_at_each_stage_of_a_new_session(host, sender, sessions, stage, verdict, fault):
    host.script = {stage: [fault]}
    began = time.monotonic()
    outcome = await timed(sender, attempt(1))
    assert outcome.verdict is verdict, outcome
    assert time.monotonic() - began < 2.0 and len(outcome.reply) <= 400
    assert sessions.count == 0
    assert (await timed(sender, attempt(2))).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("fault", [Do.STALL, Do.CLOSE, Do.RUDE], ids=["stall", "close", "rude"])
async def test_a_break_in_the_middle_of_the_text(host, sender, fault):
    host.script = {"body": [fault]}
    outcome = await timed(sender, attempt(1, body=b"line of text\r\n" * 400_000), within_s=8)
    assert outcome.verdict is TEMPORARY
    assert not host.taken


@ONLY_TLS
@pytest.mark.parametrize("fault", [Do.STALL, Do.CLOSE, Do.RUDE, "454 no TLS now", "500 no"])
async def test_faults_of_tls(host, sender, fault):
    host.script = {"starttls": [fault]}
    outcome = await timed(sender, attempt(1))
    assert outcome.verdict is (REFUSED if fault == "500 no" else UNREACHABLE)


@ONLY_TLS
async def test_no_starttls_and_a_foreign_certificate_are_refusals(host, tmp_path, certificate, sender):
    other = Sender(Sessions(host.smarthost(tmp_path, None), "relay.test", QUICK), RETURN_PATH)
    assert (await timed(other, attempt(1))).verdict is REFUSED
    host.script = {"ehlo": ["250 Ok"]}
    assert (await timed(sender, attempt(1))).verdict is REFUSED
    assert not host.taken and not host.logins


@ONLY_TLS
@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        ({"login": ["535 Authentication Credentials Invalid"]}, REFUSED),
        ({"login": ["454 Temporary authentication failure"]}, UNREACHABLE),
        ({"login": [Do.STALL]}, UNREACHABLE),
        ({"login": [GARBAGE]}, UNREACHABLE),
    ],
)
async def test_logins(host, sender, script, verdict):
    host.script = script
    assert (await timed(sender, attempt(1))).verdict is verdict
    assert host.logins == 1


@ONLY_TLS
async def test_a_missing_credential_file_is_a_refusal_that_tells_nothing(host, sender, tmp_path):
    (tmp_path / "smarthost.credentials").write_text("only-a-user-name\n")
    outcome = await timed(sender, attempt(1))
    assert outcome.verdict is REFUSED and outcome.reply == "mail.credentials-malformed"


async def test_nobody_listens(tmp_path):
    sessions = Sessions(Scripted(port=1).smarthost(tmp_path, None), "relay.test", QUICK)
    outcome = await timed(Sender(sessions, RETURN_PATH), attempt(1))
    assert outcome.verdict is UNREACHABLE


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
@pytest.mark.parametrize("fault", [Do.CLOSE, Do.RUDE, "421 Too long idle", "451 4.4.2 Timeout waiting for data"])
async def test_a_kept_session_that_died_is_replaced_and_nobody_notices(host, sender, stage, fault):
    assert (await timed(sender, attempt(1))).verdict is Verdict.DELIVERED
    host.script = {stage: [fault]}
    assert (await timed(sender, attempt(2))).verdict is Verdict.DELIVERED
    assert host.sessions == 2


@pytest.mark.parametrize("farewell", ["451 4.4.2 Timeout waiting for data from client.", "250 Ok", "250-half of one"])
async def test_what_nobody_asked_for_is_not_taken_for_the_next_answer(host, sender, farewell):
    """SES says farewell to an idle connection. Taken for the answer to MAIL, it would shift all that follow."""
    host.script = {"end": [f"250 Ok 0100-first\n{farewell}"]}
    assert (await timed(sender, attempt(1))).remote_id == "0100-first"
    assert (await timed(sender, attempt(2))).remote_id == "0100-ses-2"
    assert host.sessions == 2


async def test_a_break_after_the_whole_mail_is_not_sent_again_at_once(host, sender):
    """The smarthost may have taken it (RFC 1047): later, not twice within a second."""
    await timed(sender, attempt(1))
    host.script = {"end": [Do.CLOSE]}
    assert (await timed(sender, attempt(2))).verdict is TEMPORARY
    assert host.sessions == 1


async def test_breaks_on_whatever_mail_are_the_smarthosts_fault(host, sender):
    host.script = {"mail": [Do.CLOSE] * 5}
    verdicts = [(await timed(sender, attempt(number))).verdict for number in range(1, 6)]
    assert verdicts == [TEMPORARY, TEMPORARY, UNREACHABLE, UNREACHABLE, UNREACHABLE]
    assert (await timed(sender, attempt(6))).verdict is Verdict.DELIVERED
    host.script = {"mail": [Do.CLOSE] * 4}
    host.script["end"] = []
    again = Sender(sender._sessions, RETURN_PATH)
    sender._sessions.close()
    assert [(await timed(again, attempt(7))).verdict for _ in range(4)] == [TEMPORARY] * 4  # one mail is one mail


async def test_one_session_too_many_is_no_fault(host, sender):
    host.delay_s = 0.2
    await timed(sender, attempt(1))
    first = asyncio.create_task(sender.send(attempt(2)))
    await asyncio.sleep(0.05)
    host.script = {"connect": ["421 Too many concurrent SMTP connections"]}
    with pytest.raises(CrowdedError):
        await timed(sender, attempt(3))
    assert (await first).verdict is Verdict.DELIVERED


async def test_a_large_body_is_streamed_from_its_file(host, sender, tmp_path):
    line = b".dots and \xe9 bytes, \r\n" + b"y" * 3000 + b"\r\n"
    body = line * (3 * PIECE_BYTES // len(line) + 1)
    path = tmp_path / "body"
    path.write_bytes(body)
    mail = attempt(body=path)
    assert (await timed(sender, mail, within_s=10)).verdict is Verdict.DELIVERED
    assert host.taken[0].content == mail.head + b"\r\n" + body


async def test_a_smarthost_that_stops_reading_a_large_body_does_not_hold_it_for_ever(host, sender, tmp_path):
    path = tmp_path / "body"
    path.write_bytes(b"line of text\r\n" * 2_000_000)
    host.script = {"body": [Do.STALL]}
    outcome = await timed(sender, attempt(body=path), within_s=8)
    assert outcome.verdict is TEMPORARY and "in time" in outcome.reply


async def test_a_body_that_is_gone_is_one_mails_trouble(host, sender, tmp_path):
    path = tmp_path / "body"
    path.write_bytes(b"x\r\n")
    mail = attempt(1, body=path)
    path.unlink()
    assert (await timed(sender, mail)).verdict is TEMPORARY
    assert (await timed(sender, attempt(2))).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("address", ["a\r\nRCPT TO:<b@x.test>@c.test", "a b@c.test", "<a@b.test>", "", "a@b.test\n"])
async def test_no_address_can_put_a_command_in(host, sender, address):
    assert (await timed(sender, attempt(recipient=address))).verdict is Verdict.PERMANENT
    assert not host.taken and not host.sessions


async def test_a_large_body_takes_little_memory(host, tmp_path, certificate):
    sessions = Sessions(host.smarthost(tmp_path, certificate.certificate), "relay.test")
    path = tmp_path / "body"
    with path.open("wb") as file:
        for _ in range(20):
            file.write((b"." + b"y" * 1021 + b"\r\n") * 1024)
    host.keeps = False
    tracemalloc.start()
    try:
        outcome = await timed(Sender(sessions, RETURN_PATH), attempt(body=path), within_s=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        sessions.close()
    assert outcome.verdict is Verdict.DELIVERED and peak < 5_000_000
