"""Delivery to the smarthost: claims due recipients, one transaction each, and records what came of it.

Faults that are ours or the smarthost's (no connection, bad credential, quota) rest the whole queue and use up no
recipient's tries; after a rest one mail goes first to see whether it is over.
"""

import asyncio
import secrets
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiosmtplib
import structlog

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.bounces import dsn, verp
from cloudside.mail.delivery.outcome import (
    NOT_THE_MESSAGE,
    Outcome,
    Pacer,
    Stage,
    Verdict,
    hold_delay_s,
    judge,
    retry_delay_s,
)
from cloudside.mail.message import one_line
from cloudside.mail.model import Attempt, Kind, State, shown_id
from cloudside.mail.store.queue import Queue

log = structlog.get_logger(__name__)

#: Connections to the smarthost at once; with the size limit it bounds memory.
CONNECTIONS_MAX = 4
#: SES closes a connection that is idle for some seconds; an older one is not trusted with a mail.
IDLE_MAX_S = 5.0
TIMEOUT_S = 60.0
#: The longest that a new mail waits when a wake-up was lost, and the clock's steps are noticed.
POLL_S = 1.0
#: A smarthost that has been away this long is an incident; a restart of it is not.
UNREACHABLE_GRACE_S = 10.0
#: The longest rest after a fault.
HOLD_MAX_S = 300.0

_REPLY_MAX_CHARS = 400


@dataclass(frozen=True, slots=True)
class Smarthost:
    """Where mail goes out. ``credentials`` names a file with two lines, user name and password; read at each login, so
    a rotated password needs no restart."""

    host: str
    port: int
    credentials: Path
    authority: Path | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds between tries, and after which a recipient is given up (RFC 5321 4.5.4.1)."""

    first_s: float
    later_s: float
    give_up_s: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing goes out now. ``since`` in seconds since the epoch."""

    verdict: Verdict
    reply: str
    since: float


