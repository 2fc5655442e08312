"""One connection: aiosmtpd with its traps closed.

Invariants: our own faults are 4xx and exception text never leaves the process; memory is bounded whatever is sent; only
CRLF.CRLF ends a mail; what came with STARTTLS in the clear is thrown away; a disconnect does not undo a commit under
way. aiosmtpd gives the commands and their syntax; reading, timing, mail data, TLS and AUTH are ours, and what its
constructor finds out about a class is found out once a door and not once a connection.
"""

import asyncio
import re
import ssl
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog
from aiosmtpd.smtp import SMTP, Envelope

from cloudside.errors import KyotenError, RefusedError
from cloudside.mail.address import path
from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.receiving import Receiver
from cloudside.mail.intake.spool import TIGHT_PIECE_BYTES, Spill
from cloudside.mail.intake.tls import OLD_VERSIONS
from cloudside.mail.model import LimitExceededError, Spilled
from cloudside.mail.store.engine import StorageFullError

log = structlog.get_logger(__name__)

#: A mail may take the idle time, and longer when it still arrives at this rate: a 3G site is slow but not stalled.
MINIMUM_BYTES_PER_S = 64
#: Commands on one connection since the last mail that was taken. 100 recipients of one mail must fit.
COMMANDS_MAX = 1000
#: RFC 5321 4.5.3.1.4 asks for 512 octets; parameters make it longer.
LINE_MAX_BYTES = 1024
#: RFC 4954 section 4 allows 12288 octets; a user name and a password are no tickets.
AUTH_LINE_MAX_BYTES = 4096
#: Without a line end in so many octets nobody speaks SMTP there.
JUNK_MAX_BYTES = 1024 * 1024
#: More commands than this unread and reading pauses until they are answered.
UNREAD_MAX_BYTES = 64 * 1024
UNKNOWN_COMMANDS_MAX = 5
#: Of a mail that is too large this much is read and thrown away, so that its client gets the answer.
DISCARD_MAX_BYTES = 64 * 1024 * 1024
HANDSHAKE_S = 30.0

REFUSED_FAULT = "451 4.3.0 A fault on our side, try again later"
REFUSED_FULL = "452 4.3.1 Out of storage, try again later"
FINISHING = b"421 4.3.2 Going down, try again soon"
REFUSED_MEMORY = "452 4.3.1 Too much mail at once, try again later"

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: What a browser says that was lured here (cross-protocol scripting).
_FOREIGN = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "HOST:"})


def status_for(error: Exception) -> str:
    """The reply to a client when ``error`` stopped its command. Tells nothing of the error's text."""
    if isinstance(error, StorageFullError):
        return REFUSED_FULL
    if isinstance(error, LimitExceededError):
        return f"450 4.7.1 The limit of the {error.params.get('scope', 'site')} is used up, try again later"
    if isinstance(error, RefusedError):
        return "550 5.7.1 You may not send mail here"
    return REFUSED_FAULT


class _Gone(Exception):
    """The connection is over."""


@dataclass(slots=True)
class Incoming:
    """A mail as it came: header section and body, CRLF text, dots unstuffed. A handler sets ``handed_over`` when the
    body's file, if it has one, became somebody else's.
    """

    head: bytes
    body: bytes | Spilled
    handed_over: bool = False


