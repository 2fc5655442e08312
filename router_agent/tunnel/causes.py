"""Why charon did not get a tunnel, from the lines it wrote meanwhile. Pure, and a reader of the log's end.

vici 5.9.8 answers an initiation with "failed" and no reason, and its log events can deadlock charon: so the log's file
is read. The texts are those of strongSwan 5.9; a line that is not known is no cause.
"""

import re
from collections.abc import Iterable
from pathlib import Path

#: How much of the log's end is read, in bytes. One attempt writes about 3 kB.
READ_MOST_BYTES = 64_000

#: Most telling first: a refusal of ours comes with lines about what was refused.
_CAUSES = (
    # libstrongswan/credentials/credential_manager.c: the gateway's certificate is not valid at our clock's time.
    (r"subject certificate invalid \(valid from|issuer certificate invalid", "agent.gateway-certificate-dates"),
    (r"certificate was revoked|no trusted \S+ public key found", "agent.gateway-certificate-refused"),
    (r"no issuer certificate found|constraint check failed", "agent.gateway-certificate-refused"),
    # What the gateway told us (RFC 7296 section 3.10.1).
    (r"received AUTHENTICATION_FAILED", "agent.tunnel-authentication-failed"),
    (r"received TS_UNACCEPTABLE|no acceptable traffic selectors", "agent.tunnel-prefix-refused"),
    (r"received NO_PROPOSAL_CHOSEN", "agent.tunnel-no-proposal"),
)


def cause(lines: Iterable[str]) -> str | None:
    """The key of the problem that these lines tell of, None when they tell of none that is known."""
    kept = list(lines)
    return next((key for pattern, key in _CAUSES if any(re.search(pattern, line) for line in kept)), None)


class LogEnd:
    """charon's log from a mark on. A log that was set aside since is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = 0

    def mark(self) -> None:
        """Count from here."""
        self._mark = self._size()

    def lines(self) -> list[str]:
        """What was written since the mark."""
        size = self._size()
        begin = max(self._mark if self._mark <= size else 0, size - READ_MOST_BYTES)
        try:
            with self._path.open("rb") as stream:
                stream.seek(begin)
                return stream.read(READ_MOST_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
