"""Does the tunnel carry anything? One TCP connect to the gateway's service address, never blocking.

An answer of any kind is an answer: a refused connection crossed the tunnel twice as well. Source address is the
router's overlay address, so an answer cannot have come any other way.
"""

import errno
import select
import socket

from router_agent.bundle import Address

_SENT = (0, errno.EINPROGRESS)
_ANSWERED = (0, errno.ECONNREFUSED)


class Probe:
    """At most one attempt at a time. Times are monotonic seconds."""

    def __init__(self, source: Address, target: Address, port: int) -> None:
        self._source = (str(source), 0)
        self._target = (str(target), port)
        self._family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        self._socket: socket.socket | None = None
        self._give_up_at = 0.0
        self._failed = False

    def begin(self, now: float, wait_s: float) -> None:
        """Start an attempt in place of the one before, if any."""
        self.cancel()
        attempt = socket.socket(self._family, socket.SOCK_STREAM)
        attempt.setblocking(False)
        self._socket = attempt
        self._give_up_at = now + wait_s
        try:
            attempt.bind(self._source)
            self._failed = attempt.connect_ex(self._target) not in (*_SENT, *_ANSWERED)
        except OSError:
            self._failed = True

    def outcome(self, now: float) -> bool | None:
        """True or False once the attempt has ended, only once; None while it runs or when there is none.

        An attempt that failed at once ends at its time limit too: the route may come a moment after the tunnel.
        """
        if self._socket is None:
            return None
        if not self._failed:
            _, writable, _ = select.select([], [self._socket], [], 0)
            if writable:
                error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error in _ANSWERED:
                    self.cancel()
                    return True
                self._failed = True
        if now < self._give_up_at:
            return None
        self.cancel()
        return False

    def cancel(self) -> None:
        """Forget the attempt."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._failed = False
