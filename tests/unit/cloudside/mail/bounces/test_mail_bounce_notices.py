"""Notices of Amazon SES through SNS: believed only when they are genuine, recorded once, in any order with mail."""

import asyncio
import json
import time

import httpx
import pytest
from bounce_world import DOMAIN, KEYS, NOTIFY, RECIPIENT, SENDER, BounceWorld

from cloudside.config import Listen, Notices
from cloudside.errors import InputError
from cloudside.mail.bounces import reading, verp
from cloudside.mail.bounces.listener import BounceHandler
from cloudside.mail.bounces.notices import endpoint, envelope, serving, ses
from cloudside.mail.bounces.notices.certificates import Certificates
from cloudside.mail.bounces.notices.endpoint import NoticeDoor
from cloudside.mail.bounces.reading import Meaning
from lab import sns
from lab.sns import Fault, Sns

FEEDBACK = "010001929b0d5c1c-7f2a33b8-0000-4c2e-93f7-2f0f3a1d7a11-000000"


@pytest.fixture
async def amazon(tmp_path):
    async with Sns(tmp_path / "sns") as running:
        yield running


@pytest.fixture
async def mail(tmp_path):
    world = BounceWorld.at(tmp_path)
    yield world
    world.queue.close()


@pytest.fixture
async def door(amazon, mail):
    certificates = Certificates((amazon.host,), amazon.authority)
    yield NoticeDoor((amazon.topic,), certificates, mail.recorder, KEYS, DOMAIN)
    await certificates.close()


@pytest.fixture
async def post(door):
    transport = httpx.ASGITransport(endpoint.application(door))
    async with httpx.AsyncClient(transport=transport, base_url="https://relay.test") as client:

        async def send(body: bytes, method: str = "POST") -> int:
            return (await client.request(method, "/notices", content=body)).status_code

        yield send


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_bounce_is_matched_by_our_return_address(amazon, mail, post, version):
    amazon.version = version
    number = await mail.sent()
    said = sns.bounce("0100-x", mail.address(number), RECIPIENT, feedback=FEEDBACK, status="5.1.1",
                      action="failed", diagnosticCode="smtp; 550 5.1.1 user unknown")  # fmt: skip
    assert await post(amazon.notification(said, subject="Amazon SES Email Event Notification")) == 200
    entry = await mail.entry(number)
    assert (entry.state, entry.outcome, entry.reply) == ("bounced", "permanent", "5.1.1 550 5.1.1 user unknown")
    letters = await mail.letters()
    assert list(letters) == [SENDER] and "There is no such mailbox" in letters[SENDER]
    (suppressing,) = await mail.queue.suppressing()
    assert (suppressing.tenant, suppressing.address, suppressing.cause) == ("acme", RECIPIENT, "bounce")


async def test_a_bounce_is_matched_by_the_id_that_ses_gave(amazon, mail, post):
    number = await mail.sent(remote_id="0100-ses")
    other = await mail.sent(remote_id="0100-other", recipient="b@customer.test")
    said = sns.bounce("0100-ses", "app@elsewhere.test", RECIPIENT.upper(), feedback=FEEDBACK)
    assert await post(amazon.notification(said)) == 200
    assert (await mail.entry(number)).state == "bounced"
    assert (await mail.entry(other)).state == "delivered"


async def test_a_copy_goes_to_the_sites_address_and_none_for_null_senders(amazon, mail, post):
    mail.notify = NOTIFY
    number = await mail.sent()
    silent = await mail.sent(sender="")
    for mine in (number, silent):
        said = sns.bounce("x", mail.address(mine), RECIPIENT, feedback=f"{mine}")
        assert await post(amazon.notification(said)) == 200
        assert (await mail.entry(mine)).state == "bounced"
    letters = await mail.letters()
    assert set(letters) == {SENDER, NOTIFY}
    assert "the one for notices of this site" in " ".join(letters[NOTIFY].split())


