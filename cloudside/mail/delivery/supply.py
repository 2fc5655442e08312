"""Asks the account for its quota and rate on a clock, and counts what was sent in between.

Without an answer the last one stands: mail goes on, since the smarthost itself says when the day is used up.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from cloudside.errors import KyotenError
from cloudside.mail.delivery.quota import LOOK_BACK_S, URGENT_ONLY, Quota, Reading, Supply, assess
from cloudside.messages import error_text

log = structlog.get_logger(__name__)

#: After an answer that failed the next question comes so soon, and then twice as late each time.
AGAIN_S = 5.0
#: Readings kept beyond the look-back; a poll of one second keeps as many as fit.
_READINGS_MAX = 2000


class Account(Protocol):
    """Who knows the quota."""

    async def read(self, now: datetime) -> Reading:
        """Rate and quota. Raises KyotenError."""


class SupplyWatch:
    """Holds the state. ``changed`` is called after each reading."""

    def __init__(self, account: Account, *, poll_s: float, reserve_pct: float, language: str = "en") -> None:
        self._account = account
        self._poll_s = poll_s
        self._reserve_pct = reserve_pct
        self._language = language
        self._readings: deque[Reading] = deque(maxlen=_READINGS_MAX)
        self._sent = 0
        self._state = Supply.OK
        self._failures = 0
        #: None until there was an answer.
        self.quota: Quota | None = None
        #: Why the last question was not answered, in words; empty: it was.
        self.error = ""

    @property
    def is_urgent_only(self) -> bool:
        """Whether only urgent mail may go."""
        return self._state in URGENT_ONLY

    def sent(self, now: float) -> None:
        """The smarthost took a mail."""
        self._sent += 1
        if not self._readings:
            return
        last = self._readings[-1]
        # One mail changes the state only near a border; what is far is looked at when the next reading comes.
        if last.max_24h >= 0 and last.max_24h - last.sent_24h - self._sent <= last.max_24h * self._reserve_pct / 100:
            self._assess(now)

    async def run(self, stop: asyncio.Event, changed: Callable[[], None]) -> None:
        """Ask until ``stop``."""
        while not stop.is_set():
            await self.ask(datetime.now(UTC))
            changed()
            wait_s = min(self._poll_s, AGAIN_S * 2.0 ** min(self._failures - 1, 20)) if self._failures else self._poll_s
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                pass

    async def ask(self, now: datetime) -> None:
        """Ask once. An answer that fails is logged and told in ``error``."""
        sent_before = self._sent
        try:
            reading = await self._account.read(now)
        except KyotenError as error:
            self._failed(error_text(error, language=self._language), error.key)
        except Exception as error:  # a bug here must not stop the mail
            log.error("quota-fault", exc_info=error)
            self._failed(type(error).__name__, "fault")
        else:
            if self.error:
                log.info("quota-known-again")
            self._failures, self.error = 0, ""
            self._readings.append(reading)
            while len(self._readings) > 1 and self._readings[1].at < reading.at - LOOK_BACK_S:
                self._readings.popleft()
            # What went out while SES answered may be in its count or not; counted twice is the safer side.
            self._sent -= sent_before
            self._assess(now.timestamp())

    def _failed(self, words: str, key: str) -> None:
        if not self._failures:
            log.error("quota-unknown", reason=key)
        self._failures += 1
        self.error = words

    def _assess(self, now: float) -> None:
        quota = assess(
            self._readings, sent_since=self._sent, reserve_pct=self._reserve_pct, before=self._state, now=now
        )
        if quota is None:
            return
        if quota.state is not self._state:
            log.warning("quota-state", state=quota.state, before=self._state, left=quota.left, most=quota.max_24h)
        self.quota, self._state = quota, quota.state
