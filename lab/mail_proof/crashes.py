"""The rig: clients send, the relay is killed and started again and again; at the end all drains and is judged."""

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event

from cloudside.config import Config
from cloudside.mail.model import Selection, State
from cloudside.mail.store import access
from cloudside.mail.store.queue import open_queue
from lab.mail_proof import ledger, place
from lab.mail_proof.clients import Clients
from lab.mail_proof.relay import Relay
from lab.mail_proof.smarthost import ScriptedSmarthost
from lab.mail_proof.standing import standing_of
from lab.mail_proof.traffic import Mix
from lab.mail_proof.verdict import Duplicates, Verdict, duplicates, judge, reported_twice

#: Tries soon after one another, so that recipients get through their lives while the rig runs.
SETTINGS: dict[str, str | float] = {
    "retry_first_s": 0.5,
    "retry_later_s": 1.5,
    "smarthost_connections": 8,
    "spill_bytes": 64 * 1024,
}
#: Clients rest while more recipients than this wait: what is measured is cuts, not how long a queue drains.
BACKLOG_MAX = 500
_HELD_FIRST = 50_000_000
_DRAIN_S = 180.0
_LOOK_S = 0.2


class Moment(StrEnum):
    """When the relay is killed."""

    #: Before or while it looks through the queue that the last one left.
    STARTING = "starting"
    RUNNING = "running"
    #: A client has its 250 since a moment.
    PROMISED = "promised"
    #: The smarthost has a whole mail and has not answered.
    TAKING = "taking"


_MOMENTS = (Moment.STARTING, Moment.RUNNING, Moment.RUNNING, Moment.PROMISED, Moment.TAKING)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. ``commands``: cuts of the real command, the others were forked. ``held``: recipients that waited
    for a release until the end; ``parked``: those of them whose tries had ended four relays."""

    cuts: int
    commands: int
    moments: dict[str, int]
    verdict: Verdict
    mails: int
    in_doubt: int
    held: int
    parked: int
    takes: int
    copies: Duplicates
    reported_twice: tuple[str, ...]
    refused: dict[int, int]
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing lost, nothing torn, no copy that RFC 1047 does not excuse."""
        return not (self.verdict.lost or self.verdict.torn or self.copies.unexplained or self.reported_twice) and bool(
            self.mails
        )


def run(
    directory: Path,
    records: Path,
    *,
    cuts: int,
    seed: int,
    command_every: int = 10,
    clients: int = 5,
    give_up_s: float = 20.0,
    mix: Mix | None = None,
    queue_url: str = "",
) -> Outcome:
    """Cut the relay so often. ``records``: a directory on another file system.

    Each ``command_every``-th relay is the real command, the others are forked.

    Raises RelayError: it did not come up again, did not end when asked, or did not drain.
    """
    began = time.monotonic()
    mix = mix or Mix()
    dice = random.Random(seed)
    book = ledger.FileLedger(records / "ledger")
    certificate, key = place.certificate(directory)
    with ScriptedSmarthost(certificate, key) as smarthost:
        rig = _Rig(directory, smarthost, book, certificate, mix, clients, give_up_s, queue_url)
        try:
            moments = rig.cut_often(cuts, dice, command_every)
            held, parked = rig.drain()
        finally:
            rig.relay.close()
        takes = smarthost.takes
    book.close()
    written = ledger.read((records / "ledger").read_text().splitlines())
    standing = asyncio.run(standing_of(rig.place.config))
    return Outcome(
        cuts=cuts,
        commands=len(range(0, cuts, command_every)),
        moments=dict(moments),
        verdict=judge(written.promises, mix, takes, standing, ended=True),
        mails=len(written.promises),
        in_doubt=sum(len(some.in_doubt) for some in rig.clients),
        held=held,
        parked=parked,
        takes=len(takes),
        copies=duplicates(takes, rig.cuts),
        reported_twice=reported_twice(takes),
        refused=dict(sum((Counter(some.refused) for some in rig.clients), Counter())),
        seconds=time.monotonic() - began,
    )


