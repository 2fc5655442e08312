"""The pure parts: headers, addresses, tokens, verdicts, reports, limits."""

import email
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.mail.address import valid
from cloudside.mail.intake.gate import Gate, LoginThrottle
from cloudside.mail.message import Trace, has_bare_line_ends, normalised, one_line, prepare, split
from cloudside.mail.watch.watch import Flood, flood_over, floods

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
