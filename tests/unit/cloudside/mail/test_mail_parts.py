"""The pure parts: headers, addresses, tokens, verdicts, reports, limits."""

import email
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.mail.address import valid
from cloudside.mail.bounces import dsn, reading, verp
from cloudside.mail.bounces.reading import Meaning
from cloudside.mail.intake.gate import Gate, LoginThrottle
from cloudside.mail.message import Trace, has_bare_line_ends, normalised, one_line, prepare, split
from cloudside.mail.model import Kind, Original, State
from cloudside.mail.watch.watch import Flood, flood_over, floods

KEY = bytes(range(32))
TRACE = Trace("plc\r\nX: y", "10.1.1.20", "relay.test", "ESMTP", "00ff", datetime(2026, 11, 21, tzinfo=UTC))


def prepared(content, sender="p@site.test"):
    return prepare(normalised(content), sender=sender, trace=TRACE, domain="relay.test")


def test_headers_are_stripped_completed_and_the_body_untouched():
    head = b"Bcc: a@x.test,\r\n b@x.test\r\nX-SES-A: 1\r\nSubject: =?utf-8?B?5pWF6Zqc?=\r\nTo: o@x.test\r\n"
    content = head + b"\r\n.body\r\nBcc: stays\r\n"
    result = prepared(content)
    message = email.message_from_bytes(result.content)
    assert message["Bcc"] is None and message["X-SES-A"] is None and message["To"] == "o@x.test"
    assert message["From"] == "<p@site.test>" and message["Message-ID"] == "<00ff@relay.test>" and message["Date"]
    assert "X: y" not in message and message["Received"].startswith("from plc??X:?y ([10.1.1.20])")
    assert result.subject == "故障"
    assert result.content.endswith(b"\r\n\r\n.body\r\nBcc: stays\r\n")


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"Pump 3 stopped\r\n", b"just text, no colon first\r\nSubject: no\r\n"]
)
def test_a_mail_without_headers_keeps_its_text_as_body(content):
    message = email.message_from_bytes(prepared(content).content)
    assert message["Message-ID"] and message["Subject"] is None
    assert message.get_payload().encode().strip() == content.strip()


@given(st.binary(max_size=300))
def test_any_bytes_can_be_prepared(content):
    result = prepared(content)
    assert not has_bare_line_ends(result.content)
    head, _ = split(result.content)
    assert head.startswith(b"Received: ")


@pytest.mark.parametrize(
    ("header", "automatic"),
    [
        (b"Auto-Submitted: auto-replied", True),
        (b"Auto-Submitted: auto-generated", False),
        (b"Auto-Submitted: no", False),
        (b"Precedence: bulk", True),
        (b"List-Id: <x>", True),
        (b"X-Other: bulk", False),
    ],
)
def test_who_is_not_told_of_a_failure(header, automatic):
    assert prepared(header + b"\r\n\r\nx\r\n").automatic is automatic


def test_foreign_text_is_one_harmless_line():
    assert one_line("a\r\nb\x1b[31m\u202ec" + "x" * 50, 10) == "a b [31m c"[:9] + "…"


@pytest.mark.parametrize("good", ["a@b", "a.b+c@x-y.test", "x=y@z.test"])
def test_good_addresses(good):
    assert valid(good)


@pytest.mark.parametrize(
    "bad",
    ["", "a", "@b", "a@", "a b@c", "a@b..c", "a@-b", '"a b"@c', "a@[1.2.3.4]", "ä@b", "a@b\r\nX", "a" * 65 + "@b"],
)
def test_bad_addresses(bad):
    assert not valid(bad)


@given(st.integers(0, 2**63 - 1), st.integers(0, 65535), st.booleans())
def test_return_addresses_come_back_in_any_case_and_fit(message_id, index, own):
    address = verp.ReturnAddress(message_id, index, own)
    text = verp.compose(address, key=KEY, domain="bounces.test")
    assert len(text.partition("@")[0]) <= 64 and valid(text)
    assert verp.parse(text.upper(), key=KEY, domain="bounces.test") == address
    assert verp.parse(text, key=KEY[::-1], domain="bounces.test") is None
    assert verp.parse(text, key=KEY, domain="other.test") is None
    assert verp.parse(("b" if own else "n") + text[1:], key=KEY, domain="bounces.test") is None


@given(st.text(max_size=80))
def test_other_addresses_are_no_return_addresses(text):
    assert verp.parse(text, key=KEY, domain="bounces.test") is None
    assert verp.parse(text + "@bounces.test", key=KEY, domain="bounces.test") is None


VOICE = dsn.Voice("relay.test", "kyoten@kyoten.test", "ja")
ORIGINAL = Original(255, Kind.MAIL, "tokyo-1", "p@site.test", False, 1_800_000_000.0, "Subject: 故障\r\n".encode())


