"""DATA: a mail's text, from the 354 until its handler's reply. A disconnect does not undo a commit under way."""

from dataclasses import dataclass

import structlog
from aiosmtpd.smtp import Envelope

from cloudside.errors import KyotenError
from cloudside.mail.intake.receiving import Receiver
from cloudside.mail.intake.replies import REFUSED_MEMORY, status_for
from cloudside.mail.intake.secured import Secured
from cloudside.mail.intake.spool import Spill
from cloudside.mail.intake.wire import COMMANDS_MAX
from cloudside.mail.model import Spilled

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Incoming:
    """A mail as it came: header section and body, CRLF text, dots unstuffed. A handler sets ``handed_over`` when the
    body's file, if it has one, became somebody else's.
    """

    head: bytes
    body: bytes | Spilled
    handed_over: bool = False


class Mailing(Secured):
    """A connection that a mail can come over."""

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
        """Read a mail to its end; the reply if it is refused, empty if it is not. Raises Gone."""
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
