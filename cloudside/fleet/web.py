"""`kyoten web`: the agents' endpoint on its sockets. Composition root of the process."""

import asyncio
import ssl
from collections.abc import Sequence

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from cloudside.config import Config, Listen
from cloudside.fleet import heartbeat, tls
from cloudside.fleet.endpoint import application
from cloudside.pki import published
from cloudside.registry.database import Database

#: Seconds between attempts to bind an address that is not there yet (the gateway puts the service address on lo).
BIND_RETRY_S = 1.0
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
        await serve(application(database, config, intervals), context, config.web.listen, stop)
    finally:
        database.close()


async def serve(app: FastAPI, context: ssl.SSLContext, listen: Sequence[Listen], stop: asyncio.Event) -> None:
    """Serve ``app`` on every address of ``listen`` as soon as the address exists, until ``stop``.

    Not uvicorn.Server: that binds once, exits when it cannot, and takes the process's signals.
    """
    settings = uvicorn.Config(
        app,
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
                        ssl_handshake_timeout=HANDSHAKE_S,
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
