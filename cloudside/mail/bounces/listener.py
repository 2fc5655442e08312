"""The public door for bounces: takes mail for signed return addresses only, and turns failures into reports.

The report to the sender is committed together with the recipient's new state before the bounce is acknowledged.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiosmtpd.smtp import MISSING, Envelope, Session

from cloudside.mail.bounces import dsn, reading, verp
from cloudside.mail.intake.listener import Server
from cloudside.mail.message import has_bare_line_ends
from cloudside.mail.model import State, shown_id
from cloudside.mail.store.queue import Queue

log = structlog.get_logger(__name__)

#: A bounce is about one mail and one recipient; a few more for servers that bundle.
RECIPIENTS_MAX = 10


@dataclass(frozen=True)  # no slots: aiosmtpd inspects its handler, which fails on a class with them
class BounceHandler:
    """Accepts bounces. ``queued`` is called when a report to a sender waits for delivery."""

    queue: Queue
    key: bytes
    domain: str
    voice: dsn.Voice
    queued: Callable[[], None]

    def place(self, source: str) -> str:
        """Whose connections are counted together: one address's."""
        return source

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        if verp.parse(address, key=self.key, domain=self.domain) is None:
            return "550 5.1.1 No such return address"
        if len(envelope.rcpt_tos) >= RECIPIENTS_MAX:
            return "452 4.5.3 Too many recipients"
        return MISSING

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        if has_bare_line_ends(content):
            return "554 5.6.0 A carriage return or line feed stands alone (RFC 5321 2.3.8)"
        null_sender = envelope.mail_from in ("<>", "")
        report = await asyncio.to_thread(reading.read, content, null_sender=null_sender)
        for text in envelope.rcpt_tos:
            address = verp.parse(text, key=self.key, domain=self.domain)
            if address is not None:
                await asyncio.shield(asyncio.ensure_future(self.record(address, report)))
        return "250 2.0.0 Noted"

    async def record(self, address: verp.ReturnAddress, report: reading.Report) -> None:
        """Write down what a bounce said; for a failure, once, queue the report to the sender."""
        now = time.time()
        known = await self.queue.original(address.message_id, address.index)
        if known is None:
            log.info("bounce-for-forgotten-message", message=shown_id(address.message_id))
            return
        original, recipient = known
        reason = f"{report.status} {report.reason}"
        if report.meaning is not reading.Meaning.FAILED:
            await self.queue.note(address.message_id, address.index, now, f"bounce-{report.meaning}", reason)
            return
        answer = None
        if dsn.wanted(original):
            answer = dsn.compose(
                original,
                recipient,
                State.BOUNCED,
                status=report.status,
                reason=report.reason,
                voice=self.voice,
                now=now,
                new_id=secrets.randbits(63),
            )
        new = await self.queue.fail(address.message_id, address.index, State.BOUNCED, now, reason, answer)
        if new and answer is not None:
            self.queued()
        log.info("bounce-received", message=shown_id(original.id), new=new, reported=new and answer is not None)
