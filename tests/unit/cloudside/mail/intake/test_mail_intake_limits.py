"""Mails a minute, failed logins, urgent mail, addresses that a list permits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.config import UrgentRule
from cloudside.mail.address import mailbox, path, permitted, routed, valid
from cloudside.mail.intake.gate import Gate, LoginThrottle, Rate
from cloudside.mail.intake.urgency import compiled, urgent
from cloudside.mail.message import fields


def test_a_bucket_empties_and_fills_evenly():
    rate = Rate(6)
    assert [rate.take("a", 0) for _ in range(7)] == [True] * 6 + [False]
    assert rate.take("b", 0)
    assert not rate.take("a", 9.9) and rate.take("a", 10.1) and not rate.take("a", 10.2)
    assert [rate.take("a", 1000) for _ in range(7)] == [True] * 6 + [False]


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("cloudside.mail.intake.gate._REMEMBERED_MAX", 5)
    rate, throttle = Rate(6), LoginThrottle()
    for number in range(50):
        rate.take(str(number), 0)
        throttle.failed(str(number), 0, str(number))
        throttle.succeeded(str(number), str(number))
    assert max(len(rate._left), len(throttle._by_user), len(throttle._by_source), len(throttle._good)) <= 5


def test_the_gate_knows_when_it_is_crowded():
    gate = Gate(4, 4)
    for _ in range(3):
        assert gate.enter("a") and not gate.crowded
    assert gate.enter("b") and gate.crowded and not gate.enter("c")
    gate.leave("a")
    assert not gate.crowded


def test_failures_by_user_name_count_wherever_they_come_from():
    throttle = LoginThrottle(user_failures_max=3, user_window_s=100)
    throttle.succeeded("home", "plc")
    for number in range(3):
        assert not throttle.blocked("x", number, "plc")
        throttle.failed(f"attacker-{number}", number, "plc")
    assert throttle.blocked("x", 10, "plc") and not throttle.blocked("x", 10, "other")
    assert not throttle.blocked("home", 10, "plc")
    assert not throttle.blocked("x", 100.5, "plc")
    assert throttle.failures_since(1) == [("attacker-1", "plc", 1), ("attacker-2", "plc", 1)]


HEAD = b"Subject: x\r\nX-Priority: 1 (Highest)\r\nX-Class:\r\n fire\r\n"


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({"subject": "fire|\u706b\u707d"}, True),
        ({"subject": "^Fire ALARM"}, True),
        ({"subject": "fault"}, False),
        ({"header": "X-Priority: ^1"}, True),
        ({"header": "x-priority: ^2"}, False),
        ({"header": "X-Class: fire"}, True),
        ({"header": "Importance: high"}, False),
        ({"origins": ("tokyo-1",)}, True),
        ({"origins": ("osaka-1",)}, False),
        ({"origins": ("tokyo-1",), "subject": "fault"}, False),
        ({"origins": ("tokyo-1",), "subject": "fire", "header": "X-Priority: 1"}, True),
    ],
)
def test_which_mail_is_urgent(rule, matches):
    rules = compiled([UrgentRule(**rule)])
    assert urgent(rules, "tokyo-1", "Fire alarm, floor 3", fields(HEAD)) is matches
    assert (
        urgent((*compiled([UrgentRule(origins=("nobody",))]), *rules), "tokyo-1", "Fire alarm", fields(HEAD)) is matches
    )
    assert not urgent((), "tokyo-1", "Fire", fields(HEAD))


@given(st.text(max_size=60))
def test_any_text_is_an_argument_or_none(text):
    found = path(text)
    assert found is None or found[0]
    mailbox(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<a@b>", ("a@b", "")),
        ("<>", ("<>", "")),
        (" <a@b>  SIZE=3 BODY=7BIT ", ("a@b", "SIZE=3 BODY=7BIT")),
        ("a@b SIZE=3", ("a@b", "SIZE=3")),
        ("<a@b>x", None),
        ("<a b@c>", None),
        ("<a@b", None),
        ("", None),
        ("<<a@b>>", None),
    ],
)
def test_arguments(text, found):
    assert path(text) == found


@given(st.from_regex(r"[a-z]{1,5}@[a-z]{1,5}\.test", fullmatch=True))
def test_an_address_in_any_usual_form_is_read(address):
    for text in (address, f"<{address}>", f"Plant 7 <{address}>", f' "Plant, 7" <{address}> '):
        assert mailbox(text) == address
    for text in (f"{address}, x@y.test", f"x@y.test <{address}>", f'"x@y.test" <{address}>', f"g: {address};"):
        assert mailbox(text) is None


def test_matching_a_malicious_from_does_not_take_long():
    for text in ("a " * 499, '"' * 900, "<" * 900, "a@" * 450, " " * 100_000, '"\\' * 450):
        assert mailbox(text) is None


def test_lists():
    assert permitted("any@x.test", frozenset())
    allowed = frozenset({"a@x.test", "@y.test"})
    assert permitted("A@X.test", allowed) and permitted("b@Y.test", allowed)
    assert not any(permitted(one, allowed) for one in ("b@x.test", "a@sub.y.test", "y.test", "", "@x.test"))
    assert routed("a%b@c.test") and routed("b!a@c.test") and not routed("a+b@c.test")
    assert all(valid(one) for one in ("a%b@c.test", "b!a@c.test"))
