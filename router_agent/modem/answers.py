"""What a modem answers, read: 3GPP TS 27.007 (sections named below). Pure; any text is read or is no answer (None)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

#: +CME ERROR numbers with AT+CMEE=1 (section 9.2.1).
CME_SIM_MISSING = 10
CME_SIM_PIN = 11
CME_SIM_PUK = 12
CME_SIM_FAILURE = 13
CME_SIM_BUSY = 14
CME_WRONG_PASSWORD = 16

_TEXT_MAX_CHARS = 64


class Sim(Enum):
    """What the SIM wants (section 8.3)."""

    READY = "ready"
    PIN = "pin"
    PUK = "puk"
    MISSING = "missing"
    #: It is starting up: ask again.
    BUSY = "busy"
    #: Broken, or locked to a network or a device.
    FAILED = "failed"


class Registration(Enum):
    """Where the modem stands with the networks (section 7.2); the values are the report's words."""

    NONE = "none"
    HOME = "home"
    SEARCHING = "searching"
    DENIED = "denied"
    UNKNOWN = "unknown"
    ROAMING = "roaming"


_REGISTRATIONS = {
    0: Registration.NONE,
    1: Registration.HOME,
    2: Registration.SEARCHING,
    3: Registration.DENIED,
    4: Registration.UNKNOWN,
    5: Registration.ROAMING,
    6: Registration.HOME,  # SMS only: told apart below
    7: Registration.ROAMING,
}
_SMS_ONLY = frozenset({6, 7})

#: The best news first: a modem that is denied for voice and at home for packets can carry data.
_BEST = (
    Registration.HOME, Registration.ROAMING, Registration.SEARCHING, Registration.DENIED, Registration.UNKNOWN,
    Registration.NONE,
)  # fmt: skip

#: <AcT> of section 7.3.
_TECHNOLOGIES = {
    0: "GSM", 1: "GSM", 2: "UMTS", 3: "EDGE", 4: "HSDPA", 5: "HSUPA", 6: "HSPA", 7: "LTE", 8: "EC-GSM-IoT",
    9: "NB-IoT", 10: "LTE", 11: "NR", 12: "NR", 13: "LTE-NR",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operator:
    """The network and its radio; empty: none, or not said."""

    name: str = ""
    technology: str = ""


def sim(lines: Sequence[str]) -> Sim | None:
    """The answer to AT+CPIN?."""
    value = _value(lines, "+CPIN")
    if value is None:
        return None
    known = {"READY": Sim.READY, "SIM PIN": Sim.PIN, "SIM PUK": Sim.PUK}
    return known.get(value.strip('" ').upper(), Sim.FAILED)


def sim_of_error(code: int | None) -> Sim | None:
    """What an error to AT+CPIN? means; None: nothing about the SIM."""
    return {
        CME_SIM_MISSING: Sim.MISSING,
        CME_SIM_PIN: Sim.PIN,
        CME_SIM_PUK: Sim.PUK,
        CME_SIM_FAILURE: Sim.FAILED,
        CME_SIM_BUSY: Sim.BUSY,
    }.get(-1 if code is None else code)


def registration(lines: Sequence[str], command: str) -> Registration | None:
    """The answer to AT+CREG?, +CGREG? or +CEREG?: ``<n>,<stat>[,...]``; a lone ``<stat>`` is an unsolicited code."""
    fields = _fields(lines, command)
    if fields is None or len(fields) < 2:
        return None
    stat = _number(fields[1])
    if stat is None or stat in _SMS_ONLY:
        return None
    return _REGISTRATIONS.get(stat)


def best(found: Sequence[Registration | None]) -> Registration:
    """One word for what several domains say."""
    known = [each for each in found if each is not None]
    return min(known, key=_BEST.index, default=Registration.NONE)


def signal_dbm(lines: Sequence[str]) -> int | None:
    """The answer to AT+CSQ (section 8.5): -113 dBm and 2 dBm a step; 99 and what is out of range: not known."""
    fields = _fields(lines, "+CSQ")
    value = _number(fields[0]) if fields else None
    return None if value is None or not 0 <= value <= 31 else -113 + 2 * value


def rsrp_dbm(lines: Sequence[str]) -> int | None:
    """LTE's reference signal power in the answer to AT+CESQ (section 8.69): 0 is below -140 dBm, 97 is -44 and more."""
    fields = _fields(lines, "+CESQ")
    value = _number(fields[5]) if fields and len(fields) >= 6 else None
    return None if value is None or not 0 <= value <= 97 else -141 + value


def operator(lines: Sequence[str]) -> Operator | None:
    """The answer to AT+COPS? (section 7.3): ``<mode>[,<format>,<oper>[,<AcT>]]``."""
    fields = _fields(lines, "+COPS")
    if fields is None:
        return None
    name = fields[2].strip('"')[:_TEXT_MAX_CHARS] if len(fields) >= 3 else ""
    act = _number(fields[3]) if len(fields) >= 4 else None
    return Operator(name, _TECHNOLOGIES.get(-1 if act is None else act, ""))


def imei(lines: Sequence[str]) -> str | None:
    """The answer to AT+CGSN (section 5.4): the bare number, or ``+CGSN: "..."``."""
    for line in lines:
        found = re.fullmatch(r'(?:\+CGSN:\s*)?"?(\d{14,17})"?', line.strip())
        if found:
            return found[1]
    return None


def pin_tries_left(lines: Sequence[str]) -> tuple[int, int] | None:
    """The answer to AT+CPINR (section 8.65) for the PIN: tries left, and how many there are at most."""
    for line in lines:
        found = re.match(r'\+CPINR:\s*"?SIM PIN"?\s*,\s*(\d{1,3})(?:\s*,\s*(\d{1,3}))?\s*$', line)
        if found:
            return int(found[1]), int(found[2] or 3)
    return None


def error_code(final: str) -> int | None:
    """The number in ``+CME ERROR: <n>``; None: another result, or a text."""
    found = re.fullmatch(r"\+CM[ES] ERROR:\s*(\d{1,5})", final)
    return int(found[1]) if found else None


def _value(lines: Sequence[str], command: str) -> str | None:
    head = f"{command}:"
    # The last one: what an unsolicited code said in between is older.
    return next((line[len(head) :].strip() for line in reversed(lines) if line.startswith(head)), None)


def _fields(lines: Sequence[str], command: str) -> list[str] | None:
    value = _value(lines, command)
    return None if value is None else [part.strip() for part in re.findall(r'("[^"]*"|[^,]*)(?:,|$)', value)][:16]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,5}", text.strip('" '), re.ASCII) else None
