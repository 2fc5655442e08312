"""Writes down what came of a try: delivered, later again, or never, and then with the reports that go out.

Outcomes are recorded beside the next transactions, a bounded number at once. What happened to a mail is known here
only: an outcome that cannot be written (a full disk) is kept until it can.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from cloudside.errors import UnavailableError
from cloudside.mail.bounces import dsn, reasons
from cloudside.mail.bounces.cause import Cause
from cloudside.mail.delivery.outcome import Outcome, Verdict, enhanced_status, retry_delay_s
from cloudside.mail.intake.origins import Suppressed
from cloudside.mail.metrics import Metrics
from cloudside.mail.model import Attempt, Kind, NewMessage, State, shown_id
from cloudside.messages import text

log = structlog.get_logger(__name__)

#: Outcomes that are being written. Each is a mail that a crash would send again.
UNWRITTEN_MAX = 64
AGAIN_S = 1.0
#: A mail that came too fast waits so long.
THROTTLED_S = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds between tries, and after which a recipient is given up (RFC 5321 4.5.4.1)."""

    first_s: float
    later_s: float
    give_up_s: float


class Ledger(Protocol):
    """The part of the queue that is written to."""

    async def delivered(self, attempt: Attempt, now: float, reply: str, remote_id: str = "") -> None:
        """The smarthost took it."""

    async def postpone(self, attempt: Attempt, now: float, *, until: float, reply: str, counted: bool) -> None:
        """Later again."""

    async def fail(
        self,
        message_id: int,
        index: int,
        state: State,
        now: float,
        reply: str,
        reports: tuple[NewMessage, ...],
        *,
        permanent: bool,
        suppress: str = "",
    ) -> bool:
        """Never; the reports with it, both or neither."""


class Settler:
    """Keeps the ledger. ``notify`` names a site's address for notices."""

    def __init__(
        self,
        ledger: Ledger,
        schedule: Schedule,
        voice: dsn.Voice,
        *,
        notify: Callable[[str], str | None] = lambda origin: None,
        metrics: Metrics | None = None,
    ) -> None:
        self._ledger = ledger
        self._schedule = schedule
        self._voice = voice
        self._notify = notify
        self._metrics = metrics or Metrics()
        self._wake: Callable[[], None] = lambda: None
        self._unwritten: set[asyncio.Task[None]] = set()

    def on_reports(self, call: Callable[[], None]) -> None:
        """What is called when reports were queued."""
        self._wake = call

    async def put(self, attempt: Attempt, outcome: Outcome, suppressed: Suppressed | None = None) -> None:
        """Begin to write an outcome down; returns at once unless too many are unwritten."""
        task = asyncio.create_task(self._settle(attempt, outcome, suppressed))
        self._unwritten.add(task)
        task.add_done_callback(self._unwritten.discard)
        while len(self._unwritten) >= UNWRITTEN_MAX:
            await asyncio.wait(self._unwritten, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self, within_s: float) -> None:
        """Wait for what is unwritten; what is so later will be sent again after the next start."""
        if self._unwritten:
            _, late = await asyncio.wait(self._unwritten, timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def give_back(self, attempt: Attempt, now: float, why: str) -> None:
        """It was claimed and not tried. Raises UnavailableError."""
        await self._ledger.postpone(attempt, now, until=now, reply=why, counted=False)

    async def _settle(self, attempt: Attempt, outcome: Outcome, suppressed: Suppressed | None) -> None:
        while True:
            try:
                await self._record(attempt, outcome, suppressed, time.time())
            except UnavailableError as error:
                log.error("outcome-not-recorded", message=shown_id(attempt.original.id), reason=error.key)
                await asyncio.sleep(AGAIN_S)
            except Exception as error:  # a bug: the recipient stays as it is until the next start
                log.error("outcome-fault", message=shown_id(attempt.original.id), exc_info=error)
                return
            else:
                return

    async def _record(self, attempt: Attempt, outcome: Outcome, suppressed: Suppressed | None, now: float) -> None:
        verdict = outcome.verdict
        if verdict is Verdict.DELIVERED:
            await self._ledger.delivered(attempt, now, outcome.reply, outcome.remote_id)
            self._metrics.finished(State.DELIVERED, now - attempt.original.accepted_at)
        elif verdict is Verdict.SUPPRESSED:
            await self._suppress(attempt, suppressed, now)
        elif verdict is Verdict.PERMANENT:
            await self._give_up(attempt, State.BOUNCED, outcome.reply, now)
        elif verdict is Verdict.TEMPORARY:
            failures = attempt.attempts + 1
            until = now + retry_delay_s(failures, first_s=self._schedule.first_s, later_s=self._schedule.later_s)
            if until > attempt.original.accepted_at + self._schedule.give_up_s:
                await self._give_up(attempt, State.EXPIRED, outcome.reply, now)
            else:
                await self._ledger.postpone(attempt, now, until=until, reply=outcome.reply, counted=True)
        else:
            until = now + (THROTTLED_S if verdict is Verdict.THROTTLED else 0.0)
            await self._ledger.postpone(attempt, now, until=until, reply=outcome.reply, counted=False)

    async def _give_up(self, attempt: Attempt, state: State, reply: str, now: float) -> None:
        original = attempt.original
        bounced = state is State.BOUNCED
        status = enhanced_status(reply) if bounced else "4.4.7"
        reports = self._reports(attempt, state, status, reply, now)
        is_address = bounced and original.kind is Kind.MAIL and reasons.suppresses(status, reply)
        await self._ledger.fail(
            original.id, attempt.index, state, now, reply, reports, permanent=bounced,
            suppress="bounce" if is_address else "",
        )  # fmt: skip
        self._finished(attempt, state, reports, now)

    async def _suppress(self, attempt: Attempt, found: Suppressed | None, now: float) -> None:
        original = attempt.original
        why = suppression_words(attempt, found, self._voice.language)
        reports = self._reports(attempt, State.BOUNCED, "5.7.1", why, now, Cause.SUPPRESSED)
        await self._ledger.fail(original.id, attempt.index, State.BOUNCED, now, why, reports, permanent=True)
        self._finished(attempt, State.BOUNCED, reports, now)

    def _reports(
        self, attempt: Attempt, state: State, status: str, reason: str, now: float, cause: Cause | None = None
    ) -> tuple[NewMessage, ...]:
        return dsn.reports(
            attempt.original,
            attempt.recipient,
            state,
            status=status,
            reason=reason,
            voice=self._voice,
            now=now,
            notify=self._notify(attempt.original.origin),
            new_id=lambda: secrets.randbits(63),
            cause=cause,
        )

    def _finished(self, attempt: Attempt, state: State, reports: tuple[NewMessage, ...], now: float) -> None:
        self._metrics.finished(state, now - attempt.original.accepted_at)
        if reports:
            self._wake()


def suppression_words(attempt: Attempt, found: Suppressed | None, language: str) -> str:
    """Why nothing was sent to a suppressed address, since when, and how that can be changed."""
    params = {
        "address": attempt.recipient,
        "owner": f"--tenant {attempt.original.tenant}" if attempt.original.tenant else "--servers",
        "since": _day(found.since) if found else "-",
        "reason": found.reason if found else "-",
        "until": _day(found.expires_at) if found and found.expires_at is not None else "-",
    }
    cause = found.cause if found and found.cause in ("bounce", "complaint", "manual") else "manual"
    lasting = "until" if found and found.expires_at is not None else "kept"
    return f"{text(f'delivery.suppressed-{cause}', params, language=language)} " + text(
        f"delivery.suppressed-{lasting}", params, language=language
    )


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
