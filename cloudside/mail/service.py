"""Composition root of `kyoten relay`: builds the parts, binds the listeners, runs until told to stop.

When it is told to stop, the doors close first: no connection is taken any more, mails under way get their answer.
Queue, delivery and the control socket go on until then. It needs no privilege but to bind ports below 1024.
"""

import asyncio
import gc
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from cloudside.config import Config, Listen, Relay
from cloudside.errors import KyotenError
from cloudside.mail.bounces import dsn, keys
from cloudside.mail.bounces.listener import BounceHandler
from cloudside.mail.bounces.recording import Recorder, notify_of
from cloudside.mail.delivery import assembly
from cloudside.mail.delivery.delivery import Delivery
from cloudside.mail.intake.assembly import INCOMING, Intake, intake
from cloudside.mail.intake.directory import Defaults, Directory
from cloudside.mail.intake.doors import DRAIN_S, Door
from cloudside.mail.intake.gate import Gate
from cloudside.mail.intake.handlers import AcceptedLog
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.spool import Memory, Spool
from cloudside.mail.metrics import Metrics, Observed
from cloudside.mail.metrics import application as metrics_application
from cloudside.mail.model import Receipt, Selection, State
from cloudside.mail.processes import END_S, Child, Surroundings, attend, fork
from cloudside.mail.store import control
from cloudside.mail.store.journal.adoption import Adoption
from cloudside.mail.store.journal.ahead import Ahead
from cloudside.mail.store.queue import Queue, open_queue
from cloudside.mail.watch.sightings import Sightings
from cloudside.mail.watch.watch import watch_of
from cloudside.registry.database import Database

log = structlog.get_logger(__name__)

#: A bounce may carry the whole mail back, and its own words.
BOUNCE_EXTRA_BYTES = 256 * 1024
#: The registry is looked at once a second, here and in each process that takes mail.
REFRESH_S = 1.0
#: What an asked-for look at the queue may be old, in seconds. Counting what is finished reads all of it.
OBSERVED_S = 5.0
FINISHED_S = 600.0
#: Files that are open beside connections: database, logs, bodies, connections to the smarthost.
OTHER_FILES = 512
#: The loop and the queue's writer share the interpreter. By default a thread that wants it waits 5 ms, and the writer
#: wants it after each statement.
SWITCH_S = 0.0005

#: Where others take the mail: they come first, and what they took is on the disk. When this process falls behind, their
#: journals fill up and they wait for it.
FIRST_PROCESS_NICE = 10

_WAITING = (State.QUEUED, State.SENDING, State.HELD)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The submission listener's certificate chain and key, PEM."""

    certificate: Path
    key: Path


def prepare_process(relay: Relay) -> None:
    """Limits and habits of the whole process; once, before it works."""
    sys.setswitchinterval(SWITCH_S)
    # What is made for one mail is free after it by counting references; long-lived are a few thousand objects.
    gc.set_threshold(20_000, 20, 50)
    wanted = relay.connections_max * 4 + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else wanted
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, most)), hard))


def fork_intake(config: Config, tls: TlsFiles | None) -> list[Child]:
    """The processes that take mail, as many as the configuration says. Only before a thread or loop is made."""
    count = config.relay.intake_processes
    if not count:
        return []
    children = fork(count, config.queue_directory, partial(_take_mail, config, tls))
    os.nice(FIRST_PROCESS_NICE)
    return children