class Server(SMTP):
    """One connection through a door."""

    #: aiosmtpd keeps these on the class and lets each EHLO raise them for everyone. Ours are above.
    command_size_limits: ClassVar[defaultdict[str, int]] = defaultdict(lambda: LINE_MAX_BYTES)  # type: ignore[misc]
    #: Whether mail is taken after a login only.
    login_required: ClassVar[bool] = False
    # aiosmtpd has them None before the connection is there.
    transport: Any
    session: Any
    envelope: Any

    def __init__(self, door: Door) -> None:
        # aiosmtpd's constructor was run once for all connections, see Door.
        self._door = door
        self._input = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None
        self._charged = 0
        self._paused = False
        self._ended = False
        self._lost = False
        self._finishing = False
        self._commands_left = COMMANDS_MAX
        self._unknown_left = UNKNOWN_COMMANDS_MAX
        self._active_at = 0.0
        self._data_began = 0.0
        self._place = ""
        self.source = ""
        self.secured: ssl.SSLObject | None = None
        #: Whether a mail of it is on its way to the disk.
        self.busy = False

    @property
    def encrypted(self) -> bool:
        """Whether TLS is there, by STARTTLS or from the beginning."""
        return self.secured is not None

    @property
    def listener(self) -> str:
        """The door's name."""
        return self._door.name

    def abort(self) -> None:
        """Hang up."""
        if self.transport is not None:
            self.transport.close()

    def finish(self) -> None:
        """Hang up as soon as no mail is on its way."""
        self._finishing = True
        transport = self.transport
        if not self.busy and not self._data_began and transport is not None and not transport.is_closing():
            if not self._door.implicit_tls or self.encrypted:
                transport.write(FINISHING + b"\r\n")
            transport.close()

    # What the transport tells us.

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername")
        self.transport = transport
        self.source = str(peer[0]) if peer else "unknown"
        self._place = self._door.enter(self)
        if not self._place:
            if not self._door.implicit_tls:
                transport.write(b"421 4.7.0 Too many connections, try again later\r\n")
            transport.close()
            return
        self.session = self._create_session()
        self.session.peer = peer
        self.envelope = Envelope()
        self._active_at = self.loop.time()
        self._timeout_handle = self.loop.call_later(self._door.look_s, self._look)
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self._input += data
            if len(self._input) > UNREAD_MAX_BYTES:
                self._pause()
        else:
            self._input += receiver.feed(data)
            self._charge(len(receiver.kept))
            if not receiver.ended:
                if not self._wants_attention(receiver):
                    return
                self._pause()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return self.secured is None  # what was sent before is still answered; TLS cannot be half closed

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._ended = True
        self._wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def pause_writing(self) -> None:
        self._drained = self._drained or self.loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _pause(self) -> None:
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    async def _more(self) -> None:
        """Wait until the client sent something. Raises _Gone: it never will."""
        if self._ended:
            raise _Gone
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        self._waiter = self.loop.create_future()
        await self._waiter

    async def push(self, status: str | bytes) -> None:
        """Answer. Waits while the client does not read its answers."""
        if self._lost or self.transport is None or self.transport.is_closing():
            raise _Gone
        response = status.encode("ascii", errors="replace") if isinstance(status, str) else status
        self.transport.write(response + b"\r\n")
        if self._drained is not None:
            await self._drained

    # Time.

    def _look(self) -> None:
        """One timer a connection that looks now and then, and not one a command."""
        now = self.loop.time()
        idle_s = self._door.idle_s
        began = self._data_began
        if began:
            receiver = self._receiver
            allowance = idle_s + (receiver.received if receiver is not None else 0) / MINIMUM_BYTES_PER_S
            reply = b"421 4.4.2 Too slow, closing\r\n" if now - began > allowance else b""
        else:
            patience = idle_s / 10 if self._door.gate.crowded else idle_s
            reply = b"421 4.4.2 Nothing said for too long, closing\r\n" if now - self._active_at > patience else b""
        transport = self.transport
        if reply and transport is not None and not self.busy:
            self._door.metrics.refused("slow" if began else "idle")
            if not transport.is_closing():
                transport.write(reply)
                transport.close()
            # Whoever does not read this either is cut off at the next look.
            self.loop.call_later(self._door.look_s, transport.abort)
            return
        self._timeout_handle = self.loop.call_later(self._door.look_s, self._look)

    # The conversation.

    async def _handle_client(self) -> None:
        try:
            if self._door.implicit_tls:
                await self._encrypt()
            await self.push(self._door.greeting)
            while True:
                line = await self._line(LINE_MAX_BYTES)
                self._active_at = self.loop.time()
                await self._obey(line)
                if self._finishing:
                    await self._dismiss(FINISHING.decode())
        except (_Gone, ConnectionError):
            pass
        except Exception as error:  # a bug of ours must not leave the connection standing
            log.error("smtp-session-fault", source=self.source, error=type(error).__name__, exc_info=error)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        self._receiver = None
        self._charge(0)
        self._input.clear()
        self._door.leave(self, self._place)
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.close()

    async def _line(self, most: int) -> bytes:
        """The next line without its end. A longer one is read to its end and answered; the one after it counts."""
        searched = dropped = 0
        while True:
            end = self._input.find(b"\n", searched)
            if end < 0:
                searched = len(self._input)
                if searched > AUTH_LINE_MAX_BYTES:
                    dropped += searched
                    searched = 0
                    self._input.clear()
                if dropped > JUNK_MAX_BYTES:
                    await self._dismiss("421 4.7.0 This is no SMTP, closing")
                await self._more()
                continue
            line = bytes(self._input[:end])
            del self._input[: end + 1]
            searched = 0
            limit = max(most, AUTH_LINE_MAX_BYTES) if line[:5].upper() == b"AUTH " else most
            if not dropped and len(line) <= limit:
                return line.rstrip(b"\r")
            dropped = 0
            self._count_command()
            await self.push("500 Command line too long")

    async def _obey(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if _CONTROL.search(line) or not line.isascii() or not word:
            self._count_command()
            await self.push("500 5.5.2 Error: bad syntax")
            return
        command = word.upper().decode("ascii")
        method = self._door.commands.get(command)
        if method is None:
            await self._refuse_unknown(command)
            return
        self._commands_left -= 1
        if self._commands_left < 0:
            await self._dismiss("421 4.7.0 Too many commands without a mail, closing")
        argument = rest.decode("ascii").strip() or None
        try:
            await method(self, argument)
        except (_Gone, ConnectionError):
            raise
        except Exception as error:
            await self.push(await self.handle_exception(error))

    def _count_command(self) -> None:
        self._commands_left -= 10

    async def _refuse_unknown(self, command: str) -> None:
        self._unknown_left -= 1
        # After BDAT comes the mail, which must not be read as commands.
        if command in _FOREIGN or command == "BDAT" or self._unknown_left < 1:
            known = "502 5.5.1 BDAT is not offered" if command == "BDAT" else "502 5.5.1 Too many unrecognized commands"
            await self._dismiss(f"{known}, goodbye")
        await self.push("500 5.5.1 Error: command not recognized")

    async def _dismiss(self, reply: str) -> None:
        await self.push(reply)
        self.abort()
        raise _Gone

    async def handle_exception(self, error: Exception) -> str:
        if not isinstance(error, KyotenError):
            log.error("smtp-session-fault", source=self.source, error=type(error).__name__, exc_info=error)
        return status_for(error)

    def _getparams(self, params: Sequence[str]) -> dict[str, str | bool] | None:
        # RFC 4954 section 5: whoever offers AUTH takes this parameter, and need not believe it.
        return super()._getparams([one for one in params if not one.startswith("AUTH=")])

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        found = path(arg)
        return (None, None) if found is None else found

    # Commands.

    async def smtp_EHLO(self, hostname: str | None) -> None:
        if not hostname:
            await self.push("501 5.5.4 Syntax: EHLO hostname")
            return
        self.envelope = Envelope()
        self.session.extended_smtp = True
        self.session.host_name = hostname
        offered = [self.hostname, "PIPELINING", f"SIZE {self.data_size_limit}", "8BITMIME"]
        if self._door.certificates is not None and not self.encrypted:
            offered.append("STARTTLS")
        offered.extend(self.offered())
        offered.append("HELP")
        await self.push("\r\n".join([*(f"250-{one}" for one in offered[:-1]), f"250 {offered[-1]}"]))

    def offered(self) -> list[str]:
        """More words for EHLO."""
        return []

    async def smtp_QUIT(self, arg: str | None) -> None:
        if arg:
            await self.push("501 5.5.4 Syntax: QUIT")
        else:
            await self._dismiss("221 2.0.0 Bye")

    async def smtp_AUTH(self, arg: str | None) -> None:
        await self.push("502 5.5.1 There is no login here")

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self.push("252 2.5.2 Cannot verify, but will take mail and try")

    async def smtp_EXPN(self, arg: str | None) -> None:
        await self.push("502 5.5.1 EXPN is not offered")

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        if arg:
            await self.push("501 5.5.4 Syntax: STARTTLS")
        elif self._door.certificates is None:
            await self.push("502 5.5.1 TLS is not offered here")
        elif self.encrypted:
            await self.push("503 5.5.1 TLS is there already")
        else:
            await self.push("220 2.0.0 Ready to start TLS")
            await self._encrypt()

    async def _encrypt(self) -> None:
        """Put TLS under the connection and forget what was said before (RFC 3207 section 4.2)."""
        certificates, transport = self._door.certificates, self.transport
        if certificates is None or transport is None or self._lost:
            raise _Gone
        if self._input and not self._door.implicit_tls:
            # Whoever sits in the middle puts commands here that would count as said under TLS (CVE-2011-0411).
            log.warning("commands-with-starttls", source=self.source, octets=len(self._input))
            self._door.metrics.refused("starttls-injection")
            self._input.clear()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        old = self._door.old_tls(self.source)
        upgrade: Any = self.loop.start_tls(
            transport,
            self,
            certificates.context(old=old),
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
        )
        try:
            if self._door.implicit_tls:
                # The client's first words came to us, or may have come. Nothing does once start_tls has begun.
                upgrade = self.loop.create_task(upgrade)
                await asyncio.sleep(0)
                first, self._input = bytes(self._input), bytearray()
                self.loop.call_soon(_pass_on, transport.get_protocol(), first)  # after its connection_made
            secured = await upgrade
        except (OSError, ssl.SSLError) as error:
            log.info("tls-handshake-failed", source=self.source, reason=type(error).__name__)
            self._door.metrics.refused("tls")
            transport.close()
            raise _Gone from error
        if secured is None:
            raise _Gone
        self.transport = secured
        self.secured = secured.get_extra_info("ssl_object")
        self.session = self._create_session()
        self.session.peer = secured.get_extra_info("peername")
        self.envelope = Envelope()
        version = self.secured.version() if self.secured is not None else None
        if version in OLD_VERSIONS:
            self._door.saw_old_tls(self.source, str(version))

    # A mail.

    async def smtp_DATA(self, arg: str | None) -> None:
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        if not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        receiver = Receiver(self._door.bounds, normalise=self._door.normalise)
        spill = self._door.spool.open() if self._door.spool is not None else None
        incoming: Incoming | None = None
        self._data_began = self.loop.time()
        try:
            status = await self._receive(receiver, spill)
            self._data_began = 0.0
            if not status:
                self.busy = True
                if spill is None:
                    self.envelope.content = receiver.drain()
                else:
                    body = spill.finished() if spill.size else receiver.drain()
                    incoming = Incoming(receiver.head or b"", body)
                    self.envelope.content = incoming
                status = await self._call_handler_hook("DATA")
        finally:
            if spill is not None and (incoming is None or not incoming.handed_over):
                spill.discard()
            self._charge(0)
            self._data_began = 0.0
            self._active_at = self.loop.time()
            self.envelope = Envelope()
            self.busy = False
        if status.startswith("250"):
            self._commands_left = COMMANDS_MAX
        await self.push(status)

    async def _receive(self, receiver: Receiver, spill: Spill | None) -> str:
        """Read a mail to its end; the reply if it is refused, empty if it is not. Raises _Gone."""
        self._receiver = receiver
        try:
            if self._input:
                waiting = bytes(self._input)
                self._input.clear()
                self._input += receiver.feed(waiting)
                self._charge(len(receiver.kept))
            while not receiver.ended:
                if self._wants_attention(receiver):
                    await self._relieve(receiver, spill)
                await self._more()
        finally:
            self._receiver = None
        receiver.finish()
        if not receiver.refusal and spill is not None and spill.size:
            await self._write(receiver, spill)
        return receiver.refusal

    def _wants_attention(self, receiver: Receiver) -> bool:
        if receiver.refusal:
            return receiver.received > DISCARD_MAX_BYTES
        memory, kept = self._door.memory, len(receiver.kept)
        if memory.full:
            return kept > 0
        return kept > (TIGHT_PIECE_BYTES if memory.tight and self._door.spool is not None else self._door.spill_bytes)

    async def _relieve(self, receiver: Receiver, spill: Spill | None) -> None:
        """Make room: into the file, or out of the door."""
        if receiver.refusal:
            await self._dismiss(receiver.refusal)
        elif spill is not None and receiver.find_head():
            await self._write(receiver, spill)
        elif self._door.memory.full:
            self._door.metrics.refused("memory")
            receiver.refuse(REFUSED_MEMORY)
            self._charge(0)

    async def _write(self, receiver: Receiver, spill: Spill) -> None:
        try:
            await spill.write(receiver.drain())
        except KyotenError as error:
            log.error("mail-not-spilled", source=self.source, reason=error.key)
            receiver.refuse(status_for(error))
        self._charge(len(receiver.kept))

    def _charge(self, kept: int) -> None:
        """This connection's part of the memory that mail may take."""
        self._door.memory.used += kept - self._charged
        self._charged = kept


def _pass_on(protocol: Any, data: bytes) -> None:
    """Give a TLS protocol what came before it was there."""
    view = memoryview(data)
    while view:
        room = protocol.get_buffer(len(view))
        count = min(len(room), len(view))
        room[:count] = view[:count]
        protocol.buffer_updated(count)
        view = view[count:]
