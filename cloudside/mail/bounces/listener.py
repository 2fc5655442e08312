"""The public door for bounces: takes mail for signed return addresses only, and turns failures into reports.

The report to the sender is committed together with the recipient's new state before the bounce is acknowledged. The
whole world may connect, so each address has a rate, and of a bounce the first 256 KiB are read, a few at a time.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from aiosmtpd.smtp import MISSING, Envelope, Session

from cloudside.mail.bounces import reading, verp
from cloudside.mail.bounces.rates import Rate
from cloudside.mail.bounces.recording import Recorder
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.mailing import Incoming
from cloudside.mail.message import has_bare_line_ends
from cloudside.mail.model import Spilled, shown_id

log = structlog.get_logger(__name__)

#: A bounce is about one mail and one recipient; a few more for servers that bundle.
RECIPIENTS_MAX = 10
#: Bounces a minute from one address. A provider with all its customers behind one address stays far below.
BOUNCES_PER_MINUTE = 600.0
BOUNCES_AT_ONCE = 300
#: Wrong addresses a minute from one address: whoever guesses is slowed down, a list of old addresses gets through.
GUESSES_PER_MINUTE = 30.0
GUESSES_AT_ONCE = 60
#: Bounces that are read at once: each takes some times its size in memory.
READERS = 2
_BLOCK_BYTES = 256 * 1024

TOO_MANY = "450 4.7.1 Too many from your address, try again later"


@dataclass(frozen=True)  # no slots: aiosmtpd inspects its handler, which fails on a class with them
class BounceHandler:
    """Accepts bounces for addresses that one of ``keys`` signed."""

    recorder: Recorder
    keys: Sequence[bytes]
    domain: str
    clock: Callable[[], float] = time.time
    _bounces: Rate = field(default_factory=lambda: Rate(BOUNCES_PER_MINUTE, BOUNCES_AT_ONCE))
    _guesses: Rate = field(default_factory=lambda: Rate(GUESSES_PER_MINUTE, GUESSES_AT_ONCE))
    _readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    def place(self, source: str) -> str:
        """Whose connections are counted together: one address's."""
        return source

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        now = time.monotonic()
        if not self._guesses.allows(server.source, now):
            return TOO_MANY
        if verp.parse(address, keys=self.keys, domain=self.domain) is None:
            self._guesses.take(server.source, now)
            return "550 5.1.1 No such return address"
        if len(envelope.rcpt_tos) >= RECIPIENTS_MAX:
            return "452 4.5.3 Too many recipients"
        return MISSING

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        if not self._bounces.take(server.source, time.monotonic()):
            return TOO_MANY
        async with self._readers:
            start, clean = await asyncio.to_thread(_start_of, envelope.content)
        if not clean:
            return "554 5.6.0 A carriage return or line feed stands alone (RFC 5321 2.3.8)"
        null_sender = envelope.mail_from in ("<>", "", None)
        for text in envelope.rcpt_tos:
            address = verp.parse(text, keys=self.keys, domain=self.domain)
            if address is not None:
                # A client that leaves cancels us, not the commit.
                await asyncio.shield(asyncio.ensure_future(self.take(address, start, null_sender=null_sender)))
        return "250 2.0.0 Noted"

    async def take(self, address: verp.ReturnAddress, start: bytes, *, null_sender: bool) -> None:
        """Read a bounce and take it down. Raises UnavailableError: it was not."""
        known = await self.recorder.known(address.message_id, address.index)
        if known is None:
            log.info("bounce-for-forgotten-message", message=shown_id(address.message_id))
            return
        async with self._readers:
            report = await asyncio.to_thread(reading.read, start, null_sender=null_sender, recipient=known[1])
        await self.recorder.record(known, address.index, report, self.clock())


def _start_of(content: object) -> tuple[bytes, bool]:
    """As much of a bounce as is read, and whether all of it keeps to CRLF. Its file is the server's to remove."""
    if not isinstance(content, Incoming):
        raw = content if isinstance(content, bytes) else b""
        return raw[: reading.READ_MAX_BYTES], not has_bare_line_ends(raw)
    body, clean = _start_of_file(content.body.path) if isinstance(content.body, Spilled) else _start_of(content.body)
    start = content.head[: reading.READ_MAX_BYTES] + b"\r\n" + body
    return start[: reading.READ_MAX_BYTES], clean and not has_bare_line_ends(content.head)


def _start_of_file(path: Path) -> tuple[bytes, bool]:
    start = bytearray()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            while block.endswith(b"\r") and (more := file.read(1)):
                block += more  # a CRLF that the blocks would cut in two
            if has_bare_line_ends(block):
                return b"", False
            if len(start) < reading.READ_MAX_BYTES:
                start += block
    return bytes(start), True
