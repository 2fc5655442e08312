"""A queue with mail of several owners, and what is in it afterwards."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from cloudside.mail.model import Entry, Kind, NewMessage, Selection
from cloudside.mail.store.queue import Queue

#: When the mail was accepted: 2027-01-15 08:00 UTC, an hour apart.
NOW = 1_800_000_000.0
HOUR = 3600.0


@dataclass(frozen=True)
class Mail:
    """What a test cares about of a message."""

    number: int
    tenant: str
    origin: str
    device: str
    recipients: tuple[str, ...]
    subject: str
    held: str = ""

    @property
    def id(self) -> str:
        return f"{self.number:016x}"


MAILS = (
    Mail(1, "acme", "tokyo-1", "plc-1", ("a@x.test",), "[red]Fault 7"),
    Mail(2, "acme", "tokyo-1", "plc-2", ("a@x.test", "b@x.test"), "故障\x1b[2J"),
    Mail(3, "birch", "kobe-1", "10.1.0.9", ("a@x.test",), "birch only"),
    Mail(4, "acme", "osaka-1", "plc-3", ("c@x.test",), "held one", held="limit: 10 an hour"),
    Mail(5, "", "server/web", "10.255.0.10", ("a@x.test",), "server's"),
)


def fill(directory: Path) -> None:
    """Message 1 is delivered, 4 is held, the others wait."""

    async def work() -> None:
        queue = Queue(directory, reserve_bytes=0)
        for mail in MAILS:
            await queue.accept(new_message(mail))
            if mail.number == 1:
                (attempt,) = await queue.claim(NOW + HOUR, 1)
                await queue.delivered(attempt, NOW + 1, "250 OK", "ses-id-1")
        queue.close()

    asyncio.run(work())


def standing(directory: Path) -> dict[int, str]:
    """The state of each message's first recipient, by number."""

    async def work() -> list[Entry]:
        queue = Queue(directory, reserve_bytes=0)
        found = await queue.entries(Selection(), 100)
        queue.close()
        return found

    states: dict[int, str] = {}
    for entry in asyncio.run(work()):
        states.setdefault(int(entry.message, 16), entry.state)
    return states


def new_message(mail: Mail) -> NewMessage:
    """As the listeners would make it."""
    return NewMessage(
        id=mail.number,
        kind=Kind.MAIL,
        origin=mail.origin,
        source="10.1.0.9",
        sender="p@x.test",
        recipients=mail.recipients,
        subject=mail.subject,
        head=b"Subject: x\r\n",
        body=b"body\r\n",
        accepted_at=NOW + (mail.number - 1) * HOUR,
        tenant=mail.tenant,
        device=mail.device,
        held=mail.held,
    )
