"""A relay between clients and a scripted smarthost, to which faults happen; at the end it drains and is judged."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from cloudside.config import Config
from cloudside.errors import UnavailableError
from cloudside.mail.model import Selection, State
from cloudside.mail.store import access
from cloudside.mail.store.queue import open_queue
from lab.mail_proof import ledger, place
from lab.mail_proof.clients import Clients
from lab.mail_proof.relay import Relay
from lab.mail_proof.smarthost import Plan, ScriptedSmarthost
from lab.mail_proof.standing import standing_of
from lab.mail_proof.traffic import Mix
from lab.mail_proof.verdict import Verdict, judge

#: Tries soon after one another, so that recipients get through their lives while a test runs.
SETTINGS: dict[str, str | float] = {
    "retry_first_s": 0.5,
    "retry_later_s": 1.5,
    "give_up_s": 20.0,
    "smarthost_connections": 8,
    "spill_bytes": 64 * 1024,
}
#: Clients rest while more recipients than this wait: nothing here is about how long a queue drains.
BACKLOG_MAX = 500
_LOOK_S = 0.2
_ALL = 10_000_000


class Scene:
    """Everything but what happens to it. The smarthost and the clients live in this process, the relay in its own."""

    def __init__(
        self,
        directory: Path,
        records: Path,
        *,
        mix: Mix | None = None,
        plan: Plan | None = None,
        sources: Sequence[str] = ("127.0.1.20", "127.0.1.21"),
        queue_directory: Path | None = None,
        prepare: Callable[[], None] | None = None,
        **settings: str | float,
    ) -> None:
        """``records``: a directory on another file system than the queue's. ``prepare`` runs in forked relays first."""
        self.mix = mix or Mix()
        self._records = records / "ledger"
        self._book = ledger.FileLedger(self._records)
        certificate, key = place.certificate(directory)
        self.smarthost = ScriptedSmarthost(certificate, key, plan=plan, on_take=self._book.take)
        self.place = place.lay_out(
            directory,
            smarthost_port=self.smarthost.port,
            authority=certificate,
            queue_directory=queue_directory or directory / "queue",
            **{**SETTINGS, **settings},
        )
        self.relay = Relay(self.place, directory / "relay.log", prepare=prepare)
        self.clients = self.more_clients(sources, may_send=self._may_send)
        #: Set, no client begins a new mail.
        self.paused = threading.Event()
        #: When each relay that was killed was dead, monotonic seconds.
        self.cuts: list[float] = []

    def __enter__(self) -> "Scene":
        self.smarthost.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clients.give_up()
        self.relay.close()
        self.smarthost.__exit__(kind, error, trace)
        self._book.close()

    def more_clients(
        self,
        sources: Sequence[str],
        *,
        first: int = 0,
        rest_s: float = 0.0,
        may_send: Callable[[], bool] = lambda: True,
    ) -> Clients:
        """Clients that write into the same ledger; see Clients."""
        return Clients(
            self._book, self.place.port, sources, mix=self.mix, first=first, rest_s=rest_s, may_send=may_send
        )

    def take(self, take: ledger.Take) -> None:
        """Write a take down, for whoever watches takes."""
        self._book.take(take)

    def more_promises(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until so many more mails got their 250. Raises TimeoutError."""
        wanted = len(self.clients.promised) + count
        deadline = time.monotonic() + timeout_s
        while len(self.clients.promised) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{wanted - len(self.clients.promised)} of {count} mails are not taken after {timeout_s:g} s,"
                    f" refused: {self.clients.refused}\n{self.relay.words()}"
                )
            time.sleep(0.01)

    def drained(self, timeout_s: float = 60.0) -> None:
        """Wait until the running relay has finished all but what is held. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            states: dict[str, int] = {}
            try:
                with access.opened(self.place.config) as queue:
                    states = queue.states()
            except UnavailableError:
                waiting = -1
            else:
                waiting = sum(states.get(state, 0) for state in (State.QUEUED, State.SENDING))
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the queue does not drain, {states} after {timeout_s:g} s:\n{self.relay.words()}")
            time.sleep(_LOOK_S)

    def verdict(self, *, ended: bool = True) -> Verdict:
        """Judge what the ledger says, while no relay runs; see `judge`."""
        written = ledger.read(self._records.read_text().splitlines())
        standing = asyncio.run(standing_of(self.place.config))
        return judge(written.promises, self.mix, written.takes, standing, ended=ended)

    def release_all(self) -> tuple[int, int]:
        """Release what is held, while no relay runs: how many recipients, and of them those parked as poison."""
        return asyncio.run(_release_all(self.place.config))

    def _may_send(self) -> bool:
        return not self.paused.is_set() and self.clients.owed - len(self.smarthost.settled) < BACKLOG_MAX


async def _release_all(config: Config) -> tuple[int, int]:
    queue = open_queue(config)
    try:
        held = await queue.entries(Selection(states=(State.HELD,)), _ALL)
        parked = sum(entry.reply.startswith("poison") for entry in held)
        return await queue.release(Selection(states=(State.HELD,)), time.time()), parked
    finally:
        queue.close()
