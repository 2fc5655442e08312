"""Our own reports: who gets them, what they say, in both languages, whatever foreign text is in them."""

import email
from email.policy import default

import pytest
from bounce_world import NOTIFY, SENDER

from cloudside.mail.bounces import dsn, reading
from cloudside.mail.bounces.reading import Meaning
from cloudside.mail.message import has_bare_line_ends
from cloudside.mail.model import Kind, Original, State

HEAD = "Subject: 故障\r\nMessage-ID: <7@plc.test>\r\n".encode()
ORIGINAL = Original(
    id=255, kind=Kind.MAIL, tenant="acme", origin="tokyo-1", device="plc", sender=SENDER, automatic=False,
    accepted_at=1_800_000_000.0, subject="故障", head=HEAD,
)  # fmt: skip


def changed(**changes):
    return Original(**({name: getattr(ORIGINAL, name) for name in ORIGINAL.__slots__} | changes))


def reports(original=ORIGINAL, *, language="en", notify=None, state=State.BOUNCED, **options):
    numbers = iter(range(7, 99))
    voice = dsn.Voice("relay.test", "kyoten@kyoten.test", language)
    given = {"status": "5.1.1", "reason": "550 unknown\nuser"} | options
    return dsn.reports(original, "gone@x.test", state, voice=voice, now=1_800_003_600.0, notify=notify,
                       new_id=lambda: next(numbers), **given)  # fmt: skip


def whole(message):
    return message.head + b"\r\n" + message.body


def words(message):
    return email.message_from_bytes(whole(message), policy=default).get_payload(0).get_content()


@pytest.mark.parametrize("language", ["en", "ja"])
def test_our_own_reports_are_understood_by_our_own_reader(language):
    (made,) = reports(language=language)
    assert made.recipients == (SENDER,) and made.kind is Kind.DSN and made.sender == "" and made.automatic
    report = reading.read(whole(made), null_sender=True)
    assert (report.meaning, report.status, report.reason) == (Meaning.FAILED, "5.1.1", "550 unknown user")


def test_a_report_says_who_what_when_why_and_what_to_do():
    text = words(reports()[0])
    for said in ("gone@x.test", SENDER, "tokyo-1", "故障", "2027-01-15 08:00 UTC", "2027-01-15 09:00 UTC",
                 "There is no such mailbox", "Check the address", "550 unknown user", "00000000000000ff"):  # fmt: skip
        assert said in text
    text = words(reports(language="ja")[0])
    for said in ("配信できませんでした", "故障", "gone@x.test", "アドレスは存在しません", "設定を訂正してください"):
        assert said in text


def test_an_expired_mail_says_so_and_a_known_cause_counts_more_than_words():
    assert "did not take the mail in all the time" in words(reports(state=State.EXPIRED, status="4.4.7")[0])
    from cloudside.mail.bounces.cause import Cause

    assert "is suppressed" in words(reports(cause=Cause.SUPPRESSED)[0])


def test_it_is_a_report_that_no_machine_answers_and_a_mail_program_shows_below_the_mail():
    message = email.message_from_bytes(whole(reports()[0]), policy=default)
    assert message.get_content_type() == "multipart/report"
    assert message["Auto-Submitted"] == "auto-replied" and message["References"] == "<7@plc.test>"
    status = message.get_payload(1).get_payload(1)
    assert status["Final-Recipient"] == "rfc822; gone@x.test" and status["Action"] == "failed"


def test_the_site_gets_a_copy_that_says_why_it_gets_it():
    to_sender, to_site = reports(notify=NOTIFY)
    assert (to_sender.recipients, to_site.recipients) == ((SENDER,), (NOTIFY,))
    assert to_sender.id != to_site.id
    assert "the one for notices" in words(to_site) and "the one for notices" not in words(to_sender)
    assert len(reports(notify=SENDER.upper())) == 1


@pytest.mark.parametrize("changes", [{"kind": Kind.DSN}, {"kind": Kind.NOTICE}, {"sender": ""}, {"automatic": True}])
def test_nobody_is_told_of_our_own_mail_null_senders_and_automatic_mail(changes):
    assert dsn.wanted(ORIGINAL) and not dsn.wanted(changed(**changes))
    assert reports(changed(**changes), notify=NOTIFY) == ()
    voice = dsn.Voice("relay.test", "kyoten@kyoten.test", "en")
    assert dsn.complaints(changed(**changes), "a@b.test", voice=voice, now=1.0, notify=NOTIFY, new_id=lambda: 1) == ()


#: The second is too long for a line and malformed: email.policy cannot fold it.
BROKEN = ["=?utf-8?q?=ED=B3=BF?=", "=?a?b?c?=" * 40, "x" * 90 + "=?unknown-8bit?q?=ff?==?utf-8?b?", "\x00\x1b[31m",
          "a" * 3000, "{site} {0} %s", "\r\n.\r\nMAIL FROM:<x@y>"]  # fmt: skip


@pytest.mark.parametrize("foreign", BROKEN)
def test_no_foreign_text_can_keep_a_report_from_being_written(foreign):
    one_line = foreign.replace("\r\n", " ")
    head = f"Subject: about {one_line}\r\nMessage-ID: {one_line}\r\nX-Long: {'y ' * 900}\r\n".encode()
    (made,) = reports(changed(head=head, origin=one_line), reason=f"550 {foreign}")
    assert made.recipients == (SENDER,)
    content = whole(made)
    assert (
        b"gone@x.test" in content and not has_bare_line_ends(content) and max(map(len, content.split(b"\r\n"))) <= 998
    )
    assert b"\r\n.\r\n" not in content


def test_notices_are_plain_and_need_no_answer():
    voice = dsn.Voice("relay.test", "kyoten@kyoten.test", "en")
    made = dsn.compose_notice("Flood", "Many.", staff=("a@b.test",), voice=voice, now=1.0, new_id=3, once="x")
    message = email.message_from_bytes(whole(made), policy=default)
    assert message["Auto-Submitted"] == "auto-generated" and "Many." in message.get_content() and made.once == "x"
