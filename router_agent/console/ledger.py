"""What the console keeps on the data partition: wrong answers, and logins until the cloud has heard of their end.

wrong          how many answers were wrong since the last login
logins/ID      one login: JSON. The console writes it, the agent reports it and removes it once its end was heard of.
"""

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from linux.files import write_durably

#: Reported at once; older ones wait.
REPORTED_MOST = 8
#: A login's file is 200 octets.
_FILE_MAX_BYTES = 4_000
#: Counted instead where the disk keeps nothing: then each start begins with a wait.
UNKNOWN_WRONG = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody logged in. ``at``: the router's clock then, RFC 3339; ``challenge``: as it was shown; ``boot``: names
    the start of the machine, ``pid`` the process that sees to the session: a login ends with either at the latest."""

    id: str
    at: str
    challenge: str
    boot: str
    ended: bool = False
    pid: int = field(default_factory=os.getpid)

    def document(self) -> dict[str, object]:
        """As the heartbeat has it."""
        return {"id": self.id, "at": self.at, "challenge": self.challenge, "ended": self.ended}


class Ledger:
    """``state``: the agent's state directory."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "console"
        self._logins = self._directory / "logins"

    def wrong(self) -> int:
        """Wrong answers since the last login."""
        try:
            return max(0, int((self._directory / "wrong").read_text(encoding="ascii")[:10]))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError):
            return UNKNOWN_WRONG

    def keep_wrong(self, wrong: int) -> bool:
        """Whether it is on the disk now."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._directory / "wrong", f"{wrong}\n".encode())
        except OSError as error:
            _log.error("wrong answers at the console are not kept: %s", error)
            return False
        return True

    def write(self, login: Login) -> None:
        """Keep a login, or its end. Raises OSError."""
        self._logins.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = {
            "at": login.at, "challenge": login.challenge, "boot": login.boot, "ended": login.ended, "pid": login.pid,
        }  # fmt: skip
        write_durably(self._logins / login.id, json.dumps(content).encode())

    def logins(self, boot: str) -> tuple[Login, ...]:
        """Those that the cloud is to hear of, oldest first. ``boot``: names this start of the machine."""
        try:
            places = sorted(place for place in self._logins.iterdir() if not place.name.startswith("."))
        except OSError:
            return ()
        found = [login for place in places[:REPORTED_MOST] if (login := _read(place)) is not None]
        return tuple(replace(login, ended=login.ended or not _lasts(login, boot)) for login in found)

    def forget(self, identifier: str) -> None:
        """The cloud has heard of its end."""
        with suppress(OSError):
            (self._logins / identifier).unlink(missing_ok=True)


def _lasts(login: Login, boot: str) -> bool:
    return login.boot == boot and Path(f"/proc/{login.pid}").exists()


def _read(place: Path) -> Login | None:
    try:
        found = json.loads(place.read_bytes()[:_FILE_MAX_BYTES])
        ended, pid = found["ended"] is True, int(found["pid"])
        return Login(place.name, str(found["at"]), str(found["challenge"]), str(found["boot"]), ended, pid)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: %s", place, error)
        # That somebody logged in is news even so.
        return Login(place.name, "", "", "", ended=True)