@pytest.mark.parametrize("mail_first", [True, False])
async def test_the_same_bounce_by_mail_and_as_a_notice_is_one(amazon, mail, post, mail_first):
    number = await mail.sent()
    handler = BounceHandler(mail.recorder, KEYS, DOMAIN)
    by_mail = (
        f"Message-ID: <{FEEDBACK}@ap-northeast-1.amazonses.com>\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n--b\r\n\r\nSorry.\r\n'
        "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dsn; a8-70.smtp-out.amazonses.com\r\n\r\n"
        f"Action: failed\r\nFinal-Recipient: rfc822; {RECIPIENT}\r\nDiagnostic-Code: smtp; 550 5.1.1 user unknown\r\n"
        "Status: 5.1.1\r\n\r\n--b--\r\n"
    ).encode()
    notice = amazon.notification(sns.bounce("x", mail.address(number), RECIPIENT, feedback=FEEDBACK))
    address = verp.parse(mail.address(number), keys=KEYS, domain=DOMAIN)
    ways = [lambda: handler.take(address, by_mail, null_sender=True), lambda: post(notice)]
    for way in ways if mail_first else ways[::-1]:
        await way()
        await way()
    assert (await mail.events(number)).count("bounced") == 1
    assert mail.wakes == 1 and list(await mail.letters()) == [SENDER]
    assert len(await mail.queue.suppressing()) == 1
    assert reading.read(by_mail, null_sender=True).feedback == FEEDBACK


async def test_a_complaint_closes_the_address_and_is_told_once(amazon, mail, post):
    mail.notify = NOTIFY
    number = await mail.sent()
    for feedback in ("one", "one", "two"):
        said = sns.complaint("x", mail.address(number), RECIPIENT, feedback=feedback)
        assert await post(amazon.notification(said)) == 200
    entry = await mail.entry(number)
    assert (entry.state, entry.outcome) == ("delivered", "complained")
    (suppressing,) = await mail.queue.suppressing()
    assert suppressing.cause == "complaint"
    letters = await mail.letters()
    assert set(letters) == {SENDER, NOTIFY} and mail.wakes == 1
    assert "marked your mail as unwanted" in letters[SENDER] and "multipart/report" not in letters[SENDER]


async def test_deliveries_are_noted_once_and_replays_change_nothing(amazon, mail, post):
    number = await mail.sent()
    delivered = amazon.notification(sns.delivery("x", mail.address(number), RECIPIENT))
    bounced = amazon.notification(sns.bounce("x", mail.address(number), RECIPIENT, feedback=FEEDBACK))
    for body in (delivered, bounced, delivered, bounced, bounced):
        assert await post(body) == 200
    events = await mail.events(number)
    assert events.count("report-delivered") == 1 and events.count("bounced") == 1
    assert mail.meanings == ["delivered", "failed", "delivered", "failed", "failed"]


@pytest.mark.parametrize(
    ("kind", "subtype", "recipient", "meaning", "status", "permanent", "suppresses"),
    [
        ("Permanent", "General", {}, Meaning.FAILED, "5.1.1", True, True),
        ("Permanent", "NoEmail", {}, Meaning.FAILED, "5.1.1", True, True),
        ("Permanent", "OnAccountSuppressionList", {}, Meaning.FAILED, "5.1.1", True, False),
        ("Permanent", "General", {"status": "5.7.1", "diagnosticCode": "smtp; 554 5.7.1 spam"}, Meaning.FAILED, "5.7.1",
         True, False),
        ("Transient", "MailboxFull", {"status": "5.2.2"}, Meaning.FAILED, "4.2.2", False, False),
        ("Transient", "MessageTooLarge", {}, Meaning.FAILED, "5.3.4", True, False),
        ("Transient", "CustomTimeoutExceeded", {}, Meaning.FAILED, "4.4.7", False, False),
        ("Transient", "General", {"action": "failed", "status": "4.4.1"}, Meaning.FAILED, "4.4.1", False, False),
        ("Transient", "General", {"action": "delayed", "status": "4.4.1"}, Meaning.DELAYED, "4.4.1", False, False),
        ("Transient", "General", {}, Meaning.AUTO_REPLY, "4.0.0", False, False),
        ("Undetermined", "Undetermined", {}, Meaning.FAILED, "4.0.0", False, False),
        ("SomethingNew", "", {}, Meaning.FAILED, "4.0.0", False, False),
    ],
)  # fmt: skip
def test_kinds_of_bounces(kind, subtype, recipient, meaning, status, permanent, suppresses):
    said = sns.bounce("x", "b+x@bounces.test", RECIPIENT, kind=kind, subtype=subtype, feedback="f", **recipient)
    (told,) = ses.read(json.dumps(said)).told
    report = told.report
    found = (report.meaning, report.status, report.permanent, report.suppresses)
    assert found == (meaning, status, permanent, suppresses)
    assert told.address == RECIPIENT and report.feedback == "f"


@pytest.mark.parametrize(
    ("event", "meaning"),
    [
        ({"eventType": "Reject", "reject": {"reason": "Bad content"}}, Meaning.FAILED),
        ({"eventType": "DeliveryDelay", "deliveryDelay": {"delayType": "MailboxFull"}}, Meaning.DELAYED),
        ({"eventType": "Complaint", "complaint": {"complaintFeedbackType": "not-spam"}}, Meaning.UNCLEAR),
    ],
)
def test_other_events(event, meaning):
    (told,) = ses.read(json.dumps(event | {"mail": {"messageId": "x"}})).told
    assert told.report.meaning is meaning and not told.report.suppresses


