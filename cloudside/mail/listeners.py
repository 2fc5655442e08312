"""Listening sockets of the relay: wait for the address, hand connections over, and let go of them when it ends.

An address may not be there yet (the gateway puts the service address up), so binding is tried until it works. At the
end no connection is taken any more; one that is in the middle of a mail gets its answer first.
"""

import asyncio
import errno
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from cloudside.config import Listen
from cloudside.errors import ConfigurationError

log = structlog.get_logger(__name__)

BIND_RETRY_S = 0.5
BACKLOG = 1024
#: A TLS handshake over a 3G line needs three round trips of up to a second each.
HANDSHAKE_S = 20.0
#: How long mails that are being received may go on when the relay is told to end. systemd waits for 90 s.
DRAIN_S = 10.0


class Connection(Protocol):
    """An open connection of a listener."""

    def finish(self) -> None:
        """Hang up as soon as no mail is on its way."""

    def abort(self) -> None:
        """Hang up."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address and what answers there.

    ``connections`` are the open ones, kept up by the connections themselves. ``tls``: from the first byte; none: plain,
    or by STARTTLS, which is the connection's business. ``shared``: other processes of ours listen there too.
    """

    name: str
    listen: Listen
    connect: Callable[[], asyncio.Protocol]
    connections: set[Connection]
    tls: ssl.SSLContext | None = None
    shared: bool = False


async def serve(listener: Listener, stop: asyncio.Event) -> None:
    """Listen until ``stop``, then drain. Raises ConfigurationError: the address cannot be used at all."""
    server = await _bound(listener, stop)
    if server is None:
        return
    log.info("listening", listener=listener.name, address=str(listener.listen.address), port=listener.listen.port)
    try:
        await stop.wait()
        server.close()
        await drained(listener.connections, DRAIN_S)
    finally:
        server.close()
        for connection in list(listener.connections):
            connection.abort()


async def drained(connections: set[Connection], longest_s: float) -> None:
    """Ask all to finish and wait until they have, at most ``longest_s``."""
    asked: set[int] = set()
    with suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            while connections:
                for connection in list(connections):
                    if id(connection) not in asked:  # one that was accepted a moment ago comes later
                        asked.add(id(connection))
                        connection.finish()
                await asyncio.sleep(0.02)


async def _bound(listener: Listener, stop: asyncio.Event) -> asyncio.Server | None:
    """The server, once its address is there; None: told to stop before."""
    loop = asyncio.get_running_loop()
    address, port = str(listener.listen.address), listener.listen.port
    told = False
    while not stop.is_set():
        try:
            return await loop.create_server(
                listener.connect,
                address,
                port,
                backlog=BACKLOG,
                reuse_port=listener.shared or None,
                ssl=listener.tls,
                ssl_handshake_timeout=None if listener.tls is None else HANDSHAKE_S,
            )
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise ConfigurationError(
                    "mail.cannot-listen", listener=listener.name, address=address, port=port, reason=str(error)
                ) from error
            if not told:
                log.warning("waiting-for-address", listener=listener.name, address=address, port=port)
                told = True
        with suppress(TimeoutError):
            async with asyncio.timeout(BIND_RETRY_S):
                await stop.wait()
    return None
