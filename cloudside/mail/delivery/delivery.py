"""The sending half of the relay: claims what is due, keeps the connections busy, rests when nothing can go.

Faults that are ours or the smarthost's (no connection, bad credential, quota) rest the whole queue and use up no
recipient's tries; after a rest one mail goes first to see whether it is over. Mail is claimed in groups, ahead of the
connections but not far: what is claimed cannot be overtaken by urgent mail, and after a crash it was being sent for all
anybody knows.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from cloudside.errors import UnavailableError
from cloudside.mail.delivery.outcome import NOT_THE_MESSAGE, Outcome, Verdict, hold_delay_s
from cloudside.mail.delivery.pacer import Pacer
from cloudside.mail.delivery.quota import Quota
from cloudside.mail.delivery.sending import CrowdedError, Sender
from cloudside.mail.delivery.settling import Schedule, Settler
from cloudside.mail.delivery.smarthost import Sessions, Smarthost
from cloudside.mail.delivery.supply import SupplyWatch
from cloudside.mail.intake.origins import Suppressed
from cloudside.mail.metrics import Metrics
from cloudside.mail.model import Attempt, Kind, shown_id

__all__ = ["UNREACHABLE_GRACE_S", "Delivery", "Schedule", "Smarthost", "Trouble"]

log = structlog.get_logger(__name__)

#: The longest that a new mail waits when a wake-up was lost.
POLL_S = 1.0
#: Claims are at least so far apart: mails that come one by one share one.
CLAIM_EVERY_S = 0.01
#: Mails claimed ahead: so many for each connection, never more than so many, and under a rate limit for so long.
AHEAD_EACH, AHEAD_MAX, AHEAD_S = 4, 64, 0.5
#: A smarthost that has been away this long is an incident; a restart of it is not.
UNREACHABLE_GRACE_S = 10.0
#: The longest rest after a fault.
HOLD_MAX_S = 300.0
#: A smarthost that took no further session is asked for one more after so long.
CROWDED_S = 30.0
#: How long transactions may take that are under way when the relay ends.
ENDING_S = 10.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing goes out now, or only urgent mail. ``since`` in seconds since the epoch."""

    verdict: Verdict
    reply: str
    since: float


class Waiting(Protocol):
    """The part of the queue that is read."""

    async def claim(self, now: float, limit: int, *, urgent_only: bool = False) -> list[Attempt]:
        """At most ``limit`` due recipients, the most urgent first. Raises UnavailableError."""


def nobody(_tenant: str, _address: str) -> Suppressed | None:
    """Suppresses no address."""
    return None


