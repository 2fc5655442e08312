"""The pure half of delivery: replies, verdicts, pace, quota, signatures."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.mail.delivery.outcome import (
    Stage,
    Verdict,
    enhanced_status,
    hold_delay_s,
    judge,
    remote_id_of,
    retry_delay_s,
)
from cloudside.mail.delivery.pacer import Pacer
from cloudside.mail.delivery.quota import Quota, Reading, Supply, assess
from cloudside.mail.delivery.replies import LINE_MAX_BYTES, GarbledError, Reply, ReplyReader, Stuffer, stuffed
from cloudside.mail.delivery.sigv4 import AccessKey, signed_headers


@pytest.mark.parametrize(
    ("code", "text", "stage", "verdict"),
    [
        (454, "Throttling failure: Maximum sending rate exceeded.", Stage.MESSAGE, Verdict.THROTTLED),
        (454, "Throttling failure: Daily message quota exceeded.", Stage.MESSAGE, Verdict.QUOTA),
        (454, "Throttling failure: Daily message quota exceeded.", Stage.SESSION, Verdict.QUOTA),
        (454, "4.7.0 Temporary authentication failure", Stage.SESSION, Verdict.UNREACHABLE),
        (454, "Temporary service failure", Stage.MESSAGE, Verdict.TEMPORARY),
        (535, "Authentication Credentials Invalid", Stage.SESSION, Verdict.REFUSED),
        (535, "Account not subscribed to SES", Stage.SESSION, Verdict.REFUSED),
        (530, "Authentication required", Stage.MESSAGE, Verdict.REFUSED),
        (421, "Too many concurrent SMTP connections", Stage.MESSAGE, Verdict.UNREACHABLE),
        (451, "4.4.2 Timeout waiting for data from client.", Stage.MESSAGE, Verdict.UNREACHABLE),
        (451, "Temporary service failure", Stage.MESSAGE, Verdict.TEMPORARY),
        (554, "Message rejected: Sending paused for this account. See", Stage.MESSAGE, Verdict.REFUSED),
        (554, "Message rejected: Email address is not verified.", Stage.MESSAGE, Verdict.PERMANENT),
        (554, "Access denied: User `x' is not authorized to perform `ses:Send'", Stage.MESSAGE, Verdict.PERMANENT),
        (554, "5.7.1 mx said: sending paused for this account", Stage.MESSAGE, Verdict.PERMANENT),
        (552, "Message is too long.", Stage.MESSAGE, Verdict.PERMANENT),
        (554, "no service", Stage.SESSION, Verdict.REFUSED),
    ],
)  # fmt: skip
def test_replies_are_judged(code, text, stage, verdict):
    assert judge(code, text, stage) is verdict


SES_NAME = "0100018d2a3b4c5d-11112222-3333-4444-5555-666677778888-000000"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"Ok {SES_NAME}", SES_NAME),
        ("2.0.0 Ok: queued as 4XyZ12abcd", "4XyZ12abcd"),
        ("OK id=1rXyZ2-0003Xy-AB", "1rXyZ2-0003Xy-AB"),
        ("2.0.0 Ok", ""),
        ("Message accepted for delivery, thank you", ""),
        ("Ok " + "x" * 200, ""),
        ("Ok caf\u00e9", ""),
    ],
)  # fmt: skip
def test_the_smarthosts_name_for_a_mail_is_found(text, name):
    assert remote_id_of(text) == name


def test_status_codes_of_permanent_replies():
    assert enhanced_status("550 5.1.1 no such user") == "5.1.1"
    assert enhanced_status("550 4.1.1 odd") == "5.0.0"
    assert enhanced_status("554 Message rejected") == "5.0.0"


def test_retries_are_close_twice_and_far_afterwards():
    assert [retry_delay_s(n, first_s=900, later_s=7200) for n in (1, 2, 3, 9)] == [900, 900, 7200, 7200]
    assert [hold_delay_s(n, longest_s=60) for n in (1, 2, 3, 100)] == [1, 2, 4, 60]


# Replies.


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_replies_or_garbled_however_they_come_in(raw, step):
    reader = ReplyReader()
    try:
        for start in range(0, len(raw), step):
            for reply in reader.feed(raw[start : start + step]):
                assert 200 <= reply.code <= 599 and "\n" not in reply.text
    except GarbledError as error:
        assert len(str(error)) < 250


@given(st.lists(st.tuples(st.integers(200, 599), st.lists(st.text("abc -.", max_size=20), min_size=1, max_size=4))),
       st.integers(1, 40))  # fmt: skip
def test_replies_come_back_whatever_pieces_they_come_in(replies, step):
    raw = b"".join(
        f"{code}{' ' if position == len(lines) - 1 else '-'}{line}\r\n".encode()
        for code, lines in replies
        for position, line in enumerate(lines)
    )
    reader = ReplyReader()
    found = [reply for start in range(0, len(raw), step) for reply in reader.feed(raw[start : start + step])]
    assert found == [Reply(code, " ".join(line.strip() for line in lines)) for code, lines in replies]
    assert reader.is_between


def test_replies_without_an_end_are_refused_early():
    with pytest.raises(GarbledError):
        ReplyReader().feed(b"250-" + b"x" * LINE_MAX_BYTES)
    with pytest.raises(GarbledError):
        ReplyReader().feed(b"250-more\r\n" * 101)
    assert ReplyReader().feed(b"250\r\n") == [Reply(250, "")]


def unstuffed(text: bytes) -> bytes:
    assert text.endswith(b"\r\n.\r\n") or text == b".\r\n"
    lines = text[: -len(b".\r\n")].split(b"\r\n")
    assert b"." not in lines
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


dotted = st.lists(st.sampled_from([b".", b"\r\n", b"a", b"..", b"\xff", b" "]), max_size=40).map(b"".join)


@given(dotted, st.integers(1, 7))
def test_dots_are_doubled_across_pieces_as_in_one(text, step):
    stuffer = Stuffer()
    pieces = b"".join(stuffer.feed(text[start : start + step]) for start in range(0, len(text), step))
    assert pieces == stuffed(text)
    assert unstuffed(pieces + stuffer.ending) == (text if text.endswith(b"\r\n") or not text else text + b"\r\n")


# Pace.


def sent_within(pacer: Pacer, start: float, seconds: float) -> int:
    now, count = start, 0
    while now < start + seconds:
        now += pacer.delay_s(now) + 1e-4
        count += 1
    return count


def test_without_a_limit_nobody_waits():
    pacer = Pacer()
    assert [pacer.delay_s(10), pacer.delay_s(10)] == [0, 0] and pacer.rate(10) == 0


def test_a_limit_is_kept_and_used():
    assert 13 <= sent_within(Pacer(14.0), 100.0, 1.0) <= 16
    assert 138 <= sent_within(Pacer(14.0), 100.0, 10.0) <= 142


def test_a_late_sender_does_not_catch_up_in_a_burst():
    pacer = Pacer(10.0)
    pacer.delay_s(100.0)
    assert sum(pacer.delay_s(200.0) == 0 for _ in range(20)) == 1


def test_a_complaint_halves_the_rate_and_it_grows_back():
    pacer = Pacer(20.0)
    pacer.slower(100.0)
    assert pacer.rate(100.0) == 10
    pacer.slower(100.3)  # of a transaction that began before
    assert pacer.rate(100.5) == pytest.approx(10.5)
    pacer.slower(102.0)
    assert pacer.rate(102.0) == pytest.approx(6)
    assert pacer.rate(200.0) == 20


def test_an_unknown_limit_is_found_from_what_was_sent_and_forgotten_later():
    pacer = Pacer()
    for step in range(200):
        pacer.delay_s(100.0 + step / 100)
    pacer.slower(102.0)
    assert pacer.rate(102.0) == pytest.approx(50)
    for _ in range(30):
        pacer.slower(pacer._slowed_at + 5)
    assert pacer.rate(pacer._slowed_at) >= 1
    assert pacer.rate(1e6) == 0


# Quota.


def judged(left: float, before: Supply = Supply.OK, *, most: float = 1000.0, slope_per_hour: float = 0.0) -> Quota:
    now = 100_000.0
    sent = most - left
    readings = [Reading(now - 3600, most, sent - slope_per_hour, 14), Reading(now, most, sent, 14)]
    quota = assess(readings, sent_since=0, reserve_pct=10, before=before, now=now)
    assert quota is not None
    return quota


@pytest.mark.parametrize(
    ("left", "before", "state"),
    [
        (900, Supply.OK, Supply.OK),
        (200, Supply.OK, Supply.OK),
        (199, Supply.OK, Supply.NEAR),
        (240, Supply.NEAR, Supply.NEAR),
        (260, Supply.NEAR, Supply.OK),
        (101, Supply.NEAR, Supply.NEAR),
        (100, Supply.NEAR, Supply.RESERVE),
        (119, Supply.RESERVE, Supply.RESERVE),
        (121, Supply.RESERVE, Supply.NEAR),
        (0, Supply.RESERVE, Supply.EXHAUSTED),
        (-5, Supply.OK, Supply.EXHAUSTED),
        (10, Supply.EXHAUSTED, Supply.EXHAUSTED),
        (11, Supply.EXHAUSTED, Supply.RESERVE),
    ],
)
def test_states_begin_early_and_end_late(left, before, state):
    assert judged(left, before).state is state


def test_the_forecast_follows_the_last_hours():
    quota = judged(600, slope_per_hour=100)
    assert quota.per_hour == pytest.approx(100) and quota.state is Supply.OK
    assert quota.exhausted_at == pytest.approx(100_000 + 6 * 3600)
    assert judged(600, slope_per_hour=160).state is Supply.NEAR
    assert judged(600, Supply.NEAR, slope_per_hour=110).state is Supply.NEAR
    assert judged(600, slope_per_hour=-50).exhausted_at is None


def test_an_even_day_is_no_alarm():
    """Half of the quota each day, all in eight hours: the window takes back as much as is sent."""
    most, state, states = 50_000.0, Supply.OK, set()
    sent = [25_000 / 96 if 32 <= quarter % 96 < 64 else 0.0 for quarter in range(96 * 4)]
    sent = [value * 3 for value in sent]
    readings = []
    for quarter in range(96, len(sent)):
        readings.append(Reading(quarter * 900.0, most, sum(sent[quarter - 96 : quarter]), 14))
        quota = assess(readings, sent_since=0, reserve_pct=10, before=state, now=quarter * 900.0)
        assert quota is not None
        state = quota.state
        states.add(state)
    assert states == {Supply.OK}


def test_an_account_without_limit_is_never_short_and_nothing_known_is_nothing():
    quota = judged(-1e9 - 1, most=-1.0)
    assert quota.state is Supply.OK and quota.left == float("inf") and quota.exhausted_at is None
    assert assess([], sent_since=5, reserve_pct=10, before=Supply.OK, now=1.0) is None


def test_what_was_sent_since_the_reading_counts():
    readings = [Reading(0, 1000, 850, 14)]
    quota = assess(readings, sent_since=60, reserve_pct=10, before=Supply.OK, now=10.0)
    assert quota is not None and quota.state is Supply.RESERVE and quota.left == 90


@given(st.floats(-1, 1e9), st.floats(0, 1e9), st.sampled_from(list(Supply)), st.floats(-1e6, 1e6))
def test_any_numbers_give_a_state(most, sent, before, earlier):
    readings = [Reading(1e6 - earlier, most, sent / 2, 1), Reading(1e6, most, sent, 1)]
    quota = assess(readings, sent_since=0, reserve_pct=10, before=before, now=1e6)
    assert quota is not None and quota.state in Supply


# Signatures: Amazon's published examples.

SUITE = AccessKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SUITE_AT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)


@pytest.mark.parametrize(
    ("method", "url", "signature"),
    [
        ("GET", "https://example.amazonaws.com/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "https://example.amazonaws.com/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "https://example.amazonaws.com/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ],
)
def test_signatures_of_the_aws_test_suite(method, url, signature):
    headers = signed_headers(method, url, {}, key=SUITE, region="us-east-1", service="service", at=SUITE_AT)
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request,"
        f" SignedHeaders=host;x-amz-date, Signature={signature}"
    )
    assert headers["x-amz-date"] == "20150830T123600Z"


def test_the_signature_of_the_documented_request_with_more_headers():
    """Amazon S3 API reference, "Signature calculations for the Authorization header", GET object."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    headers = signed_headers(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        {"Range": "bytes=0-9", "X-Amz-Content-Sha256": empty},
        key=AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        region="us-east-1",
        service="s3",
        at=datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert headers["authorization"].endswith("=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    assert "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date," in headers["authorization"]


def test_a_key_does_not_show_its_secret():
    assert "wJalr" not in repr(SUITE)