async def run(
    config: Config, stop: asyncio.Event, *, tls: TlsFiles | None = None, children: Sequence[Child] = ()
) -> None:
    """Relay mail until ``stop``. Without ``tls`` there is no submission listener.

    ``children`` take the mail, if there are any (see fork_intake). Raises ConfigurationError: no smarthost or
    credentials configured, queue or key unusable; UnavailableError: one of the children ended.
    """
    _silence_libraries()
    relay = config.relay
    queue = open_queue(config)
    database = Database(config.registry_url, actor="relay")
    try:
        signing = keys.Keys(config.state_directory / "mail" / keys.FILE_NAME)
        voice = dsn.Voice(relay.host_name, config.alerts.sender, config.alerts.language)
        metrics, sightings = Metrics(), Sightings()
        directory = Directory(database, Defaults(relay.hourly_limit_per_site, relay.daily_limit_per_site))
        delivery = assembly.delivery(config, queue, directory, keys=signing, voice=voice, metrics=metrics)
        await _first_refresh(directory)
        again = await queue.recover(datetime.now(UTC).timestamp())
        delivery.begin_carefully(again)
        log.info("relay-starting", queue=str(config.queue_directory), redelivered=again)
        watch = watch_of(
            config, database=database, directory=directory, queue=queue, delivery=delivery, sightings=sightings,
            voice=voice,
        )  # fmt: skip
        recorder = Recorder(queue, voice, delivery.wake, notify_of(directory), metrics.bounced)
        taking = ahead = adoption = None
        memory = Memory()
        spool = Spool(
            config.queue_directory / INCOMING, spill_bytes=relay.spill_bytes, require_space=queue.require_space
        )
        spool.clear()
        doors: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if children:
            doors += [
                partial(attend, child, queue, delivery.wake, metrics, sightings, stop, drain_s=DRAIN_S)
                for child in children
            ]
        else:
            ahead = Ahead(queue, AcceptedLog())
            adoption = await _own_journal(queue, ahead, delivery.wake)
            taking = intake(
                config, ahead, directory, delivery.wake,
                certificate=_certificate(tls), metrics=metrics, sightings=sightings,
            )  # fmt: skip
            memory = taking.memory
            doors += [partial(door.serve, listen, stop) for listen, door in _doors(relay, taking)]
        if relay.bounce_listen is not None:
            bounces = BounceHandler(recorder, signing, relay.bounce_domain)
            doors.append(partial(_bounce_door(relay, memory, spool, bounces, metrics).serve, relay.bounce_listen, stop))
        if relay.notices is not None and tls is not None:
            doors.append(partial(_serve_notices, config, tls, recorder, signing, stop))
        look = Look(queue, delivery, memory)
        ended = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(delivery.run(ended))
                tasks.create_task(watch.run(ended, lambda: datetime.now(UTC)))
                tasks.create_task(control.serve(queue, config.runtime_directory / control.FILE_NAME, ended))
                if relay.metrics_listen is not None:
                    tasks.create_task(_serve_metrics(relay, metrics, look, ended))
                tasks.create_task(_all_of(doors, stop, ended))
        except BaseExceptionGroup as group:
            ours = group.subgroup(KyotenError)
            raise _first(ours) if ours is not None else group from None
        finally:
            if taking is not None:
                taking.close()
            if ahead is not None:
                ahead.close()
            if adoption is not None:
                await adoption.finish(END_S)
            spool.close()
    finally:
        database.close()
        queue.close()
        log.info("relay-stopped")


async def _all_of(
    doors: Sequence[Callable[[], Coroutine[Any, Any, None]]], stop: asyncio.Event, ended: asyncio.Event
) -> None:
    """Run all doors; when the last one is closed, everything else may end."""
    async with asyncio.TaskGroup() as tasks:
        for door in doors:
            tasks.create_task(door())
        tasks.create_task(_wait(stop))
    ended.set()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _first(group: BaseExceptionGroup[KyotenError]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _own_journal(queue: Queue, ahead: Ahead, wake: Callable[[], None]) -> Adoption | None:
    """A journal for mail that this process takes itself, if the queue may have one."""
    path = queue.new_journal()
    if path is None:
        return None

    def taken_over(number: int, receipts: Sequence[Receipt]) -> None:
        wake()
        ahead.taken_over(number, receipts)

    adoption = Adoption(queue, path, taken_over)
    try:
        await asyncio.to_thread(ahead.begin, path, adoption.put)
    except OSError as error:
        log.error("no-journal", path=str(path), reason=error.strerror)
        return None
    return adoption


async def _take_mail(config: Config, tls: TlsFiles | None, around: Surroundings) -> None:
    """What a child does: the doors of sites and devices, with the queue at the other end of a line."""
    _silence_libraries()
    relay = config.relay
    share = 1.5 / relay.intake_processes if relay.intake_processes > 1 else 1.0
    own = relay.model_copy(
        update={
            "connections_max": max(1, round(relay.connections_max * share)),
            "connections_per_site": max(1, round(relay.connections_per_site * share)),
            "rate_per_minute": max(1, round(relay.rate_per_minute * share)),
        }
    )
    database = Database(config.registry_url, actor="relay")
    directory = Directory(database, Defaults(relay.hourly_limit_per_site, relay.daily_limit_per_site))
    await _first_refresh(directory)
    taking = intake(
        config.model_copy(update={"relay": own}), around.queue, directory, lambda: None,
        certificate=_certificate(tls), metrics=around.metrics, sightings=around.sightings,
    )  # fmt: skip
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_keep_fresh(directory, around.stop))
            for listen, door in _doors(relay, taking):
                tasks.create_task(door.serve(listen, around.stop, shared=True))
    finally:
        taking.close()
        database.close()