def test_words_and_unknown_events_say_nothing_of_a_mail():
    assert ses.read("Successfully validated SNS topic for Amazon SES event publishing.") is None
    assert ses.read("[1]") is None
    assert ses.read(json.dumps({"eventType": "Open", "mail": {"messageId": "x"}})).told == ()
    with pytest.raises(InputError):
        ses.read(json.dumps({"eventType": "Bounce", "mail": {}}))


FORGED = {
    Fault.SIGNATURE: 403, Fault.CHANGED: 403, Fault.TOPIC: 403, Fault.HOST: 403, Fault.PATH: 403, Fault.PLAIN: 403,
    Fault.REDIRECT: 403, Fault.EXPIRED: 403, Fault.NOT_YET: 403, Fault.GARBAGE: 400, Fault.AWAY: 503,
}  # fmt: skip


@pytest.mark.parametrize(("fault", "status"), FORGED.items())
async def test_what_is_not_genuine_changes_nothing(amazon, mail, post, fault, status):
    number = await mail.sent()
    said = sns.bounce("x", mail.address(number), RECIPIENT, feedback=FEEDBACK)
    assert await post(amazon.notification(said, fault=fault)) == status
    assert (await mail.entry(number)).state == "delivered" and not mail.meanings
    if fault in (Fault.TOPIC, Fault.HOST, Fault.PATH, Fault.PLAIN, Fault.GARBAGE):
        assert not amazon.asked
    # The door still works, so it was the fault and not the door.
    assert await post(amazon.notification(said)) == 200
    assert (await mail.entry(number)).state == "bounced"


async def test_only_the_topics_subscription_is_confirmed(amazon, post):
    elsewhere = f"https://localhost:{amazon.port}/?Action=ConfirmSubscription&TopicArn={amazon.topic}&Token=1"
    other_topic = f"https://{amazon.host}/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:x:1:y&Token=1"
    other_action = f"https://{amazon.host}/?Action=DeleteTopic&TopicArn={amazon.topic}"
    for url in (elsewhere, other_topic, other_action):
        assert await post(amazon.confirmation(url=url)) == 403
    assert await post(amazon.confirmation(fault=Fault.TOPIC)) == 403
    assert await post(amazon.confirmation(fault=Fault.SIGNATURE)) == 403
    assert not amazon.confirmed
    assert await post(amazon.confirmation()) == 200
    assert len(amazon.confirmed) == 1 and f"TopicArn={amazon.topic}" in amazon.confirmed[0]


async def test_the_certificate_is_fetched_once_and_again_after_a_day(amazon, mail):
    at = [time.time()]
    certificates = Certificates((amazon.host,), amazon.authority, clock=lambda: at[0])
    url = f"https://{amazon.host}/SimpleNotificationService-good.pem"
    await asyncio.gather(*(certificates.key(url) for _ in range(5)))
    assert len(amazon.asked) == 1
    at[0] += 3600
    await certificates.key(url)
    assert len(amazon.asked) == 1
    at[0] -= 7200  # a clock that went back makes the cache stale, not eternal
    await certificates.key(url)
    assert len(amazon.asked) == 2
    await certificates.close()


async def test_forgeries_cannot_make_us_ask_without_end(amazon, door, post):
    body = json.loads(amazon.notification("x"))
    for number in range(40):
        body["SigningCertURL"] = f"https://{amazon.host}/SimpleNotificationService-{number}.pem"
        assert await post(json.dumps(body).encode()) in (403, 429, 503)
    assert len(amazon.asked) <= 12


async def test_whoever_sends_garbage_is_not_listened_to_for_a_while(amazon, post):
    statuses = [await post(b"garbage") for _ in range(40)]
    assert statuses[0] == 400 and statuses[-1] == 429
    assert await post(amazon.notification("hello")) == 429


async def test_foreign_topics_do_not_shut_our_own_out(amazon, post):
    for _ in range(40):
        assert await post(amazon.notification("x", fault=Fault.TOPIC)) == 403
    assert await post(amazon.notification("hello")) == 200


async def test_bodies_and_methods_are_bounded(post):
    assert await post(b"x" * (envelope.BODY_MAX_BYTES + 1)) == 413
    for method in ("GET", "PUT", "DELETE"):
        assert await post(b"", method) == 405


