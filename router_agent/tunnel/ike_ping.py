"""Does IKE get through to a gateway, without an IKE_SA? One header of a version that does not exist; never blocking.

An IKE responder answers a major version above its own with INVALID_MAJOR_VERSION (RFC 7296 section 2.5) and keeps
nothing of it. The kernel of a machine without an IKE daemon answers "port unreachable", and a firewall that drops UDP
answers nothing: three different troubles that look the same to a tunnel. Not for routine: charon logs each one.
"""

import errno
import os
import socket
import struct
from enum import Enum

from router_agent.bundle import Address

#: Initiator's SPI, responder's SPI, next payload, version, exchange type, flags, message id, length (RFC 7296
#: section 3.1).
_HEADER = struct.Struct("!8s8sBBBBII")
_VERSION_3 = 0x30
_IKE_SA_INIT, _INITIATOR = 34, 0x08
_PORTS = {500: b"", 4500: bytes(4)}  # on 4500 four zero octets tell IKE from ESP (RFC 3948 section 2.2)

#: How often it is asked, and for how long an answer is waited for after the last time, in seconds.
TRIES = 3
EVERY_S = 1.0


class Path(Enum):
    """What became of the questions."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"


class IkePing:
    """At most one gateway at a time. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._spi = b""
        self._tries = 0
        self._next_at = 0.0
        self._refused: set[int] = set()
        self.gateway: Address | None = None

    def begin(self, gateway: Address, interface: str, now: float) -> None:
        """Ask this gateway through this line, in place of what was asked before."""
        self.cancel()
        self.gateway, self._spi, self._tries, self._next_at = gateway, os.urandom(8), 0, now
        family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
        for port in _PORTS:
            made = socket.socket(family, socket.SOCK_DGRAM)
            self._sockets[port] = made
            made.setblocking(False)
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                made.connect((str(gateway), port))
            except OSError:
                continue  # what is sent is not answered, then

    def step(self, now: float) -> Path | None:
        """Ask and listen; the outcome once there is one, None before and after."""
        if self.gateway is None:
            return None
        for port, one in self._sockets.items():
            try:
                packet = one.recv(512)
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    self._refused.add(port)
                continue
            if packet[len(_PORTS[port]) :].startswith(self._spi):
                return self._done(Path.OPEN)
        if self._refused.issuperset(_PORTS):
            return self._done(Path.REFUSED)
        if now < self._next_at:
            return None
        if self._tries == TRIES:
            return self._done(Path.REFUSED if self._refused else Path.SILENT)
        self._tries += 1
        self._next_at = now + EVERY_S
        header = _HEADER.pack(self._spi, bytes(8), 0, _VERSION_3, _IKE_SA_INIT, _INITIATOR, 0, _HEADER.size)
        for port, one in self._sockets.items():
            try:
                one.send(_PORTS[port] + header)
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:  # the answer to the one before
                    self._refused.add(port)
        return None

    def cancel(self) -> None:
        """Forget what was asked."""
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()
        self._refused.clear()
        self.gateway = None

    def _done(self, path: Path) -> Path:
        self.cancel()
        return path
