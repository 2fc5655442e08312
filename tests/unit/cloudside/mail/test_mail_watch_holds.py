"""Mail that was taken while a hold ended does not wait for ever; what another hold, a limit or a person keeps does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from cloudside.mail.delivery.delivery import Delivery
from cloudside.mail.intake.directory import Directory
from cloudside.mail.model import Kind, NewMessage, Selection
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch.holds import SETTLE_S, Holds
from cloudside.registry import mail_holds
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

NOON = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


@dataclass
class Out:
    """A delivery that counts how often it was woken."""

    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


class Eye:
    """The step, its surroundings, and a clock."""

    def __init__(self, queue: Queue, registry: Database) -> None:
        self.queue, self.registry, self.out, self.now = queue, registry, Out(), NOON
        self._sent = 0
        self.restart()

    def restart(self) -> None:
        self.directory = Directory(self.registry)
        self.holds = Holds(self.queue, self.directory, cast(Delivery, self.out))

    async def look(self, seconds: float = 0.0) -> None:
        self.now += timedelta(seconds=seconds)
        self.directory.refresh(self.now)
        await self.holds.run(self.now)

    async def send(self, held: str, **changed: Any) -> None:
        self._sent += 1
        known = {"origin": "tokyo-1", "tenant": "acme", "device": "plc", "recipients": ("a@x.test",)}
        await self.queue.accept(
            NewMessage(
                id=self._sent,
                kind=Kind.MAIL,
                source="127.0.1.20",
                sender="p@x.test",
                subject=held,
                head=b"Subject: x\r\n",
                body=b"y\r\n",
                accepted_at=self.now.timestamp(),
                held=held,
                **(known | changed),
            )
        )

    def put(self, scope: str, name: str) -> None:
        with self.registry.write() as session:
            mail_holds.put(session, OPERATOR, scope=scope, name=name, reason="flood", author="ops", now=self.now)

    def take_away(self, scope: str, name: str) -> None:
        with self.registry.write() as session:
            mail_holds.take_away(session, OPERATOR, scope=scope, name=name)

    async def held(self) -> list[int]:
        return [int(one.message, 16) for one in await self.queue.entries(Selection(), 100) if one.state == "held"]


@pytest.fixture
async def eye(tmp_path: Path, registry: Database) -> AsyncIterator[Eye]:
    queue = Queue(tmp_path / "queue", reserve_bytes=0)
    yield Eye(queue, registry)
    queue.close()


async def test_what_was_taken_by_what_was_known_before_goes_out(eye: Eye) -> None:
    eye.put("site", "tokyo-1")
    await eye.look()
    await eye.look(SETTLE_S)
    eye.take_away("site", "tokyo-1")
    await eye.look(1)
    await eye.send("hold: flood")  # another process had not read the registry yet
    await eye.look(SETTLE_S - 1)
    assert await eye.held() == [1]
    await eye.look(1)
    assert await eye.held() == [] and eye.out.woken == 1
    await eye.look(SETTLE_S)
    assert eye.out.woken == 1


async def test_what_something_else_keeps_stays(eye: Eye) -> None:
    for scope, name in (("site", "tokyo-1"), ("site", "osaka-1"), ("tenant", "acme")):
        eye.put(scope, name)
    await eye.look()
    await eye.send("hold: flood")
    await eye.send("hold: flood", origin="osaka-1")
    await eye.send("limit: 10 an hour")
    await eye.send("")
    await eye.queue.hold(Selection(ids=(4,)), eye.now.timestamp(), "by hand: odd")
    eye.take_away("site", "tokyo-1")
    await eye.look(1)
    await eye.look(SETTLE_S)
    assert await eye.held() == [1, 2, 3, 4]  # the tenant's hold stands
    eye.take_away("tenant", "acme")
    await eye.look(1)
    await eye.look(SETTLE_S)
    assert await eye.held() == [2, 3, 4]


async def test_a_hold_that_came_back_keeps_its_mail(eye: Eye) -> None:
    eye.put("site", "tokyo-1")
    await eye.look()
    await eye.send("hold: flood")
    eye.take_away("site", "tokyo-1")
    await eye.look(1)
    eye.put("site", "tokyo-1")
    await eye.look(1)
    await eye.look(SETTLE_S)
    assert await eye.held() == [1]


async def test_after_a_start_all_mail_is_looked_at(eye: Eye) -> None:
    eye.put("device", "127.0.2.20")
    await eye.send("hold: flood", origin="osaka-1", device="127.0.2.20")
    await eye.send("hold: flood")
    await eye.send("hold: flood", origin="gone-1")  # of a site that nobody knows: staff decide
    await eye.look()
    await eye.look(SETTLE_S)
    assert await eye.held() == [1, 3]
    eye.take_away("device", "127.0.2.20")  # while nobody looked
    eye.restart()
    await eye.look()
    await eye.look(SETTLE_S)
    assert await eye.held() == [3]