async def test_a_notice_that_overtakes_our_own_commit_comes_again(amazon, mail, post):
    said = sns.bounce("0100-soon", "app@elsewhere.test", RECIPIENT, feedback=FEEDBACK)
    assert await post(amazon.notification(said)) == 503
    number = await mail.sent(remote_id="0100-soon")
    assert await post(amazon.notification(said)) == 200
    assert (await mail.entry(number)).state == "bounced"
    old = said | {"mail": {"messageId": "0100-never", "source": "", "timestamp": "2020-01-01T00:00:00.000Z"}}
    assert await post(amazon.notification(old)) == 200


async def test_a_queue_that_is_away_makes_sns_try_again(amazon, mail, post, monkeypatch):
    from cloudside.errors import UnavailableError
    from cloudside.mail.store.queue import Queue

    number = await mail.sent()
    body = amazon.notification(sns.bounce("x", mail.address(number), RECIPIENT, feedback=FEEDBACK))
    really = Queue.fail

    async def fail(*_args, **_options):
        raise UnavailableError("mail.queue-failed", path="x", reason="y")

    monkeypatch.setattr(Queue, "fail", fail)
    assert await post(body) == 503
    monkeypatch.setattr(Queue, "fail", really)
    assert await post(body) == 200
    assert (await mail.entry(number)).state == "bounced" and list(await mail.letters()) == [SENDER]


async def test_over_real_https(amazon, mail, certificate, free):
    number = await mail.sent()
    stop = asyncio.Event()
    notices = Notices(listen=Listen(address="127.0.0.1", port=free), topics=(amazon.topic,), ca=amazon.authority,
                      hosts=(amazon.host,))  # fmt: skip
    files = (certificate.certificate, certificate.key)
    running = asyncio.create_task(serving.serve(notices, mail.recorder, KEYS, DOMAIN, stop, certificate=files))
    try:
        url = f"https://127.0.0.1:{free}/"
        body = amazon.notification(sns.bounce("x", mail.address(number), RECIPIENT, feedback=FEEDBACK))
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await amazon.post(url, body, authority=certificate.certificate) == 200
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        assert (await mail.entry(number)).state == "bounced"
    finally:
        stop.set()
        await running


@pytest.fixture
def free() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_hosts_follow_from_the_topics():
    china = "arn:aws-cn:sns:cn-north-1:123456789012:x"
    assert envelope.hosts_of((sns.TOPIC, china, sns.TOPIC, "nonsense")) == (
        "sns.ap-northeast-1.amazonaws.com",
        "sns.cn-north-1.amazonaws.com.cn",
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://sns.ap-northeast-1.amazonaws.com.evil.test/a.pem",
        "https://evil.test/sns.ap-northeast-1.amazonaws.com/a.pem",
        "https://user@sns.ap-northeast-1.amazonaws.com/a.pem",
        "https://sns.ap-northeast-1.amazonaws.com:8443/a.pem",
        "https://sns.ap-northeast-1.amazonaws.com\\@evil.test/a.pem",
        "https://sns.ap-northeast-1.amazonaws.com/a.pem#x",
        "https://sns.ap-northeast-1.amazonaws.com/../a.pem",
        "https://sns.ap-northeast-1.amazonaws.com/a.pem?Action=x",
        "https://sns.us-east-1.amazonaws.com/a.pem",
        "http://sns.ap-northeast-1.amazonaws.com/a.pem",
        "https://[broken/a.pem",
        "",
    ],
)
def test_addresses_that_only_look_like_amazons(url):
    from cloudside.errors import RefusedError

    hosts = envelope.hosts_of((sns.TOPIC,))
    with pytest.raises(RefusedError):
        envelope.require_certificate_url(url, hosts)
    envelope.require_certificate_url("https://sns.ap-northeast-1.amazonaws.com/SimpleNotificationService-1.pem", hosts)


def test_what_is_signed_is_as_amazon_writes_it():
    post = {
        "Type": "Notification", "MessageId": "m", "TopicArn": sns.TOPIC, "Message": "a\nb", "Timestamp": "t",
        "Subject": "s", "SignatureVersion": "1", "Signature": "AAAA", "SigningCertURL": "u",
    }  # fmt: skip
    signed = envelope.parse(json.dumps(post).encode()).signed
    assert (
        signed.decode()
        == f"Message\na\nb\nMessageId\nm\nSubject\ns\nTimestamp\nt\nTopicArn\n{sns.TOPIC}\nType\nNotification\n"
    )
    del post["Subject"]
    assert b"Subject" not in envelope.parse(json.dumps(post).encode()).signed
