"""`kyoten web`: the agents' endpoint on its sockets. Composition root of the process."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from cloudside.config import Config, Listen
from cloudside.fleet import heartbeat, public, tls
from cloudside.fleet.endpoint import application
from cloudside.pki import published
from cloudside.pki.published import EndpointFiles
from cloudside.registry.database import Database

#: Seconds between attempts to bind an address that is not there yet (the gateway puts the service address on lo).
BIND_RETRY_S = 1.0
#: Seconds between looks whether the endpoint's certificate was renewed.
RELOAD_LOOK_S = 30.0
#: Seconds that a TLS handshake may take; a 3G line needs three round trips of up to a second each.
HANDSHAKE_S = 20.0
#: Seconds that requests under way get at the end.
DRAIN_S = 5.0
#: Connections at once; more get 503 and come back. One a router, and a router stays connected for seconds.
CONNECTIONS_MAX = 2000

_log = structlog.get_logger()


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serve until ``stop``. Raises ConfigurationError: registry or certificates are not there."""
    database = Database(config.registry_url, actor="web")
    try:
        database.require_current()
        files = published.endpoint_files(config)
        context = tls.server_context(files.chain, files.key, files.root)
        intervals = heartbeat.Intervals(
            wired_s=config.web.heartbeat_wired_s,
            mobile_s=config.web.heartbeat_mobile_s,
            confirm_s=config.web.settings_confirm_s,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_fresh(context, files, stop))
            group.create_task(serve(application(database, config, intervals), context, config.web.listen, stop))
            if config.pki.public_listen:
                everybody = public.application(database, config)
                group.create_task(serve(everybody, None, config.pki.public_listen, stop))
    finally:
        database.close()


async def keep_fresh(context: ssl.SSLContext, files: EndpointFiles, stop: asyncio.Event) -> None:
    """Load the endpoint's certificate again whenever its file changes: connections from then on are shown it.

    A file that does not fit is left alone and told; what is loaded goes on.
    """
    loaded = _changed_at(files)
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RELOAD_LOOK_S)
        found = _changed_at(files)
        if found == loaded:
            continue
        loaded = found
        try:
            context.load_cert_chain(files.chain, files.key)
        except OSError as error:  # ssl.SSLError is one
            _log.error("certificate not loaded", path=str(files.chain), reason=str(error))
        else:
            _log.info("certificate loaded again", path=str(files.chain))


def _changed_at(files: EndpointFiles) -> tuple[int, ...]:
    try:
        return tuple(path.stat().st_mtime_ns for path in (files.chain, files.key))
    except OSError:
        return ()


def _dated(app: ASGIApp) -> ASGIApp:
    """With the time in each answer (RFC 9110 section 6.6.1): a router compares its clock with it.

    uvicorn writes it in the part of its Server that is not used here.
    """

    async def with_date(scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"date", formatdate(usegmt=True).encode())]
            await send(message)

        await app(scope, receive, dated)

    return with_date


async def serve(app: ASGIApp, context: ssl.SSLContext | None, listen: Sequence[Listen], stop: asyncio.Event) -> None:
    """Serve ``app`` on every address of ``listen`` as soon as the address exists, until ``stop``. No context: HTTP.

    Not uvicorn.Server: that binds once, exits when it cannot, and takes the process's signals.
    """
    settings = uvicorn.Config(
        _dated(app),
        http=tls.PeerCertificateProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would believe X-Forwarded-For from loopback
        limit_concurrency=CONNECTIONS_MAX,
    )
    settings.load()
    state = ServerState()
    servers: list[asyncio.Server] = []
    waiting = list(listen)
    loop = asyncio.get_running_loop()
    try:
        while not stop.is_set():
            for place in list(waiting):
                try:
                    server = await loop.create_server(
                        lambda: tls.PeerCertificateProtocol(settings, state, {}),
                        str(place.address),
                        place.port,
                        ssl=context,
                        ssl_handshake_timeout=None if context is None else HANDSHAKE_S,
                        reuse_address=True,
                        backlog=settings.backlog,
                    )
                except OSError as error:
                    _log.debug("waiting for address", address=str(place.address), port=place.port, reason=str(error))
                    continue
                servers.append(server)
                waiting.remove(place)
                _log.info("agent endpoint listens", address=str(place.address), port=place.port)
            try:
                await asyncio.wait_for(stop.wait(), BIND_RETRY_S if waiting else None)
            except TimeoutError:
                continue
    finally:
        for server in servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=DRAIN_S)
