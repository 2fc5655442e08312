"""charon's log in its own words (5.9.8), and what is made of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.vpn import causes, witness
from cloudside.vpn.causes import Cause, Reader
from cloudside.vpn.witness import Witness

AT = "2026-11-22T03:08:01"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
INIT = ["01[IKE] <3> 198.51.100.11 is initiating an IKE_SA"]
CLAIM = ["09[CFG] <3> looking for peer configs matching 198.51.100.1[vpn.kyoten]...198.51.100.11[tokyo]"]
UP = ["15[IKE] <sites|3> IKE_SA sites[3] established between 198.51.100.1[vpn.kyoten]...198.51.100.11[tokyo]"]
NO = ["09[ENC] <sites|3> generating IKE_AUTH response 1 [ N(AUTH_FAILED) ]"]


def _read(*lines: str, reader: Reader | None = None, at: str = AT) -> list[Cause]:
    return list((reader or Reader()).read(f"{at} {line}" for line in lines))


def _complaint(*words: str, end: list[str] = NO) -> Cause:
    [found] = _read(*INIT, *CLAIM, *(f"09[CFG] <sites|3> {one}" for one in words), *end)
    return found


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("subject certificate invalid (valid from Oct 18 02:08:01 2025 to Oct 18 03:08:01 2026)",
         "certificate-expired"),
        ("subject certificate invalid (valid from Nov 22 02:08:01 2027 to Nov 21 03:08:01 2028)",
         "certificate-not-yet-valid"),
        ("certificate was revoked on Nov 22 03:08:34 UTC 2026, reason: unspecified", "certificate-revoked"),
        ('no issuer certificate found for "CN=tokyo"', "unknown-authority"),
        ("subject address block 10.20.1.0/24 is not contained in any issuer address block", "foreign-block"),
        ("subject certificate lacks ipAddrBlocks extension", "no-block"),
        ("no trusted ECDSA public key found for 'tokyo'", "authentication"),
        ("  TS 10.20.1.0/24 is not contained in any address block constraint", "traffic-selectors"),
        ("received proposals: ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ", "esp-proposal"),
    ],
)  # fmt: skip
def test_a_complaint_has_its_key_and_whose_it_is(words: str, key: str) -> None:
    found = _complaint(words)
    assert (found.key, found.site, found.peer, found.ended) == (f"causes.{key}", "tokyo", "198.51.100.11", False)
    assert found.params["peer"] == "198.51.100.11"


def test_the_first_complaint_counts() -> None:
    found = _complaint(
        'no issuer certificate found for "CN=tokyo"',
        "subject certificate invalid (valid from Oct 18 02:08:01 2025 to Oct 18 03:08:01 2026)",
        "no trusted ECDSA public key found for 'tokyo'",
    )
    assert found.key == "causes.unknown-authority"


def test_an_attempt_that_succeeds_after_complaints_is_none() -> None:
    old = "09[CFG] <sites|3> subject certificate invalid (valid from Oct 18 02:08:01 2025 to Oct 18 03:08:01 2026)"
    assert _read(*INIT, *CLAIM, old, *UP) == []


def test_attempts_at_the_same_time_are_told_apart() -> None:
    lines = [
        *INIT,
        "02[IKE] <4> 198.51.100.12 is initiating an IKE_SA",
        *CLAIM,
        "02[CFG] <4> looking for peer configs matching 198.51.100.1[vpn.kyoten]...198.51.100.12[osaka]",
        '02[CFG] <sites|4> no issuer certificate found for "CN=osaka"',
        "09[CFG] <sites|3> subject certificate lacks ipAddrBlocks extension",
        *NO,
        "02[ENC] <sites|4> generating IKE_AUTH response 1 [ N(AUTH_FAILED) ]",
    ]
    assert [(one.site, one.key) for one in _read(*lines)] == [
        ("tokyo", "causes.no-block"),
        ("osaka", "causes.unknown-authority"),
    ]


def test_a_proposal_names_no_site() -> None:
    words = "09[CFG] <3> received proposals: IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024"
    [found] = _read(*INIT, words, "09[ENC] <3> generating IKE_SA_INIT response 0 [ N(NO_PROP) ]")
    assert (found.key, found.site, found.peer) == ("causes.ike-proposal", "", "198.51.100.11")


def test_an_ike_version_that_is_not_offered() -> None:
    [found] = _read("10[IKE] <13> no IKE config found for 198.51.100.1...198.51.100.11, sending NO_PROPOSAL_CHOSEN")
    assert (found.key, found.peer) == ("causes.ike-version", "198.51.100.11")


def test_half_open() -> None:
    [found] = _read(*INIT, "15[JOB] <3> deleting half open IKE_SA with 198.51.100.11 after timeout")
    assert (found.key, found.peer) == ("causes.half-open", "198.51.100.11")


def test_how_a_tunnel_ends() -> None:
    [silent] = _read(*INIT, *CLAIM, *UP, "16[IKE] <sites|3> giving up after 4 retransmits")
    assert (silent.key, silent.site, silent.ended) == ("causes.dead-peer", "tokyo", True)
    deleted = "13[IKE] <sites|3> received DELETE for IKE_SA sites[3]"
    [refused] = _read(*INIT, *CLAIM, *UP, deleted)
    assert refused.key == "causes.router-refused"
    reader = Reader()
    assert _read(*INIT, *CLAIM, *UP, reader=reader) == []
    [ended] = _read(deleted, reader=reader, at="2026-11-22T03:09:01")
    assert (ended.key, ended.ended) == ("causes.router-ended", True)


def test_a_flood_pushes_out_attempts_and_no_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causes, "MOST_ATTEMPTS", 10)
    reader = Reader()
    _read(*INIT, *CLAIM, *UP, reader=reader)
    _read(*(f"01[IKE] <{number}> 192.0.2.1 is initiating an IKE_SA" for number in range(100, 200)), reader=reader)
    assert len(reader._attempts) == 10
    [found] = _read("16[IKE] <sites|3> giving up after 4 retransmits", reader=reader)
    assert found.site == "tokyo"


@given(st.lists(st.text() | st.sampled_from([f"{AT} {line}" for line in (*INIT, *CLAIM, *UP, *NO)])))
def test_any_line_is_taken(lines: list[str]) -> None:
    for found in Reader().read(lines):
        assert found.key.startswith("causes.")


def _write(path: Path, *lines: str) -> None:
    with path.open("a") as log:
        log.writelines(f"{AT} {line}\n" for line in lines)


def test_the_log_is_read_as_it_grows_and_over_its_being_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "charon.log"
    seen = Witness(log, since=BEGAN)
    assert seen.look() == ()
    half, rest = NO[0][:20], NO[0][20:]
    _write(log, *INIT, *CLAIM, "09[CFG] <sites|3> subject certificate lacks ipAddrBlocks extension")
    assert seen.look() == ()
    with log.open("a") as growing:
        growing.write(f"{AT} {half}")
    assert seen.look() == ()
    with log.open("a") as growing:
        growing.write(f"{rest}\n")
    assert [found.key for found in seen.look()] == ["causes.no-block"]
    _write(log, *INIT, *CLAIM, "09[CFG] <sites|3> no trusted ECDSA public key found for 'tokyo'")
    log.rename(tmp_path / "charon.log.1")
    _write(log, *NO)
    assert [found.key for found in seen.look()] == ["causes.authentication"]
    assert seen.look() == ()
    seen.close()


def test_what_was_before_is_told_of_no_more(tmp_path: Path) -> None:
    log = tmp_path / "charon.log"
    _write(log, *INIT, *CLAIM, *UP, "16[IKE] <sites|3> giving up after 4 retransmits")
    seen = Witness(log, since=datetime.fromisoformat(AT).astimezone(UTC) + timedelta(seconds=1))
    assert seen.look() == ()
    seen.close()


def test_of_a_flood_only_the_newest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "MOST_BYTES", 2000)
    log = tmp_path / "charon.log"
    _write(log, "")
    seen = Witness(log, since=BEGAN)
    seen.look()
    _write(log, *("01[NET] <9> received packet: from 192.0.2.1[500]" for _ in range(1000)))
    _write(log, *INIT, *CLAIM, "09[CFG] <sites|3> no trusted ECDSA public key found for 'tokyo'", *NO)
    assert [found.key for found in seen.look()] == ["causes.authentication"]
    seen.close()
