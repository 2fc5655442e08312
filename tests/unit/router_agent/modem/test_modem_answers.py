"""What modems answer, and what they might: any bytes are read, or are no answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_agent.modem import answers, lines
from router_agent.modem.answers import Operator, Registration, Sim
from router_agent.modem.lines import Kind, LineReader


@pytest.mark.parametrize(
    ("line", "command", "kind"),
    [
        ("AT+CSQ", "AT+CSQ", Kind.ECHO),
        ("\\x00AT+CSQ", "AT+CSQ", Kind.ECHO),
        ("OK", "AT+CSQ", Kind.FINAL),
        ("+CME ERROR: 10", "AT+CPIN?", Kind.FINAL),
        ("CONNECT 115200", "ATD*99#", Kind.FINAL),
        ("NO CARRIER", "ATD*99#", Kind.FINAL),
        ("+CSQ: 20,99", "AT+CSQ", Kind.INFORMATION),
        ("+CREG: 0,1", "AT+CREG?", Kind.INFORMATION),
        ('+CREG: 2,1,"00A1","01B2C3D4",7', "AT+CREG?", Kind.INFORMATION),
        ("+CREG: 1", "AT+CREG?", Kind.UNSOLICITED),
        ('+CREG: 1,"00A1","01B2C3D4",7', "AT+CREG?", Kind.UNSOLICITED),
        ("+CEREG: 5", "AT+CREG?", Kind.UNSOLICITED),
        ('+CMTI: "SM",3', "AT+CSQ", Kind.UNSOLICITED),
        ("RING", "AT+CGSN", Kind.UNSOLICITED),
        ("^BOOT:1", "AT+CGSN", Kind.UNSOLICITED),
        ("490154203237518", "AT+CGSN", Kind.INFORMATION),
        ("nonsense", "AT+CSQ", Kind.INFORMATION),
        ("nonsense", "AT+CREG?", Kind.NOISE),
        ("anything", "", Kind.UNSOLICITED),
    ],
)
def test_what_a_line_is(line: str, command: str, kind: Kind) -> None:
    assert lines.kind(line, command) is kind


def test_lines_come_whole_in_any_pieces() -> None:
    stream = b"\r\n+CSQ: 20,99\r\n\r\nOK\r\nAT\r\r\nOK\n"
    for size in range(1, len(stream) + 1):
        reader = LineReader()
        found = [line for at in range(0, len(stream), size) for line in reader.feed(stream[at : at + size])]
        assert found == ["+CSQ: 20,99", "OK", "AT", "OK"]


@given(st.lists(st.binary()))
def test_any_bytes_are_bounded_printable_lines(pieces: list[bytes]) -> None:
    reader = LineReader()
    for piece in pieces:
        for line in reader.feed(piece):
            assert line.isprintable()
            assert 0 < len(line) <= lines.LINE_MAX_BYTES
            lines.kind(line, "AT+CREG?")


def test_a_line_that_never_ends_takes_no_memory() -> None:
    reader = LineReader()
    for _ in range(1000):
        assert reader.feed(b"x" * 1000) == []
    assert [len(line) for line in reader.feed(b"\r")] == [lines.LINE_MAX_BYTES]


@given(st.lists(st.text(max_size=60) | st.from_regex(r"\+C(REG|SQ|ESQ|OPS|PIN|GSN|PINR): ?[0-9,\"A-Z ]{0,20}")))
def test_any_answer_is_read_or_is_none(found: list[str]) -> None:
    answers.sim(found)
    answers.registration(found, "+CREG")
    answers.operator(found)
    answers.imei(found)
    answers.pin_tries_left(found)
    for dbm in (answers.signal_dbm(found), answers.rsrp_dbm(found)):
        assert dbm is None or -141 <= dbm <= -44
    for line in found:
        answers.error_code(line)


def test_the_standards_own_examples() -> None:
    assert answers.signal_dbm(["+CSQ: 0,99"]) == -113
    assert answers.signal_dbm(["+CSQ: 31,0"]) == -51
    assert answers.signal_dbm(["+CSQ: 99,99"]) is None
    assert answers.signal_dbm(["+CSQ: 32,99"]) is None
    assert answers.rsrp_dbm(["+CESQ: 99,99,255,255,20,97"]) == -44
    assert answers.rsrp_dbm(["+CESQ: 99,99,255,255,255,255"]) is None
    assert answers.operator(['+COPS: 0,0,"NTT DOCOMO, Inc",7']) == Operator("NTT DOCOMO, Inc", "LTE")
    assert answers.operator(["+COPS: 0"]) == Operator()
    assert answers.imei(['+CGSN: "490154203237518"']) == "490154203237518"
    assert answers.pin_tries_left(["+CPINR: SIM PIN,2,3", "+CPINR: SIM PUK,10,10"]) == (2, 3)
    assert answers.sim(["+CPIN: SIM PIN2"]) is Sim.FAILED
    assert answers.registration(["+CREG: 2,5"], "+CREG") is Registration.ROAMING
    assert answers.registration(["+CREG: 0,6"], "+CREG") is None, "registered for short messages only"
    assert answers.error_code("+CME ERROR: 16") == 16
    assert answers.error_code("+CME ERROR: incorrect password") is None
    assert answers.best([Registration.DENIED, None, Registration.HOME]) is Registration.HOME
