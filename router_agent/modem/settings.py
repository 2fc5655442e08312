"""The mobile line's settings, ``mobile.*``, and their limits. Pure. The cloud has the same table for its own checks."""

import re
from dataclasses import dataclass, replace

from router_agent.modem.budget import MIB, Action
from router_agent.modem.pin import PIN_FORM

PREFIX = "mobile."

#: 3GPP TS 23.003 section 9.1: at most 100 octets, labels of letters, digits, hyphens.
_APN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,98}[A-Za-z0-9])?\Z")
TEXT_MAX_CHARS = 64
BUDGET_MAX_MIB = 1 << 24


@dataclass(frozen=True, slots=True)
class MobileSettings:
    """``apn`` empty: the SIM's own. ``pin`` and ``password`` are secret: not in a repr, a report or a log."""

    apn: str = ""
    pin: str = ""
    user: str = ""
    password: str = ""
    roaming: bool = False
    budget_bytes: int = 0
    budget_action: Action = Action.REPORT

    def __repr__(self) -> str:
        return f"MobileSettings(apn={self.apn!r}, roaming={self.roaming}, budget_bytes={self.budget_bytes})"


def changed(settings: MobileSettings, name: str, value: object) -> MobileSettings:
    """With one setting as the cloud sends it. Raises ValueError: unknown, or out of its limits."""
    match name.removeprefix(PREFIX):
        case "apn":
            return replace(settings, apn=_matching(value, _APN))
        case "pin":
            return replace(settings, pin=_matching(value, PIN_FORM))
        case "user":
            return replace(settings, user=_line(value))
        case "password":
            return replace(settings, password=_line(value))
        case "roaming":
            if not isinstance(value, bool):
                raise ValueError
            return replace(settings, roaming=value)
        case "budget_mib":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= BUDGET_MAX_MIB:
                raise ValueError
            return replace(settings, budget_bytes=value * MIB)
        case "budget_action":
            return replace(settings, budget_action=Action(value))
        case _:
            raise ValueError


def _matching(value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError
    return value


def _line(value: object) -> str:
    """Text for an options file and a PAP packet: one line of printable ASCII."""
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_MAX_CHARS or not value.isascii():
        raise ValueError
    if not value.isprintable():
        raise ValueError
    return value
