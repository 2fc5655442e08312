"""What the agent tells the cloud of the console, and the key that it takes from its answers. Loads nothing large."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from linux.files import write_durably
from router_agent import bundle
from router_agent.console.ledger import Ledger, Login

#: A PEM of a public key on P-256 has 178 octets.
KEY_MAX_CHARS = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsoleReport:
    """``key``: which console key this router has, see `fingerprint`; ``logins``: whose end was not heard of yet."""

    key: str = ""
    logins: tuple[Login, ...] = ()

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return {"key": self.key, "logins": [login.document() for login in self.logins]}


class ConsoleWatch:
    """``boot`` names this start of the machine."""

    def __init__(self, state: Path, boot: str) -> None:
        self._key = state / "identity" / bundle.CONSOLE_KEY
        self._ledger = Ledger(state)
        self._boot = boot
        self._told: tuple[Login, ...] = ()

    def report(self, *, to_cloud: bool) -> ConsoleReport:
        """How it stands. ``to_cloud``: this is the next heartbeat, and no other is under way."""
        logins = self._ledger.logins(self._boot)
        if to_cloud:
            self._told = logins
        try:
            key = fingerprint(self._key.read_bytes())
        except OSError:
            key = ""
        return ConsoleReport(key, logins)

    @property
    def visited(self) -> bool:
        """Whether somebody is logged in at the serial line."""
        return any(not login.ended for login in self._ledger.logins(self._boot))

    def heard(self, key: str | None) -> None:
        """The last report was answered. ``key``: the console key that counts, None: the one that was named."""
        for login in self._told:
            if login.ended:
                self._ledger.forget(login.id)
        self._told = ()
        if key is not None:
            self._take(key)

    def _take(self, pem: str) -> None:
        from router_agent.console import keys

        try:
            keys.parse(pem.encode())
            write_durably(self._key, pem.encode(), mode=0o644)
        except (OSError, ValueError) as error:
            _log.error("the console key is not taken: %s", error)
        else:
            _log.info("the cloud's console key is %s now", fingerprint(pem.encode())[:16])


def fingerprint(pem: bytes) -> str:
    """Names a console key: SHA-256 of its PEM without blanks around it. The cloud says it likewise."""
    return hashlib.sha256(pem.strip()).hexdigest()