async def _first_refresh(directory: Directory) -> None:
    try:
        await asyncio.to_thread(directory.refresh)
    except KyotenError as error:
        log.error("registry-unreadable", reason=error.key)  # clients get 451 until it is there


async def _keep_fresh(directory: Directory, stop: asyncio.Event) -> None:
    """In the first process the watch does this."""
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await stop.wait()
        try:
            await asyncio.to_thread(directory.refresh)
        except KyotenError as error:
            log.error("registry-unreadable", reason=error.key)


def _certificate(tls: TlsFiles | None) -> tuple[Path, Path] | None:
    if tls is None:
        log.warning("no-submission-listener", reason="no certificate")
        return None
    return tls.certificate, tls.key


def _doors(relay: Relay, taking: Intake) -> Iterator[tuple[Listen, Door]]:
    for listen, door in (
        (relay.site_listen, taking.site),
        (relay.submission_listen, taking.submission),
        (relay.tls_listen, taking.tls),
    ):
        if listen is not None and door is not None:
            yield listen, door


def _bounce_door(relay: Relay, memory: Memory, spool: Spool, bounces: BounceHandler, metrics: Metrics) -> Door:
    return Door(
        Server,
        bounces,
        name="bounce",
        host_name=relay.host_name,
        size_max=relay.max_message_bytes + BOUNCE_EXTRA_BYTES,
        gate=Gate(relay.connections_max, relay.connections_per_site),
        memory=memory,
        spool=spool,
        normalise=False,  # a bounce with bare line ends is refused
        metrics=metrics,
    )


async def _serve_notices(
    config: Config, tls: TlsFiles, recorder: Recorder, signing: Sequence[bytes], stop: asyncio.Event
) -> None:
    from cloudside.mail.bounces.notices import serving  # most relays have none

    if config.relay.notices is not None:
        domain, certificate = config.relay.bounce_domain, (tls.certificate, tls.key)
        await serving.serve(config.relay.notices, recorder, signing, domain, stop, certificate=certificate)


async def _serve_metrics(relay: Relay, metrics: Metrics, look: "Look", stop: asyncio.Event) -> None:
    from cloudside.fleet import web

    if relay.metrics_listen is not None:
        await web.serve(metrics_application(metrics, look), None, (relay.metrics_listen,), stop)


@dataclass(slots=True)
class Look:
    """How things stand, for the metrics. What waits is counted at most once in OBSERVED_S."""

    queue: Queue
    delivery: Delivery
    memory: Memory
    _states: dict[str, int] = field(default_factory=dict)
    _finished_at: float = float("-inf")
    _oldest_at: float | None = None
    _looked_at: float = float("-inf")

    async def __call__(self) -> Observed:
        if time.monotonic() - self._looked_at > OBSERVED_S:
            self._looked_at = time.monotonic()
            if time.monotonic() - self._finished_at > FINISHED_S:
                self._finished_at = time.monotonic()
                self._states = await self.queue.states()
            self._states |= await self.queue.waiting()
            oldest = await self.queue.entries(Selection(states=_WAITING), 1)
            self._oldest_at = oldest[0].accepted_at.timestamp() if oldest else None
        quota, trouble = self.delivery.quota, self.delivery.trouble
        return Observed(
            states=self._states,
            oldest_s=0.0 if self._oldest_at is None else max(0.0, time.time() - self._oldest_at),
            trouble="" if trouble is None else trouble.verdict.value,
            quota_max=None if quota is None else quota.max_24h,
            quota_left=None if quota is None else quota.left,
            in_flight_bytes=self.memory.used,
        )


def _silence_libraries() -> None:
    # aiosmtpd logs each line of each client, addresses and all.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
