"""What comes back, in all shapes: read rightly, and whatever it is, never an error."""

import time

import pytest
from bounce_corpus import Shape, shapes
from bounce_world import RECIPIENT
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudside.mail.bounces import reading, reasons
from cloudside.mail.bounces.cause import Cause
from cloudside.mail.bounces.reading import Meaning

SHAPES = shapes()
#: The recipient that the corpus is about.
ASKED = "ops@customer.example"


def test_there_are_many_shapes():
    assert len(SHAPES) >= 100
    assert {shape.meaning for shape in SHAPES} == {str(meaning) for meaning in Meaning}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_shape_is_read_rightly(shape: Shape):
    report = reading.read(shape.raw, null_sender=not shape.sender, recipient=ASKED)
    permanence = {True: "permanent", False: "temporary"}[report.permanent]
    found = (
        report.meaning,
        report.status,
        permanence if shape.permanence != "-" else "-",
        report.cause if shape.cause != "-" else "-",
    )
    assert found == (shape.meaning, shape.status, shape.permanence, shape.cause), report.reason
    assert "\n" not in report.reason and len(report.reason) <= 400 and report.reason


def test_reports_suppress_only_addresses_that_are_no_good():
    for shape in SHAPES:
        report = reading.read(shape.raw, null_sender=not shape.sender, recipient=ASKED)
        about_address = shape.cause in ("mailbox-unknown", "mailbox-disabled", "moved", "domain-unknown")
        expected = shape.meaning == "failed" and shape.permanence == "permanent" and about_address
        assert report.suppresses is expected, shape.name


def test_lines_of_one_reply_are_joined():
    (shape,) = [one for one in SHAPES if one.name == "gmail-not-found"]
    reason = reading.read(shape.raw, null_sender=True).reason
    assert reason.startswith("550-5.1.1 The email account that you tried to reach does not exist. Please try double-")
    assert reason.count("5.1.1") == 1


def test_a_report_that_names_our_recipient_is_about_it_alone():
    (shape,) = [one for one in SHAPES if one.name == "postfix-multi-recipient-ours-delivered"]
    assert reading.read(shape.raw, null_sender=True, recipient=ASKED).meaning is Meaning.DELIVERED
    assert reading.read(shape.raw, null_sender=True, recipient="else@customer.example").meaning is Meaning.FAILED
    assert reading.read(shape.raw, null_sender=True, recipient="unnamed@customer.example").meaning is Meaning.FAILED


def test_only_the_beginning_is_read():
    (shape,) = [one for one in SHAPES if one.name == "postfix-unknown"]
    padded = shape.raw + b"x" * (3 * reading.READ_MAX_BYTES)
    assert reading.read(padded, null_sender=True).status == "5.1.1"


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_can_be_read(raw, null_sender):
    head = b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n"
    for content in (raw, head + b"\r\n" + raw, head + b"Content-Transfer-Encoding: base64\r\n\r\n" + raw):
        report = reading.read(content, null_sender=null_sender, recipient=RECIPIENT)
        assert "\n" not in report.reason and report.cause in Cause


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.data())
def test_broken_shapes_can_be_read(shape, data):
    raw = bytearray(shape.raw)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(raw)))
        kind = data.draw(st.sampled_from(["cut", "byte", "insert", "repeat"]))
        if kind == "cut":
            del raw[place : place + data.draw(st.integers(1, 200))]
        elif kind == "byte" and place < len(raw):
            raw[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            raw[place:place] = data.draw(st.binary(max_size=40))
        else:
            raw[place:place] = raw[max(0, place - 300) : place]
    report = reading.read(bytes(raw), null_sender=True, recipient=ASKED)
    assert report.meaning in Meaning and "\n" not in report.reason


HOSTILE = (
    b"your mail held ", b"\r\n- original", b"bad bad ", b"<a@b", b"\r\n\r\n", b"=?", b"X: y\r\n", b"message was ", b"-",
    b"--b\r\n", b"Action: failed\r\n\r\n",
)  # fmt: skip
HEADS = {
    "text": b"From: MAILER-DAEMON@x.test\r\nSubject: x\r\n\r\n",
    "subject": b"From: a@b.test\r\nSubject: ",
    "html": b"Content-Type: text/html\r\n\r\n",
    "status": b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("unit", HOSTILE)
def test_nothing_takes_long_to_read(head, unit):
    raw = HEADS[head] + unit * (reading.READ_MAX_BYTES // len(unit))
    began = time.process_time()
    reading.read(raw, null_sender=True, recipient=ASKED)
    assert time.process_time() - began < 2  # measured: 0.1; without bounds several of them take minutes


@pytest.mark.parametrize(
    ("status", "reason", "cause"),
    [
        ("5.1.1", "550 5.1.1 unknown", Cause.MAILBOX_UNKNOWN),
        ("5.0.0", "550 no such user here", Cause.MAILBOX_UNKNOWN),
        ("5.1.1", "552 user's mailbox is full", Cause.MAILBOX_FULL),
        ("5.7.1", "554 5.7.1 looks like spam to us", Cause.SPAM),
        ("5.7.1", "554 5.7.1 [192.0.2.1] listed at zen.spamhaus.org", Cause.BLOCKED),
        ("5.7.1", "550 5.7.1 only members may post", Cause.NOT_ALLOWED),
        ("5.7.1", "", Cause.NOT_ALLOWED),
        ("4.4.4", "", Cause.UNREACHABLE),
        ("5.4.4", "", Cause.DOMAIN_UNKNOWN),
        ("5.6.9", "", Cause.CONTENT),
        ("5.0.0", "", Cause.UNKNOWN),
        ("nonsense", "???", Cause.UNKNOWN),
    ],
)
def test_causes(status, reason, cause):
    assert reasons.cause_of(status, reason) is cause


@given(st.text(max_size=12), st.text(max_size=400))
def test_any_status_and_words_have_a_cause(status, reason):
    assert reasons.cause_of(status, reason) in Cause


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_says_why_and_what_to_do(cause, language):
    for words in (reasons.why(cause, language=language), reasons.what_to_do(cause, language=language)):
        assert not words.startswith("bounces.") and words.endswith("." if language == "en" else "。")