class _Rig:
    """Everything that runs."""

    def __init__(
        self,
        directory: Path,
        smarthost: ScriptedSmarthost,
        book: ledger.Ledger,
        certificate: Path,
        mix: Mix,
        clients: int,
        give_up_s: float,
        queue_url: str,
    ) -> None:
        self._smarthost = smarthost
        self._book = book
        smarthost.on_take = self._take
        url = {"queue_url": queue_url} if queue_url else {}
        self.place = place.lay_out(
            directory,
            smarthost_port=smarthost.port,
            authority=certificate,
            queue_directory=directory / "queue",
            give_up_s=give_up_s,
            **SETTINGS,
            **url,
        )
        self.relay = Relay(self.place, directory / "relay.log")
        sources = [f"127.0.1.{20 + number}" for number in range(clients)]
        self._senders = Clients(book, self.place.port, sources, mix=mix, may_send=self._may_send)
        held = Clients(book, self.place.port, [place.HELD_SOURCE], mix=mix, first=_HELD_FIRST, rest_s=0.2)
        self.clients = (self._senders, held)
        #: When each relay was dead, monotonic seconds.
        self.cuts: list[float] = []
        self._started_s = 1.0
        self._armed = Event()
        self._taking = Event()
        self._dead = Event()

    def cut_often(self, count: int, dice: random.Random, command_every: int) -> Counter[str]:
        """Kill and start; the relay is dead at the end."""
        moments: Counter[str] = Counter()
        for some in self.clients:
            some.start()
        for number in range(count):
            command = number % command_every == 0
            moment = dice.choice(_MOMENTS)
            moments[moment] += 1
            self.relay.start(forked=not command)
            self._await(moment, dice, command=command)
            self.cuts.append(self.relay.cut(alone=dice.random() < 0.3))
            self._dead.set()
            if (number + 1) % 50 == 0:
                sys.stderr.write(f"    {number + 1} cuts, {sum(len(some.promised) for some in self.clients)} mails\n")
        return moments

    def drain(self) -> tuple[int, int]:
        """Let a relay finish everything, release what is held, let one finish that; how many were held, parked."""
        self.relay.start(forked=False)
        self.relay.ready()
        for some in self.clients:
            some.stop()
        self._wait_until_drained()
        self.relay.stop()
        held, parked = asyncio.run(_release_all(self.place.config))
        self.relay.start()
        self.relay.ready()
        self._wait_until_drained()
        self.relay.stop()
        return held, parked

    def _await(self, moment: Moment, dice: random.Random, *, command: bool) -> None:
        if moment is Moment.STARTING:
            time.sleep(dice.uniform(0, 1.8 if command else self._started_s * 1.2))
            return
        began = time.monotonic()
        self.relay.ready()
        if not command:
            self._started_s = time.monotonic() - began
        time.sleep(dice.uniform(0.02, 0.5))
        match moment:
            case Moment.PROMISED:
                self._senders.promise.clear()
                self._senders.promise.wait(3)
            case Moment.TAKING:
                self._taking.clear()
                self._dead.clear()
                self._armed.set()
                self._taking.wait(3)
                self._armed.clear()

    def _take(self, take: ledger.Take) -> None:
        self._book.take(take)
        if self._armed.is_set():
            self._armed.clear()
            self._taking.set()
            self._dead.wait(1)

    def _may_send(self) -> bool:
        return self._senders.owed - len(self._smarthost.settled) < BACKLOG_MAX

    def _wait_until_drained(self) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while True:
            with access.opened(self.place.config) as queue:
                states = queue.states()
            waiting = sum(states.get(state, 0) for state in (State.QUEUED, State.SENDING))
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the queue does not drain, {states} after {_DRAIN_S:g} s:\n{self.relay.words()}")
            time.sleep(_LOOK_S)


async def _release_all(config: Config) -> tuple[int, int]:
    queue = open_queue(config)
    try:
        held = await queue.entries(Selection(states=(State.HELD,)), 10_000_000)
        parked = sum("poison" in entry.reply for entry in held)
        return await queue.release(Selection(states=(State.HELD,)), time.time()), parked
    finally:
        queue.close()
