"""A listener: its address, what all its connections share, and how it lets go of them at the end."""

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiosmtpd.smtp import SMTP

from cloudside.config import Listen
from cloudside.errors import ConfigurationError
from cloudside.mail.intake.gate import Gate
from cloudside.mail.intake.receiving import HEAD_MAX_BYTES, Bounds
from cloudside.mail.intake.spool import Memory, Spool
from cloudside.mail.intake.tls import Certificates
from cloudside.mail.message import LINE_MAX_OCTETS
from cloudside.mail.metrics import Metrics

if TYPE_CHECKING:
    from cloudside.mail.intake.listener import Server
    from cloudside.mail.intake.wire import Wire

log = structlog.get_logger(__name__)

BIND_RETRY_S = 0.5
BACKLOG = 1024
#: How long mails that are being received may go on when the relay is told to end. systemd waits for 90 s.
DRAIN_S = 10.0
#: RFC 5321 4.5.3.2: five minutes between commands and between blocks of data.
IDLE_S = 300.0
#: Seconds between two looks whether a connection idles. A tenth of the patience, so that little is lost by it.
LOOK_PART = 10


class Handler(Protocol):
    """Takes mail: has aiosmtpd's ``handle_`` methods."""

    def place(self, source: str) -> str:
        """Whose connections are counted together."""
        ...


class Door:
    """One listener's connections. Make it while the event loop runs."""

    def __init__(
        self,
        kind: "type[Server]",
        handler: Handler,
        *,
        name: str,
        host_name: str,
        size_max: int,
        gate: Gate,
        memory: Memory,
        spool: Spool | None = None,
        normalise: bool = True,
        certificates: Certificates | None = None,
        implicit_tls: bool = False,
        old_tls: Callable[[str], bool] = lambda _source: False,
        saw_old_tls: Callable[[str, str], None] = lambda _source, _version: None,
        metrics: Metrics | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        """``spool``: mail is split into head and body, and large bodies go to files; without one a handler gets the
        content in one piece. ``normalise``: mail is made CRLF text, and long lines are refused; without it, or without
        a spool, line ends and lines are as they came. ``old_tls`` says which addresses may use TLS before 1.2,
        ``saw_old_tls`` is told (address, version) when one did.
        """
        self.name = name
        self.gate = gate
        self.memory = memory
        self.spool = spool
        self.spill_bytes = spool.spill_bytes if spool is not None else size_max
        self.certificates = certificates
        self.implicit_tls = implicit_tls
        self.old_tls = old_tls
        self.saw_old_tls = saw_old_tls
        self.metrics = metrics or Metrics()
        self.idle_s = idle_s
        self.look_s = idle_s / LOOK_PART
        self.normalise = normalise and spool is not None
        self.bounds = Bounds(
            size_max, LINE_MAX_OCTETS if self.normalise else 0, HEAD_MAX_BYTES if spool is not None else 0
        )
        self.greeting = f"220 {host_name} ESMTP"
        self.loop = asyncio.get_running_loop()
        self.commands = {
            name.removeprefix("smtp_"): getattr(kind, name) for name in dir(kind) if name.startswith("smtp_")
        }
        #: Those that are open.
        self.connections: set[Wire] = set()
        self._handler = handler
        self._kind = self._prepared(kind, host_name, size_max)

    def connection(self) -> "Server":
        """For loop.create_server."""
        return self._kind(self)

    def enter(self, server: "Wire") -> str:
        """Let a connection in: its place; empty: there is none left."""
        place = self._handler.place(server.source)
        if not self.gate.enter(place):
            self.metrics.refused("connections")
            return ""
        self.connections.add(server)
        self.metrics.connected(self.name, +1)
        return place

    def leave(self, server: "Wire", place: str) -> None:
        """A connection that was let in is over."""
        self.connections.discard(server)
        self.gate.leave(place)
        self.metrics.connected(self.name, -1)

    async def serve(self, listen: Listen, stop: asyncio.Event, *, shared: bool = False) -> None:
        """Listen until ``stop``; a connection that is in the middle of a mail gets its answer first.

        Waits for the address when the gateway has not put it up yet. ``shared``: other processes of ours listen there
        too. Raises ConfigurationError: the address cannot be used at all.
        """
        server = await self._bound(listen, stop, shared=shared)
        if server is None:
            return
        log.info("listening", listener=self.name, address=str(listen.address), port=listen.port)
        try:
            await stop.wait()
            server.close()
            await self._drained()
        finally:
            server.close()
            for connection in tuple(self.connections):
                connection.abort()

    async def _drained(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self.connections:
                    for connection in tuple(self.connections):
                        connection.finish()
                    await asyncio.sleep(0.02)

    async def _bound(self, listen: Listen, stop: asyncio.Event, *, shared: bool) -> asyncio.Server | None:
        """The server, once its address is there; None: told to stop before."""
        address, port = str(listen.address), listen.port
        told = False
        while not stop.is_set():
            try:
                return await self.loop.create_server(
                    self.connection, address, port, backlog=BACKLOG, reuse_port=shared or None
                )
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                    raise ConfigurationError(
                        "mail.cannot-listen", listener=self.name, address=address, port=port, reason=str(error)
                    ) from error
                if not told:
                    log.warning("waiting-for-address", listener=self.name, address=address, port=port)
                    told = True
            with suppress(TimeoutError):
                async with asyncio.timeout(BIND_RETRY_S):
                    await stop.wait()
        return None

    def _prepared(self, kind: "type[Server]", host_name: str, size_max: int) -> "type[Server]":
        """A class with what aiosmtpd's constructor finds out as its constants.

        The constructor looks through the class and the handler for methods, which takes longer than a whole mail.
        """
        model = kind.__new__(kind)
        SMTP.__init__(
            model,
            self._handler,
            hostname=host_name,
            ident="ESMTP",
            data_size_limit=size_max,
            auth_required=kind.login_required,
            loop=self.loop,
        )
        constants: dict[str, Any] = {name: value for name, value in vars(model).items() if not callable(value)}
        constants["_smtp_methods"] = self.commands
        made: type[Server] = type(kind.__name__, (kind,), constants)
        return made
