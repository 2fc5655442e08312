"""A PIN is tried once. Three wrong ones lock a SIM, and the router is far away.

Written before the SIM is asked, so that a power cut in that moment does not lead to a second try. Kept as a salted
scrypt hash, in a file of mode 0600: 10,000 PINs are soon tried by whoever has the hash. Another PIN or another SIM is
another try.
"""

import hashlib
import hmac
import json
import re
import secrets
from enum import Enum
from pathlib import Path

from linux.files import write_durably
from router_agent.errors import StateError

NAME = "modem-pin.json"

#: 27.007 section 8.3 and 3GPP TS 31.101 section 9.5.1: 4 to 8 digits.
PIN_FORM = re.compile(r"\d{4,8}", re.ASCII)

_COST = 1 << 12


class Tried(Enum):
    """What is known about a PIN."""

    NEVER = "never"
    #: It was sent, and what became of it is not known: the power or the modem failed.
    UNSURE = "unsure"
    REFUSED = "refused"


class PinMemory:
    """What became of the last PIN that was tried."""

    def __init__(self, state: Path) -> None:
        self._path = state / NAME

    def tried(self, pin: str, sim: str) -> Tried:
        """What is known about this PIN on this SIM (its ICCID; empty: it does not tell).

        A file that cannot be read counts against the PIN: unsure.
        """
        try:
            found = json.loads(self._path.read_text())
            expected = _hash(pin, sim, bytes.fromhex(found["salt"]))
            same = hmac.compare_digest(bytes.fromhex(found["hash"]), expected)
            return Tried(found["outcome"]) if same else Tried.NEVER
        except FileNotFoundError:
            return Tried.NEVER
        except (OSError, ValueError, KeyError, TypeError):
            return Tried.UNSURE

    def keep(self, pin: str, sim: str, outcome: Tried) -> None:
        """Remember. Raises StateError: it cannot be written, and then the PIN must not be tried."""
        salt = secrets.token_bytes(16)
        document = {"salt": salt.hex(), "hash": _hash(pin, sim, salt).hex(), "outcome": outcome.value}
        try:
            write_durably(self._path, json.dumps(document).encode())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StateError("agent.state-unwritable", path=str(self._path.parent), reason=reason) from error

    def forget(self) -> None:
        """The SIM took it."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            pass  # at worst a good PIN is asked for its tries left before it is sent again


def _hash(pin: str, sim: str, salt: bytes) -> bytes:
    return hashlib.scrypt(f"{pin} {sim}".encode(), salt=salt, n=_COST, r=8, p=1)
