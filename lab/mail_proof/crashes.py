"""The rig: clients send, the relay is killed and started again and again; at the end all drains and is judged."""

import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event

from lab.mail_proof import place
from lab.mail_proof.ledger import Take
from lab.mail_proof.scene import Scene
from lab.mail_proof.verdict import Duplicates, Verdict, duplicates, reported_twice

_HELD_FIRST = 50_000_000
_HELD_REST_S = 0.2
_DRAIN_S = 180.0


class Moment(StrEnum):
    """When the relay is killed."""

    #: Before or while it looks through the queue that the last one left.
    STARTING = "starting"
    RUNNING = "running"
    #: A client has got its 250 this instant.
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
    queue_url: str = "",
) -> Outcome:
    """Cut the relay so often. ``records``: a directory on another file system.

    Each ``command_every``-th relay is the real command, the others are forked. Raises RelayError: it did not come up
    again or did not end when asked; TimeoutError: it did not drain.
    """
    began = time.monotonic()
    dice = random.Random(seed)
    sources = [f"127.0.1.{20 + number}" for number in range(clients)]
    with Scene(directory, records, sources=sources, give_up_s=give_up_s, queue_url=queue_url) as scene:
        rig = _Rig(scene)
        moments = rig.cut_often(cuts, dice, command_every)
        held, parked = rig.drain()
        takes = scene.smarthost.takes
        verdict = scene.verdict()
    return Outcome(
        cuts=cuts,
        commands=len(range(0, cuts, command_every)),
        moments=dict(moments),
        verdict=verdict,
        mails=sum(len(some.promised) for some in rig.clients),
        in_doubt=sum(len(some.in_doubt) for some in rig.clients),
        held=held,
        parked=parked,
        takes=len(takes),
        copies=duplicates(takes, scene.cuts),
        reported_twice=reported_twice(takes),
        refused=dict(sum((Counter(some.refused) for some in rig.clients), Counter())),
        seconds=time.monotonic() - began,
    )


class _Rig:
    """What happens to the scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        scene.smarthost.on_take = self._take
        held = scene.more_clients([place.HELD_SOURCE], first=_HELD_FIRST, rest_s=_HELD_REST_S)
        self.clients = (scene.clients, held)
        self._started_s = 1.0
        self._armed = Event()
        self._taking = Event()
        self._dead = Event()
        self._struck = Event()

    def cut_often(self, count: int, dice: random.Random, command_every: int) -> Counter[str]:
        """Kill and start; the relay is dead at the end."""
        moments: Counter[str] = Counter()
        for some in self.clients:
            some.start()
        for number in range(count):
            command = number % command_every == 0
            moment = dice.choice(_MOMENTS)
            moments[moment] += 1
            self._scene.relay.start(forked=not command, processes=dice.choice((0, 0, 2)))
            self._await(moment, dice, command=command)
            self._scene.cuts.append(self._scene.relay.cut(alone=dice.random() < 0.3))
            self._dead.set()
            if (number + 1) % 50 == 0:
                sys.stderr.write(f"    {number + 1} cuts, {sum(len(some.promised) for some in self.clients)} mails\n")
        return moments

    def drain(self) -> tuple[int, int]:
        """Let a relay finish everything, release what is held, let one finish that; how many were held, parked."""
        relay = self._scene.relay
        relay.start(forked=False)
        relay.ready()
        for some in self.clients:
            some.stop()
        self._scene.drained(_DRAIN_S)
        relay.stop()
        held, parked = self._scene.release_all()
        relay.start()
        relay.ready()
        self._scene.drained(_DRAIN_S)
        relay.stop()
        return held, parked

    def _await(self, moment: Moment, dice: random.Random, *, command: bool) -> None:
        if moment is Moment.STARTING:
            time.sleep(dice.uniform(0, 1.8 if command else self._started_s * 1.2))
            return
        began = time.monotonic()
        self._scene.relay.ready()
        if not command:
            self._started_s = time.monotonic() - began
        time.sleep(dice.uniform(0.02, 0.5))
        match moment:
            case Moment.PROMISED:
                self._struck.clear()
                self._scene.clients.on_promise = self._strike
                self._struck.wait(3)
                self._scene.clients.on_promise = None
            case Moment.TAKING:
                self._taking.clear()
                self._dead.clear()
                self._armed.set()
                self._taking.wait(3)
                self._armed.clear()

    def _strike(self) -> None:
        # From the client's own thread: every thread that had to be woken first would give the relay time.
        if not self._struck.is_set():
            self._scene.relay.strike()
            self._struck.set()

    def _take(self, take: Take) -> None:
        self._scene.take(take)
        if self._armed.is_set():
            self._armed.clear()
            self._taking.set()
            self._dead.wait(1)