class Delivery:
    """Runs in one event loop, beside the listeners."""

    def __init__(
        self,
        waiting: Waiting,
        sessions: Sessions,
        sender: Sender,
        settler: Settler,
        *,
        connections: int,
        longest_rest_s: float,
        pacer: Pacer | None = None,
        supply: SupplyWatch | None = None,
        suppressed: Callable[[str, str], Suppressed | None] = nobody,
        metrics: Metrics | None = None,
    ) -> None:
        """``longest_rest_s``: after a used-up quota, and the most after other faults."""
        self._waiting = waiting
        self._sessions = sessions
        self._sender = sender
        self._settler = settler
        self._connections = connections
        self._longest_rest_s = longest_rest_s
        self._pacer = pacer or Pacer()
        self._fixed_rate = self._pacer.limit
        self._supply = supply
        self._suppressed = suppressed
        self._metrics = metrics or Metrics()
        self._log = log.bind()  # once: looking up how to log takes as long as logging
        self._wake = asyncio.Event()
        self._ready: deque[Attempt] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._lanes_max = connections
        self._crowded_until = 0.0
        self._more = False
        self._claimed_at = float("-inf")
        self._faults = 0
        self._careful = 0
        self._rest_until = 0.0
        self._fault: Trouble | None = None
        self._reserved_since: float | None = None
        #: Whether anything was tried since the start: before that, silence means nothing.
        self.tried = False

    @property
    def trouble(self) -> Trouble | None:
        """None while all is well or nothing was tried yet; see ``tried``."""
        quota = self.quota
        if self._fault is not None or self._reserved_since is None or quota is None:
            return self._fault
        return Trouble(Verdict.RESERVE, f"{quota.left:.0f} of {quota.max_24h:.0f} left", self._reserved_since)

    @property
    def quota(self) -> Quota | None:
        """The account's; None when nobody is asked, or nobody answered yet."""
        return None if self._supply is None else self._supply.quota

    @property
    def quota_error(self) -> str:
        """Why the last question for it was not answered, in words; empty: it was."""
        return "" if self._supply is None else self._supply.error

    def wake(self) -> None:
        """New mail is there."""
        self._wake.set()

    def begin_carefully(self, count: int) -> None:
        """So many recipients were being sent when the last process ended: as many go out one by one, so that a mail
        that ends this process too is alone with it, and its neighbours are not taken for poison."""
        self._careful = count

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until ``stop``; transactions under way are finished first."""
        stopped = asyncio.create_task(stop.wait())
        stopped.add_done_callback(lambda _: self._wake.set())
        asking = None
        if self._supply is not None:
            asking = asyncio.create_task(self._supply.run(stop, self._supply_changed))
        try:
            while not stop.is_set():
                self._wake.clear()
                wait_s = POLL_S
                try:
                    wait_s = await self._step()
                except UnavailableError as error:
                    log.error("queue-unavailable", reason=error.key)
                except Exception as error:  # a bug must not stop the mail
                    log.error("delivery-fault", exc_info=error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
        finally:
            await self._end(stopped, asking)

    async def _end(self, *helpers: asyncio.Task[None] | asyncio.Task[bool] | None) -> None:
        with suppress(UnavailableError):
            await self._give_back(list(self._ready), "the relay ends")
        if self._lanes:
            _, late = await asyncio.wait(self._lanes, timeout=ENDING_S)
            for task in late:
                task.cancel()
        for helper in filter(None, helpers):
            helper.cancel()
        await asyncio.gather(*self._lanes, *filter(None, helpers), return_exceptions=True)
        await self._settler.finish(ENDING_S)
        self._sessions.close()

    async def _step(self) -> float:
        """Claim if there is room; how long to wait then unless woken."""
        self._sessions.tidy()
        rest_s = self._rest_until - time.monotonic()
        if rest_s > 0:
            await self._give_back(list(self._ready), self._fault.reply if self._fault else "")
            return min(POLL_S, rest_s)
        urgent_only = self._supply is not None and self._supply.is_urgent_only
        if urgent_only:
            await self._give_back([attempt for attempt in self._ready if not _may_use_reserve(attempt)], "reserve")
        if self._room() > 0:
            early_s = self._claimed_at + CLAIM_EVERY_S - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            if (room := self._room()) > 0:
                self._claimed_at = time.monotonic()
                self._wake.clear()
                claimed = await self._waiting.claim(time.time(), room, urgent_only=urgent_only)
                self._more = len(claimed) >= room
                self._ready.extend(claimed)
        for _ in range(min(self._lanes_allowed() - len(self._lanes), len(self._ready))):
            lane = asyncio.create_task(self._lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._lane_ended)
        return POLL_S

    def _is_single(self) -> bool:
        return self._faults > 0 or self._careful > 0

    def _lanes_allowed(self) -> int:
        if self._is_single():
            return 1
        if self._lanes_max < self._connections and time.monotonic() > self._crowded_until:
            self._lanes_max += 1
            self._crowded_until = time.monotonic() + CROWDED_S
        return self._lanes_max

    def _room(self) -> int:
        if self._is_single():
            return 1 - len(self._lanes) - len(self._ready)
        ahead = min(AHEAD_MAX, self._connections * AHEAD_EACH)
        if rate := self._pacer.rate(time.monotonic()):
            ahead = min(ahead, math.ceil(rate * AHEAD_S))
        return ahead - len(self._ready) if len(self._ready) * 2 <= ahead else 0

    def _is_resting(self) -> bool:
        return time.monotonic() < self._rest_until

    async def _give_back(self, attempts: list[Attempt], why: str) -> None:
        for attempt in attempts:
            # First taken away, so that no lane sends what is written back at the same moment.
            if attempt in self._ready:
                self._ready.remove(attempt)
                try:
                    await self._settler.give_back(attempt, time.time(), why)
                except UnavailableError:
                    self._ready.append(attempt)
                    raise

    async def _lane(self) -> None:
        """One connection's work, as long as there is any."""
        while self._ready and not self._is_resting():
            if delay_s := self._pacer.delay_s(time.monotonic()):
                await asyncio.sleep(delay_s)
                if not self._ready or self._is_resting():
                    return
            attempt = self._ready.popleft()
            if self._more and len(self._ready) * 2 <= self._connections * AHEAD_EACH:
                self._wake.set()
            if not await self._deliver(attempt):
                return

    async def _deliver(self, attempt: Attempt) -> bool:
        """One try; whether the lane may go on."""
        original = attempt.original
        began = time.monotonic()
        found = self._suppressed(original.tenant, attempt.recipient) if original.kind is Kind.MAIL else None
        try:
            if found is not None:
                outcome = Outcome(Verdict.SUPPRESSED, "")
            else:
                outcome = await self._sender.send(attempt)
        except CrowdedError as error:
            self._ready.appendleft(attempt)
            self._lanes_max = max(1, len(self._lanes) - 1)
            self._crowded_until = time.monotonic() + CROWDED_S
            log.warning("smarthost-crowded", sessions=self._lanes_max, code=str(error)[:3])
            return False
        except Exception as error:
            # A bug met by one mail: it counts as its failure, so that it ends in a report and not in limbo.
            log.error("delivery-fault", message=shown_id(original.id), exc_info=error)
            outcome = Outcome(Verdict.TEMPORARY, type(error).__name__)
        if found is None:
            self._learn(outcome)
        self._metrics.attempted(outcome.verdict, time.monotonic() - began)
        # The reply itself can quote addresses; it stands in the queue, for whom it concerns.
        self._log.info(
            "mail-attempt",
            message=shown_id(original.id),
            recipient=attempt.index,
            verdict=outcome.verdict.value,
            code=outcome.reply[:3] if outcome.reply[:3].isdigit() else "",
            remote=outcome.remote_id,
        )
        await self._settler.put(attempt, outcome, found)
        self._careful = max(0, self._careful - 1)
        return True

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if self._ready or self._is_single():
            self._wake.set()
        if not lane.cancelled() and (error := lane.exception()) is not None:
            log.error("delivery-fault", exc_info=error)

    def _learn(self, outcome: Outcome) -> None:
        """What one outcome says about the smarthost as a whole."""
        self.tried = True
        verdict = outcome.verdict
        if verdict is Verdict.THROTTLED:
            self._pacer.slower(time.monotonic())
        elif verdict in NOT_THE_MESSAGE:
            # Several connections that fail at once are one fault.
            if not self._is_resting():
                self._faults += 1
                longest_s = min(HOLD_MAX_S, self._longest_rest_s)
                rest_s = (
                    self._longest_rest_s
                    if verdict is Verdict.QUOTA
                    else hold_delay_s(self._faults, longest_s=longest_s)
                )
                self._rest_until = time.monotonic() + rest_s
            since = self._fault.since if self._fault and self._fault.verdict is verdict else time.time()
            self._fault = Trouble(verdict, outcome.reply, since)
            self._wake.set()
            return
        elif verdict is Verdict.DELIVERED and self._supply is not None:
            self._supply.sent(time.time())
            self._note_reserve()
        # Even a refused recipient shows that the smarthost answers and knows us.
        if self._faults:
            self._faults = 0
            self._wake.set()
        self._fault = None

    def _supply_changed(self) -> None:
        if self._supply is not None and self._supply.quota is not None and not self._fixed_rate:
            self._pacer.limit = self._supply.quota.rate
        self._note_reserve()
        self._wake.set()

    def _note_reserve(self) -> None:
        is_reserved = self._supply is not None and self._supply.is_urgent_only
        if not is_reserved:
            self._reserved_since = None
        elif self._reserved_since is None:
            self._reserved_since = time.time()
            self._wake.set()


def _may_use_reserve(attempt: Attempt) -> bool:
    return attempt.urgent or attempt.original.kind is Kind.NOTICE
