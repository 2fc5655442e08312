"""Bounces of many kinds through the real door for bounces: does each find its mail and its recipient?

dsn_attribution_pct   bounces that were written down at the very recipient of the very mail that they came for, as what
                      they are, and nowhere else
dsn_read_pct          bounces whose meaning, status, permanence and cause are what the corpus says
dsn_shapes            different shapes that were sent, each to a recipient of its own
dsn_per_s             bounces a second on one connection

Every mail has several recipients with one of them bouncing; all bounces are about one address, so that its name cannot
tell the mails apart; each comes twice.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiosmtplib

from cloudside.mail.bounces import dsn, reading, verp
from cloudside.mail.bounces.listener import BounceHandler
from cloudside.mail.bounces.recording import Recorder
from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.gate import Gate
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.spool import Memory
from cloudside.mail.model import Kind, NewMessage, Selection
from cloudside.mail.store.queue import Queue
from tests.bench.parts import Figures
from tests.unit.cloudside.mail.bounces.bounce_corpus import Shape, shapes

KEY = bytes(range(32))
DOMAIN = "bounces.example.net"
#: The recipient that the corpus is about; some of it names others, as forwarding makes reports do.
ASKED = "ops@customer.example"
RECIPIENTS = 4
#: Mails that nothing bounces of, among the others: whatever is written down there is wrong.
BYSTANDERS = 50
#: What is written down for each meaning.
EVENTS = {
    "failed": "bounced",
    "delayed": "report-delayed",
    "delivered": "report-delivered",
    "auto-reply": "report-auto-reply",
    "unclear": "report-unclear",
    "complained": "complained",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """A shape and the recipient that it is sent for."""

    shape: Shape
    message_id: int
    index: int

    @property
    def recipients(self) -> tuple[str, ...]:
        """The mail's recipients: the one that the corpus is about, and others."""
        return tuple(ASKED if index == self.index else f"r{index}@customer.example" for index in range(RECIPIENTS))

    @property
    def address(self) -> str:
        """The return address that it comes to."""
        return verp.compose(verp.ReturnAddress(self.message_id, self.index, own=False), key=KEY, domain=DOMAIN)


def measure() -> Figures:
    """Send the corpus and look where it landed."""
    with tempfile.TemporaryDirectory(prefix="kyoten-bench-") as directory:
        return asyncio.run(_measure(Path(directory)))


async def _measure(directory: Path) -> Figures:
    queue = Queue(directory / "queue")
    try:
        wanted = [Expected(shape, 5000 + number, number % RECIPIENTS) for number, shape in enumerate(shapes())]
        for one in wanted:
            await _sent(queue, one.message_id, one.recipients)
        for number in range(9000, 9000 + BYSTANDERS):
            await _sent(queue, number, (ASKED, "r1@customer.example"))
        recorder = Recorder(queue, dsn.Voice("relay.example.net", "kyoten@example.net", "en"), lambda: None)
        door = Door(
            Server,
            BounceHandler(recorder, (KEY,), DOMAIN),
            name="bounce",
            host_name="relay.example.net",
            size_max=1_000_000,
            gate=Gate(10, 10),
            memory=Memory(),
        )
        server = await asyncio.get_running_loop().create_server(door.connection, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            began = time.monotonic()
            for _ in range(2):
                await _hand_in(port, wanted)
            seconds = time.monotonic() - began
        finally:
            server.close()
            for connection in tuple(door.connections):
                connection.abort()
            await asyncio.sleep(0.05)
        attributed = await _attributed(queue, wanted)
    finally:
        queue.close()
    return {
        "dsn_attribution_pct": 100 * attributed / len(wanted),
        "dsn_read_pct": 100 * sum(_read_rightly(one.shape) for one in wanted) / len(wanted),
        "dsn_shapes": len(wanted),
        "dsn_per_s": 2 * len(wanted) / seconds,
    }


async def _sent(queue: Queue, number: int, recipients: tuple[str, ...]) -> None:
    """A mail to several recipients that the smarthost took."""
    new = NewMessage(
        id=number,
        kind=Kind.MAIL,
        origin="site-1",
        source="10.1.1.20",
        sender="plc@site.example.net",
        recipients=recipients,
        subject="Fault 7",
        head=b"Subject: Fault 7\r\n",
        body=b"Pump 3 stopped.\r\n",
        accepted_at=time.time(),
        tenant="acme",
    )
    await queue.accept(new)
    for attempt in await queue.claim(time.time() + 1, 100):
        await queue.delivered(attempt, time.time(), "250 OK", f"0100-{number}-{attempt.index}")


async def _hand_in(port: int, wanted: list[Expected]) -> None:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, local_hostname="mx", timeout=10)
    async with client:
        for one in wanted:
            await client.sendmail(one.shape.sender, [one.address], one.shape.raw)


async def _attributed(queue: Queue, wanted: list[Expected]) -> int:
    """How many were written down once, rightly, and at their own recipient only."""
    found = 0
    for one in wanted:
        happened = await _reports(queue, one.message_id)
        found += happened == [(ASKED, EVENTS[one.shape.meaning])]
    strayed = 0
    for number in range(9000, 9000 + BYSTANDERS):
        strayed += len(await _reports(queue, number))
    return max(0, found - strayed)


async def _reports(queue: Queue, number: int) -> list[tuple[str, str]]:
    (story,) = await queue.stories(Selection(ids=(number,)), 10)
    return [(one.recipient, one.event) for one in story.happenings if one.event in EVENTS.values()]


def _read_rightly(shape: Shape) -> bool:
    report = reading.read(shape.raw, null_sender=not shape.sender, recipient=ASKED)
    permanence = "permanent" if report.permanent else "temporary"
    return (
        (report.meaning, report.status) == (shape.meaning, shape.status)
        and shape.permanence in ("-", permanence)
        and shape.cause in ("-", report.cause)
    )
