"""The door at the console: tries, waits, what outlives the power, and what the agent reports."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firmware import console
from router_agent.console import login
from router_agent.console.ledger import REPORTED_MOST, UNKNOWN_WRONG, Ledger, Login
from router_agent.console.login import Door, Keys, Verdict
from router_agent.console.report import ConsoleWatch, fingerprint

OWN, SERVICE, OTHER = (ec.derive_private_key(1000 + number, ec.SECP256R1()) for number in range(3))
KEYS = Keys("tokyo-1", OWN, SERVICE.public_key())
NONCE = 0x0123456789
#: The same as in tests/unit/firmware/test_console_codes.py and tests/unit/cloudside/cli/test_cli_console.py.
CHALLENGE, RESPONSE = "04HM-ASW9-GWVV", "XN7S-ESPV-V8AQ"


def door(wrong: int = 0) -> Door:
    return login.open_door(KEYS, nonce=NONCE, wrong=wrong, now=100.0)


def a_wrong_answer(number: int = 0) -> str:
    return console.write(console.Kind.RESPONSE, number)


def test_the_router_shows_and_takes_the_shared_vector() -> None:
    shown = door()
    assert shown.challenge.text == CHALLENGE
    assert login.look_at(shown, RESPONSE.lower().replace("-", " ") + "\r\n", 101.0) is None
    assert login.judge(shown.counted(), RESPONSE) is Verdict.OPEN


def test_three_wrong_answers_shut_the_door() -> None:
    one = door().counted()
    assert (login.judge(one, a_wrong_answer()), one.tries_left) == (Verdict.WRONG, 2)
    two = one.counted()
    assert login.judge(two, a_wrong_answer()) is Verdict.WRONG
    assert login.judge(two.counted(), a_wrong_answer()) is Verdict.SHUT


def test_a_start_in_between_gives_no_more_tries() -> None:
    assert door(wrong=2).tries_left == 1
    assert login.judge(door(wrong=2).counted(), a_wrong_answer()) is Verdict.SHUT


def test_the_wait_grows_and_ends() -> None:
    assert [login.wait_s(wrong) for wrong in (0, 2, 3, 5, 6, 9)] == [0, 0, 60, 60, 120, 240]
    assert login.wait_s(login.WRONG_MOST) == login.WAIT_MOST_S
    assert door(wrong=10**9).counted().wrong == login.WRONG_MOST


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("what?", Verdict.MALFORMED),
        (RESPONSE[:-1] + "Z", Verdict.MISTYPED),
        (CHALLENGE, Verdict.ECHOED),
    ],
)
def test_what_cannot_be_a_response_is_not_counted(answer: str, verdict: Verdict) -> None:
    assert login.look_at(door(), answer, 101.0) is verdict


def test_a_challenge_is_good_for_ten_minutes() -> None:
    assert login.look_at(door(), RESPONSE, 100.0 + 599.9) is None
    assert login.look_at(door(), RESPONSE, 100.0 + 600.0) is Verdict.LATE


def test_another_service_key_shows_another_tag() -> None:
    other = login.open_door(Keys("tokyo-1", OWN, OTHER.public_key()), nonce=NONCE, wrong=0, now=0.0)
    assert other.challenge.nonce == door().challenge.nonce
    assert other.challenge.tag != door().challenge.tag


def test_nothing_secret_is_in_a_text() -> None:
    shown = repr(door()) + repr(KEYS)
    assert KEYS.secret.hex() not in shown
    assert "secret" not in shown
    assert "own=" not in shown


class TestLedger:
    def test_wrong_answers_outlive_the_power(self, tmp_path: Path) -> None:
        assert Ledger(tmp_path).wrong() == 0
        assert Ledger(tmp_path).keep_wrong(4)
        assert Ledger(tmp_path).wrong() == 4

    def test_a_damaged_count_costs_a_wait(self, tmp_path: Path) -> None:
        Ledger(tmp_path).keep_wrong(1)
        (tmp_path / "console/wrong").write_bytes(b"\xff\xfe")
        assert Ledger(tmp_path).wrong() == UNKNOWN_WRONG
        assert login.wait_s(UNKNOWN_WRONG) > 0

    def test_a_disk_that_keeps_nothing_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "console").write_text("a file is in the way")
        assert not Ledger(tmp_path).keep_wrong(1)

    def test_a_login_ends_with_the_start_of_the_machine_at_the_latest(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write(Login("1", "2026-11-22T10:00:00+00:00", CHALLENGE, boot="a"))
        assert [found.ended for found in ledger.logins("a")] == [False]
        assert [found.ended for found in ledger.logins("b")] == [True]

    def test_a_login_ends_with_its_process_at_the_latest(self, tmp_path: Path) -> None:
        ended = subprocess.Popen(["true"])
        ended.wait()
        ledger = Ledger(tmp_path)
        ledger.write(Login("1", "", CHALLENGE, boot="a", pid=ended.pid))
        assert [found.ended for found in ledger.logins("a")] == [True]

    def test_a_damaged_login_is_told_even_so(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write(Login("1", "", CHALLENGE, boot="a"))
        (tmp_path / "console/logins/1").write_bytes(b"{")
        assert [(found.id, found.ended) for found in ledger.logins("a")] == [("1", True)]

    def test_only_so_many_are_told_at_once(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        for number in range(REPORTED_MOST + 2):
            ledger.write(Login(f"{number:02}", "", CHALLENGE, boot="a"))
        assert [found.id for found in ledger.logins("a")] == [f"{number:02}" for number in range(REPORTED_MOST)]


class TestWatch:
    def test_a_login_is_told_until_its_end_was_heard_of(self, tmp_path: Path) -> None:
        ledger, watch = Ledger(tmp_path), ConsoleWatch(tmp_path, "a")
        begun = Login("1", "2026-11-22T10:00:00+00:00", CHALLENGE, boot="a")
        ledger.write(begun)
        assert len(watch.report(to_cloud=True).logins) == 1 and watch.visited
        # It ends after that heartbeat was written: the answer to it is not about its end.
        ledger.write(Login("1", begun.at, CHALLENGE, boot="a", ended=True))
        assert not watch.visited
        watch.report(to_cloud=False)
        watch.heard(None)
        assert [login.ended for login in watch.report(to_cloud=True).logins] == [True]
        watch.heard(None)
        assert watch.report(to_cloud=True).logins == ()

    def test_the_key_of_the_answer_is_taken_and_named(self, tmp_path: Path) -> None:
        (tmp_path / "identity").mkdir()
        watch = ConsoleWatch(tmp_path, "a")
        assert watch.report(to_cloud=True).key == ""
        watch.heard(pem(SERVICE))
        assert watch.report(to_cloud=True).key == fingerprint(pem(SERVICE).encode())

    @pytest.mark.parametrize("given", ["", "nonsense", "p384"])
    def test_what_is_no_key_leaves_the_one_before(self, tmp_path: Path, given: str) -> None:
        (tmp_path / "identity").mkdir()
        watch = ConsoleWatch(tmp_path, "a")
        watch.heard(pem(SERVICE))
        watch.heard(pem(ec.derive_private_key(5, ec.SECP384R1())) if given == "p384" else given)
        assert watch.report(to_cloud=True).key == fingerprint(pem(SERVICE).encode())


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def test_random_bits_are_as_many_as_the_challenge_has() -> None:
    assert console.NONCE_BITS % 8 == 0
    assert len(os.urandom(console.NONCE_BITS // 8)) == 5
