"""Composition root of `kyoten relay`: builds the parts, binds the listeners, runs until told to stop."""

import asyncio
import errno
import logging
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from cloudside.config import Config, Listen
from cloudside.errors import ConfigurationError, KyotenError
from cloudside.mail.bounces import dsn, keys
from cloudside.mail.bounces.listener import BounceHandler
from cloudside.mail.bounces.recording import Recorder, notify_of
from cloudside.mail.delivery import assembly
from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.gate import Gate, LoginThrottle
from cloudside.mail.intake.listener import (
    Reception,
    Server,
    SiteHandler,
    SubmissionHandler,
    SubmissionServer,
    starttls_context,
)
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch.watch import Watch
from cloudside.registry.database import Database

log = structlog.get_logger(__name__)

#: Connections of one listener in total and from one site (of the bounce listener: from one address). A device on a LAN
#: can take any of its site's addresses, so counted by address one site could take all places.
CONNECTIONS_MAX = 500
CONNECTIONS_PER_PLACE_MAX = 40
#: A bounce may carry the whole mail back, and its own words.
BOUNCE_EXTRA_BYTES = 256 * 1024
BIND_RETRY_S = 0.5
BACKLOG = 256


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
        directory = Directory(database)
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
        reception = Reception(queue, directory, relay.host_name, relay.bounce_domain, delivery.wake)
        recorder = Recorder(queue, voice, delivery.wake, notify_of(directory))
        bounces = BounceHandler(recorder, signing, relay.bounce_domain)
        listeners = _listeners(config, reception, bounces, tls)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(delivery.run(stop))
                tasks.create_task(watch.run(stop, lambda: datetime.now(UTC)))
                for listener in listeners:
                    tasks.create_task(listener(stop))
        except BaseExceptionGroup as group:
            ours = group.subgroup(KyotenError)
            raise ours.exceptions[0] if ours is not None else group from None
    finally:
        database.close()
        queue.close()
        log.info("relay-stopped")


Listener = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


def _listeners(config: Config, reception: Reception, bounces: BounceHandler, tls: TlsFiles | None) -> list[Listener]:
    relay = config.relay
    common = {"hostname": relay.host_name, "data_size_limit": relay.max_message_bytes}
    found = [partial(_serve, relay.site_listen, "site", Server, SiteHandler(reception), common)]
    if tls is None:
        log.warning("no-submission-listener", reason="no certificate")
    else:
        context = _context(tls)
        handler = SubmissionHandler(reception, LoginThrottle())
        options = {**common, "tls_context": context}
        found.append(partial(_serve, relay.submission_listen, "submission", SubmissionServer, handler, options))
    if relay.bounce_listen is not None:
        options = {**common, "data_size_limit": relay.max_message_bytes + BOUNCE_EXTRA_BYTES}
        found.append(partial(_serve, relay.bounce_listen, "bounce", Server, bounces, options))
    return list(found)


def _context(tls: TlsFiles) -> ssl.SSLContext:
    try:
        return starttls_context(str(tls.certificate), str(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError("mail.certificate-unusable", path=str(tls.certificate), reason=str(error)) from error


async def _serve(
    listen: Listen, name: str, kind: type[Server], handler: object, options: dict[str, Any], stop: asyncio.Event
) -> None:
    """One listener until ``stop``; waits for its address when the gateway has not put it up yet."""
    gate = Gate(CONNECTIONS_MAX, CONNECTIONS_PER_PLACE_MAX)
    connections: set[Server] = set()
    loop = asyncio.get_running_loop()
    server: asyncio.Server | None = None
    told = False
    while not stop.is_set():
        try:
            server = await loop.create_server(
                lambda: kind(handler, gate, connections, loop=loop, **options),
                str(listen.address),
                listen.port,
                backlog=BACKLOG,
            )
            break
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise ConfigurationError(
                    "mail.cannot-listen",
                    listener=name,
                    address=str(listen.address),
                    port=listen.port,
                    reason=str(error),
                ) from error
            if not told:
                log.warning("waiting-for-address", listener=name, address=str(listen.address), port=listen.port)
                told = True
        with suppress(TimeoutError):
            async with asyncio.timeout(BIND_RETRY_S):
                await stop.wait()
    if server is None:
        return
    log.info("listening", listener=name, address=str(listen.address), port=listen.port)
    try:
        await stop.wait()
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        if isinstance(handler, SubmissionHandler):
            handler.close()
