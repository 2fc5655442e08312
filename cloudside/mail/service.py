"""Composition root of `kyoten relay`: builds the parts, binds the listeners, runs until told to stop."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cloudside.config import Config, Listen, Relay
from cloudside.errors import KyotenError
from cloudside.mail.bounces import dsn, keys
from cloudside.mail.bounces.listener import BounceHandler
from cloudside.mail.bounces.recording import Recorder, notify_of
from cloudside.mail.delivery import assembly
from cloudside.mail.intake.assembly import Intake, intake
from cloudside.mail.intake.directory import Defaults, Directory
from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.gate import Gate
from cloudside.mail.intake.listener import Server
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch.watch import Watch
from cloudside.registry.database import Database

log = structlog.get_logger(__name__)

#: A bounce may carry the whole mail back, and its own words.
BOUNCE_EXTRA_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The submission listener's certificate chain and key, PEM."""

    certificate: Path
    key: Path


async def run(config: Config, stop: asyncio.Event, *, tls: TlsFiles | None = None) -> None:
    """Relay mail until ``stop``. Without ``tls`` there is no submission listener.

    Raises ConfigurationError: no smarthost or credentials configured, queue or key unusable.
    """
    # aiosmtpd logs each line of each client, addresses and all.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    smarthost = assembly.smarthost(config)
    relay = config.relay
    queue = Queue(config.queue_directory)
    database = Database(config.registry_url, actor="relay")
    try:
        signing = keys.load(config.state_directory / "mail" / "verp.key")
        voice = dsn.Voice(relay.host_name, config.alerts.sender, config.alerts.language)
        directory = Directory(database, Defaults(relay.hourly_limit_per_site, relay.daily_limit_per_site))
        delivery = assembly.delivery(config, queue, directory, key=signing[0], voice=voice)
        try:
            await asyncio.to_thread(directory.refresh)
        except KyotenError as error:
            log.error("registry-unreadable", reason=error.key)  # clients get 451 until it is there
        again = await queue.recover(datetime.now(UTC).timestamp())
        log.info("relay-starting", queue=str(config.queue_directory), redelivered=again)
        watch = Watch(
            database,
            directory,
            queue,
            delivery,
            smarthost.host,
            relay.hourly_limit_per_site,
            config.alerts.staff,
            voice,
        )
        if tls is None:
            log.warning("no-submission-listener", reason="no certificate")
        certificate = None if tls is None else (tls.certificate, tls.key)
        taking = intake(config, queue, directory, delivery.wake, certificate=certificate)
        taking.spool.clear()
        recorder = Recorder(queue, voice, delivery.wake, notify_of(directory))
        bounces = BounceHandler(recorder, signing, relay.bounce_domain)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(delivery.run(stop))
                tasks.create_task(watch.run(stop, lambda: datetime.now(UTC)))
                for listen, door in _doors(relay, taking, bounces):
                    tasks.create_task(door.serve(listen, stop))
        except BaseExceptionGroup as group:
            ours = group.subgroup(KyotenError)
            raise ours.exceptions[0] if ours is not None else group from None
        finally:
            taking.close()
    finally:
        database.close()
        queue.close()
        log.info("relay-stopped")


def _doors(relay: Relay, taking: Intake, bounces: BounceHandler) -> Iterator[tuple[Listen, Door]]:
    for listen, door in (
        (relay.site_listen, taking.site),
        (relay.submission_listen, taking.submission),
        (relay.tls_listen, taking.tls),
        (relay.bounce_listen, _bounce_door(relay, taking, bounces)),
    ):
        if listen is not None and door is not None:
            yield listen, door


def _bounce_door(relay: Relay, taking: Intake, bounces: BounceHandler) -> Door:
    return Door(
        Server,
        bounces,
        name="bounce",
        host_name=relay.host_name,
        size_max=relay.max_message_bytes + BOUNCE_EXTRA_BYTES,
        gate=Gate(relay.connections_max, relay.connections_per_site),
        memory=taking.memory,
    )