def test_our_own_reports_are_understood_by_our_own_reader():
    made = dsn.compose(
        ORIGINAL,
        "gone@x.test",
        State.BOUNCED,
        status="5.1.1",
        reason="550 unknown\nuser",
        voice=VOICE,
        now=1.8e9,
        new_id=7,
    )
    assert made.recipients == ("p@site.test",) and made.kind is Kind.DSN and made.sender == ""
    report = reading.read(made.content, null_sender=True)
    assert (report.meaning, report.status, report.reason) == (Meaning.FAILED, "5.1.1", "550 unknown user")
    text = email.message_from_bytes(made.content).get_payload()[0].get_payload(decode=True).decode()
    assert "配信できませんでした" in text and "故障" in text and "gone@x.test" in text


QMAIL = (
    b"From: MAILER-DAEMON@x.test\r\nSubject: failure notice\r\n\r\nHi. This is the qmail-send program at x.test.\r\n"
    + (b"I'm afraid I wasn't able to deliver your message.\r\n\r\n<gone@x.test>:\r\n550 5.1.1 no mailbox here\r\n")
)
VACATION = b"Auto-Submitted: auto-replied\r\nSubject: Out of office\r\n\r\nI am away until Monday.\r\n"


@pytest.mark.parametrize(
    ("raw", "null_sender", "meaning"),
    [
        (QMAIL, True, Meaning.FAILED),
        (VACATION, True, Meaning.HARMLESS),
        (b"Subject: hello\r\n\r\nplain mail\r\n", False, Meaning.HARMLESS),
        (b"Subject: ???\r\n\r\nunknown words\r\n", True, Meaning.FAILED),
        (b"", False, Meaning.HARMLESS),
    ],
)
def test_reports_of_many_shapes(raw, null_sender, meaning):
    assert reading.read(raw, null_sender=null_sender).meaning is meaning


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_can_be_read_as_a_report(raw, null_sender):
    head = b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
    for content in (raw, head + raw):
        assert "\n" not in reading.read(content, null_sender=null_sender).reason


def test_reports_are_for_people_only():
    assert dsn.wanted(ORIGINAL)
    for changed in ({"kind": Kind.DSN}, {"kind": Kind.NOTICE}, {"sender": ""}, {"automatic": True}):
        fields = {name: getattr(ORIGINAL, name) for name in ORIGINAL.__slots__} | changed
        assert not dsn.wanted(Original(**fields))


def test_the_gate_counts_in_total_and_by_source():
    gate = Gate(3, 2)
    assert [gate.enter("a"), gate.enter("a"), gate.enter("a"), gate.enter("b"), gate.enter("c")] == [
        True,
        True,
        False,
        True,
        False,
    ]
    gate.leave("a")
    assert gate.enter("c")


def test_failed_logins_block_for_a_while_and_a_good_one_forgives():
    throttle = LoginThrottle(failures_max=2, window_s=10)
    throttle.failed("a", 0)
    assert not throttle.blocked("a", 1)
    throttle.failed("a", 1)
    assert throttle.blocked("a", 2) and not throttle.blocked("b", 2)
    assert not throttle.blocked("a", 12)
    throttle.failed("a", 2)
    throttle.succeeded("a")
    assert not throttle.blocked("a", 3)


def test_floods_are_those_above_their_own_limit():
    found = floods({"a": 61, "b": 60, "c": 6}, {"c": 5}, default_limit=60, hour=7)
    assert found == [Flood("a", 7, 61, 60), Flood("c", 7, 6, 5)]


def test_a_flood_ends_after_a_full_quiet_hour():
    assert not flood_over(opened_hour=7, hour=8, last_hour_count=0, limit=5)
    assert not flood_over(opened_hour=7, hour=9, last_hour_count=6, limit=5)
    assert flood_over(opened_hour=7, hour=9, last_hour_count=5, limit=5)


#: The last one is too long for a line and malformed: email.policy cannot fold it.
BROKEN_WORDS = ["=?utf-8?q?=ED=B3=BF?=", "=?a?b?c?=" * 40, "x" * 90 + "=?unknown-8bit?q?=ff?==?utf-8?b?"]


@pytest.mark.parametrize("foreign", BROKEN_WORDS)
def test_no_foreign_text_can_keep_a_report_from_being_written(foreign):
    head = f"Subject: about {foreign}\r\n".encode()
    original = Original(5, Kind.MAIL, "tokyo-1", "plc@site.test", False, 1.0, head)
    made = dsn.compose(
        original,
        "a@b.test",
        State.BOUNCED,
        status="5.1.1",
        reason=f"550 {foreign}",
        voice=dsn.Voice("relay.test", "kyoten@relay.test", "en"),
        now=2.0,
        new_id=6,
    )
    assert made.recipients == ("plc@site.test",)
    assert b"a@b.test" in made.content
