"""One connection: octets in, replies out, patience. It knows lines and no commands.

Invariants: memory is bounded whatever is sent; whoever is silent, slow, or does not read its answers is let go.
"""

import asyncio
import ssl
from collections import defaultdict
from typing import Any, ClassVar

from aiosmtpd.smtp import SMTP, Envelope

from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.receiving import Receiver
from cloudside.mail.intake.spool import TIGHT_PIECE_BYTES

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
#: Of a mail that is too large this much is read and thrown away, so that its client gets the answer.
DISCARD_MAX_BYTES = 64 * 1024 * 1024

FINISHING = b"421 4.3.2 Going down, try again soon"


class Gone(Exception):
    """The connection is over."""


class Wire(SMTP):
    """What a connection is before it means anything. ``_handle_client`` is whoever reads it."""

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
        """Wait until the client sent something. Raises Gone: it never will."""
        if self._ended:
            raise Gone
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        self._waiter = self.loop.create_future()
        await self._waiter

    async def push(self, status: str | bytes) -> None:
        """Answer. Waits while the client does not read its answers."""
        if self._lost or self.transport is None or self.transport.is_closing():
            raise Gone
        response = status.encode("ascii", errors="replace") if isinstance(status, str) else status
        self.transport.write(response + b"\r\n")
        if self._drained is not None:
            await self._drained

    def _wants_attention(self, receiver: Receiver) -> bool:
        if receiver.refusal:
            return receiver.received > DISCARD_MAX_BYTES
        memory, kept = self._door.memory, len(receiver.kept)
        if memory.full:
            return kept > 0
        return kept > (TIGHT_PIECE_BYTES if memory.tight and self._door.spool is not None else self._door.spill_bytes)

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

    # Lines.

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

    async def _dismiss(self, reply: str) -> None:
        await self.push(reply)
        self.abort()
        raise Gone

    def _count_command(self) -> None:
        self._commands_left -= 10

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

    def _charge(self, kept: int) -> None:
        """This connection's part of the memory that mail may take."""
        self._door.memory.used += kept - self._charged
        self._charged = kept
