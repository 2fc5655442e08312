"""A queue with mail that was handed over, and a recorder on it: what bounces and notices are about."""

from dataclasses import dataclass, field
from pathlib import Path

from cloudside.mail.bounces import dsn, verp
from cloudside.mail.bounces.recording import Recorder
from cloudside.mail.model import Entry, Kind, NewMessage, Selection
from cloudside.mail.store.queue import Queue

KEYS = (bytes(range(32)),)
DOMAIN = "bounces.test"
SENDER, RECIPIENT, NOTIFY = "plc@site.test", "ops@customer.test", "keeper@site.test"
NOW = 1_800_000_000.0


@dataclass
class BounceWorld:
    """``wakes`` counts the calls for delivery, ``meanings`` what was counted."""

    queue: Queue
    notify: str | None = None
    language: str = "en"
    wakes: int = 0
    meanings: list[str] = field(default_factory=list)
    made: int = 0

    @classmethod
    def at(cls, directory: Path) -> "BounceWorld":
        return cls(Queue(directory / "queue"))

    @property
    def recorder(self) -> Recorder:
        def queued() -> None:
            self.wakes += 1

        voice = dsn.Voice("relay.test", "kyoten@kyoten.test", self.language)
        return Recorder(self.queue, voice, queued, lambda _origin: self.notify, self.meanings.append)

    async def sent(self, *, remote_id: str = "", recipient: str = RECIPIENT, **changes: object) -> int:
        """A mail that the smarthost took; its id."""
        self.made += 1
        values: dict[str, object] = {
            "id": 1000 + self.made,
            "kind": Kind.MAIL,
            "origin": "tokyo-1",
            "source": "10.1.1.20",
            "sender": SENDER,
            "recipients": (recipient,),
            "subject": "Fault 7",
            "head": b"Subject: Fault 7\r\nMessage-ID: <77@plc.test>\r\n",
            "body": b"Pump 3 stopped.\r\n",
            "accepted_at": NOW,
            "tenant": "acme",
            "device": "plc",
        }
        new = NewMessage(**(values | changes))  # type: ignore[arg-type]
        await self.queue.accept(new)
        for attempt in await self.queue.claim(NOW, 10):
            await self.queue.delivered(attempt, NOW, "250 OK", remote_id)
        return new.id

    def address(self, message_id: int, *, own: bool = False) -> str:
        """Its return address."""
        return verp.compose(verp.ReturnAddress(message_id, 0, own), key=KEYS[0], domain=DOMAIN)

    async def entry(self, message_id: int) -> Entry:
        """Its only recipient."""
        (found,) = await self.queue.entries(Selection(ids=(message_id,)), 10)
        return found

    async def events(self, message_id: int) -> list[str]:
        """What happened to it."""
        (story,) = await self.queue.stories(Selection(ids=(message_id,)), 10)
        return [one.event for one in story.happenings]

    async def letters(self) -> dict[str, str]:
        """What waits for delivery: recipient -> its text."""
        found = {}
        for attempt in await self.queue.claim(NOW + 1e6, 50):
            body = attempt.body if isinstance(attempt.body, bytes) else attempt.body.read_bytes()
            found[attempt.recipient] = (attempt.head + b"\r\n" + body).decode()
        return found