class Delivery:
    """The sending half of the relay."""

    def __init__(
        self, queue: Queue, smarthost: Smarthost, schedule: Schedule, *, key: bytes, domain: str, voice: dsn.Voice
    ) -> None:
        self._queue = queue
        self._smarthost = smarthost
        self._schedule = schedule
        self._key = key
        self._domain = domain
        self._voice = voice
        self._wake = asyncio.Event()
        self._idle: list[tuple[aiosmtplib.SMTP, float]] = []
        self._pacer = Pacer()
        self._faults = 0
        self._held_until = 0.0
        #: None while all is well or nothing was tried yet; see ``tried``.
        self.trouble: Trouble | None = None
        #: Whether anything was tried since the start: before that, silence means nothing.
        self.tried = False

    def wake(self) -> None:
        """New mail is there."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until ``stop``; transactions under way are finished first."""
        under_way: set[asyncio.Task[None]] = set()

        def finished(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            self._wake.set()
            if not task.cancelled() and task.exception() is not None:
                log.error("delivery-fault", exc_info=task.exception())

        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(lambda _: self._wake.set())
        while not stop.is_set():
            self._wake.clear()
            wait_s = POLL_S
            try:
                held_s = self._held_until - time.monotonic()
                free = CONNECTIONS_MAX - len(under_way)
                if self._faults:
                    free = min(free, 1 - len(under_way))
                if held_s > 0:
                    wait_s = min(POLL_S, held_s)
                elif free > 0:
                    for attempt in await self._queue.claim(time.time(), free):
                        task = asyncio.create_task(self._deliver(attempt))
                        under_way.add(task)
                        task.add_done_callback(finished)
                    wait_s = await self._until_due(wait_s)
            except UnavailableError as error:
                log.error("queue-unavailable", reason=error.key)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
        if under_way:
            await asyncio.wait(under_way, timeout=TIMEOUT_S)
        for client, _ in self._idle:
            client.close()
        self._idle.clear()

    async def _until_due(self, longest_s: float) -> float:
        due = await self._queue.next_due()
        now = time.time()
        # What is due already waits for a free connection, whose end wakes us.
        return longest_s if due is None or due <= now else min(longest_s, due - now)

    async def _deliver(self, attempt: Attempt) -> None:
        await asyncio.sleep(self._pacer.delay_s(time.monotonic()))
        try:
            outcome = await self._transact(attempt)
        except (
            Exception
        ) as error:  # a bug met by one mail: it counts as its failure, so it ends in a report, not in limbo
            log.error("delivery-fault", message=shown_id(attempt.original.id), exc_info=error)
            outcome = Outcome(Verdict.TEMPORARY, type(error).__name__)
        self._learn(outcome)
        log.info(
            "mail-attempt",
            message=shown_id(attempt.original.id),
            recipient=attempt.index,
            verdict=outcome.verdict,
            reply=outcome.reply,
        )
        while True:
            try:
                await self._record(attempt, outcome)
            except UnavailableError as error:
                # A full disk, say. What happened to the mail is known here only: keep it until it can be written.
                log.error("outcome-not-recorded", message=shown_id(attempt.original.id), reason=error.key)
                await asyncio.sleep(POLL_S)
            else:
                return

    def _learn(self, outcome: Outcome) -> None:
        """What one outcome says about the smarthost as a whole."""
        self.tried = True
        if outcome.verdict is Verdict.THROTTLED:
            self._pacer.slower()
        elif outcome.verdict in NOT_THE_MESSAGE:
            self._faults += 1
            longest = min(HOLD_MAX_S, self._schedule.first_s)
            rest_s = (
                self._schedule.first_s
                if outcome.verdict is Verdict.QUOTA
                else hold_delay_s(self._faults, longest_s=longest)
            )
            self._held_until = time.monotonic() + rest_s
            since = self.trouble.since if self.trouble and self.trouble.verdict is outcome.verdict else time.time()
            self.trouble = Trouble(outcome.verdict, outcome.reply, since)
            return
        else:
            self._pacer.faster()
        # Even a refused recipient shows that the smarthost answers and knows us.
        self._faults = 0
        self.trouble = None

    async def _record(self, attempt: Attempt, outcome: Outcome) -> None:
        now = time.time()
        if outcome.verdict is Verdict.DELIVERED:
            await self._queue.delivered(attempt, now, outcome.reply)
        elif outcome.verdict is Verdict.PERMANENT:
            await self._give_up(attempt, State.BOUNCED, now, outcome.reply)
        elif outcome.verdict is Verdict.TEMPORARY:
            delay_s = retry_delay_s(
                attempt.attempts + 1, first_s=self._schedule.first_s, later_s=self._schedule.later_s
            )
            if now + delay_s > attempt.original.accepted_at + self._schedule.give_up_s:
                await self._give_up(attempt, State.EXPIRED, now, outcome.reply)
            else:
                await self._queue.postpone(attempt, now, until=now + delay_s, reply=outcome.reply, counted=True)
        else:
            until = now + (self._pacer.interval_s if outcome.verdict is Verdict.THROTTLED else 0.0)
            await self._queue.postpone(attempt, now, until=until, reply=outcome.reply, counted=False)

    async def _give_up(self, attempt: Attempt, state: State, now: float, reply: str) -> None:
        report = None
        if dsn.wanted(attempt.original):
            report = dsn.compose(
                attempt.original,
                attempt.recipient,
                state,
                status="4.4.7" if state is State.EXPIRED else enhanced_status(reply),
                reason=reply,
                voice=self._voice,
                now=now,
                new_id=secrets.randbits(63),
            )
        reports = () if report is None else (report,)
        permanent = state is State.BOUNCED
        await self._queue.fail(attempt.original.id, attempt.index, state, now, reply, reports, permanent=permanent)

    async def _transact(self, attempt: Attempt) -> Outcome:
        """One mail to one recipient; a kept connection that turns out dead is replaced once."""
        while True:
            kept = self._kept_connection()
            try:
                client = kept or await self._connect()
            except aiosmtplib.SMTPResponseException as error:
                return Outcome(judge(error.code, error.message, Stage.SESSION), _words(error))
            except (aiosmtplib.SMTPException, OSError, ValueError) as error:
                return Outcome(_fault(error), _words(error))
            except ConfigurationError as error:
                return Outcome(Verdict.REFUSED, error.key)
            try:
                outcome = await self._converse(client, attempt)
            except aiosmtplib.SMTPResponseException as error:
                outcome = Outcome(judge(error.code, error.message, Stage.MESSAGE), _words(error))
                if outcome.verdict is Verdict.UNREACHABLE or not await _reset(client):
                    client.close()
                    if outcome.verdict is Verdict.UNREACHABLE and kept is not None:
                        continue
                    return outcome
            except (aiosmtplib.SMTPException, OSError) as error:
                client.close()
                if kept is not None:
                    continue
                # The connection broke on this very mail: it counts, or one mail could block the queue for ever.
                return Outcome(Verdict.TEMPORARY, _words(error))
            self._idle.append((client, time.monotonic()))
            return outcome

    async def _converse(self, client: aiosmtplib.SMTP, attempt: Attempt) -> Outcome:
        address = verp.ReturnAddress(attempt.original.id, attempt.index, own=attempt.original.kind is not Kind.MAIL)
        await client.mail(verp.compose(address, key=self._key, domain=self._domain))
        await client.rcpt(attempt.recipient)
        body = attempt.body if isinstance(attempt.body, bytes) else await asyncio.to_thread(attempt.body.read_bytes)
        code, text = await client.data(attempt.head + b"\r\n" + body)
        return Outcome(Verdict.DELIVERED, one_line(f"{code} {text}", _REPLY_MAX_CHARS))

    def _kept_connection(self) -> aiosmtplib.SMTP | None:
        while self._idle:
            client, since = self._idle.pop()
            if client.is_connected and time.monotonic() - since < IDLE_MAX_S:
                return client
            client.close()
        return None

    async def _connect(self) -> aiosmtplib.SMTP:
        user, password = await asyncio.to_thread(read_credentials, self._smarthost.credentials)
        context = ssl.create_default_context(
            cafile=str(self._smarthost.authority) if self._smarthost.authority else None
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        client = aiosmtplib.SMTP(
            hostname=self._smarthost.host,
            port=self._smarthost.port,
            local_hostname=self._voice.host_name,
            timeout=TIMEOUT_S,
            start_tls=True,
            tls_context=context,
        )
        try:
            await client.connect()
            await client.login(user, password)
        except BaseException:
            client.close()
            raise
        return client


def read_credentials(path: Path) -> tuple[str, str]:
    """User name and password from a file of two lines. Raises ConfigurationError, which does not tell them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("mail.credentials-unreadable", path=str(path)) from None
    if len(lines) < 2 or not lines[0].strip() or not lines[1].strip():
        raise ConfigurationError("mail.credentials-malformed", path=str(path))
    return lines[0].strip(), lines[1].strip()


def enhanced_status(reply: str) -> str:
    """The RFC 3463 code in a permanent reply; 5.0.0 when it has none."""
    for word in reply.split()[:3]:
        parts = word.split(".")
        if len(parts) == 3 and parts[0] == "5" and all(part.isdigit() and len(part) <= 3 for part in parts):
            return word
    return "5.0.0"


async def _reset(client: aiosmtplib.SMTP) -> bool:
    try:
        await client.rset()
    except (aiosmtplib.SMTPException, OSError):
        return False
    return True


def _fault(error: Exception) -> Verdict:
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, ssl.SSLError) for cause in causes) or isinstance(error, aiosmtplib.SMTPNotSupported):
        return Verdict.REFUSED  # their certificate or lack of TLS and AUTH: waiting will not mend it
    return Verdict.UNREACHABLE


def _words(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return one_line(f"{error.code} {error.message}", _REPLY_MAX_CHARS)
    return one_line(f"{type(error).__name__}: {error}", _REPLY_MAX_CHARS)
