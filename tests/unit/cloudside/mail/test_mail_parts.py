"""The pure parts: headers, addresses, limits at the door."""

import email
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.mail.address import valid
from cloudside.mail.intake.gate import Gate, LoginThrottle
from cloudside.mail.message import Trace, has_bare_line_ends, normalised, one_line, prepare, split

TRACE = Trace("plc\r\nX: y", "10.1.1.20", "relay.test", "ESMTP", "00ff", datetime(2026, 11, 21, tzinfo=UTC))


def prepared(head, sender="p@site.test"):
    return prepare(normalised(head), sender=sender, trace=TRACE, domain="relay.test")


def test_headers_are_stripped_and_completed():
    head = b"Bcc: a@x.test,\r\n b@x.test\r\nX-SES-A: 1\r\nSubject: =?utf-8?B?5pWF6Zqc?=\r\nTo: o@x.test\r\n"
    result = prepared(head)
    message = email.message_from_bytes(result.head)
    assert message["Bcc"] is None and message["X-SES-A"] is None and message["To"] == "o@x.test"
    assert message["From"] == "<p@site.test>" and message["Message-ID"] == "<00ff@relay.test>" and message["Date"]
    assert "X: y" not in message and message["Received"].startswith("from plc??X:?y ([10.1.1.20])")
    assert result.subject == "故障"
    assert result.froms == () and result.received_count == 0


def test_what_a_device_wrote_stays_and_froms_are_unfolded():
    head = (
        b"Received: a\r\nFrom: Plant\r\n <p@site.test>\r\nDate: yesterday\r\nMessage-Id: <x>\r\nFROM : q@site.test\r\n"
    )
    result = prepared(head)
    assert result.head.endswith(b"\r\n" + head) and result.head.count(b"\r\n\t") == 2
    assert result.froms == ("Plant <p@site.test>", "q@site.test") and result.received_count == 1


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"Pump 3 stopped\r\n", b"just text, no colon first\r\nSubject: no\r\n"]
)
def test_a_mail_without_headers_keeps_its_text_as_body(content):
    head, body = split(content)
    message = email.message_from_bytes(prepared(head).head + b"\r\n" + body)
    assert message["Message-ID"] and message["Subject"] is None
    assert message.get_payload().encode().strip() == content.strip()


@given(st.binary(max_size=300))
def test_any_bytes_can_be_prepared(content):
    head, body = split(normalised(content))
    result = prepared(head)
    assert not has_bare_line_ends(result.head)
    again, rest = split(result.head + b"\r\n" + body)
    assert again == result.head and rest == body and again.startswith(b"Received: ")


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
    assert prepared(header + b"\r\n").automatic is automatic


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
