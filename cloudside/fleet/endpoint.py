"""The agents' HTTP application: who speaks, how much, then the document. Registry work runs off the event loop.

Order of the checks: certificate and device id first, so that only an enrolled router can make us read a body. A router
that is being enrolled has neither; it gets 16 KiB and few attempts.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TypeVar

import structlog
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cloudside.config import Config
from cloudside.errors import InputError, KyotenError, RefusedError
from cloudside.fleet import certifying, console, handover, heartbeat, identity, payloads, request_paths, strangers, tls
from cloudside.fleet.attempts import Attempts
from cloudside.fleet.documents import TooManyError, parsed, problem_response, read_body, source_of
from cloudside.fleet.identity import StrangerError
from cloudside.fleet.protocol import LOG_MAX_BYTES, CertificateRequest, EnrolmentRequest, Heartbeat
from cloudside.fleet.strangers import Stranger, Strangers
from cloudside.pki import console_key
from cloudside.pki.enrolment import DeviceElsewhereError
from cloudside.pki.store import KeyStore
from cloudside.registry import log_requests, routers
from cloudside.registry.addresses import Address
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from firmware.repository.served import snapshot_version

#: A heartbeat with every list full stays below 60 KiB.
HEARTBEAT_MAX_BYTES = 64 * 1024
#: A certificate request is below 1 KiB, a router's whole introduction below 2.
REQUEST_MAX_BYTES = 16 * 1024
#: Seconds for a whole body. A log of LOG_MAX_BYTES takes 250 s at 64 kbit/s, the slowest mobile line we serve.
HEARTBEAT_BODY_S = 60.0
LOG_BODY_S = 600.0
#: Registry sessions at once; below SQLAlchemy's pool of 5 + 10 connections, so none waits for a connection.
REGISTRY_THREADS = 8

_Result = TypeVar("_Result")
_log = structlog.get_logger()


def application(
    database: Database,
    config: Config,
    intervals: heartbeat.Intervals,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """The application on this registry. Errors are documents with the error's status (fleet.documents)."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    threads = ThreadPoolExecutor(REGISTRY_THREADS, thread_name_prefix="registry")
    attempts, known_strangers = Attempts(), Strangers()
    store = KeyStore.of(config)

    async def in_thread(work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def tell(stranger: Stranger, source: Address) -> None:
        now = clock()
        if not known_strangers.is_news(stranger, now):
            return

        def keep() -> None:
            with database.write() as session:
                strangers.note(session, stranger, source, now)

        try:
            await in_thread(keep)
        except KyotenError as error:  # what it was refused for stays the answer
            _log.error("incident-not-recorded", kind=stranger.kind, site=stranger.site, reason=error.key)

    async def speaker(request: Request) -> identity.Speaker:
        certificate = tls.peer_certificate(request)
        device_id = identity.device_id_of(request.headers)

        def look() -> identity.Speaker:
            with database.read() as session:
                return identity.authenticate(session, certificate, device_id, now=clock())

        try:
            return await in_thread(look)
        except StrangerError as error:
            await tell(error.stranger, source_of(request))
            raise

    @app.post("/agent/v1/heartbeat")
    async def take_heartbeat(request: Request) -> Response:
        who = await speaker(request)
        document = parsed(Heartbeat, await read_body(request, HEARTBEAT_MAX_BYTES, HEARTBEAT_BODY_S))
        if document.site != who.site_id:
            raise RefusedError("fleet.other-site", site=who.site_id, claimed=document.site)
        source = source_of(request)

        def keep() -> str:
            now = clock()
            with database.record(f"router {who.site_id}") as session:
                answer = heartbeat.receive(
                    session, document, site_id=who.site_id, source=source, intervals=intervals, now=now
                )
                renew = certifying.is_renewal_wanted(session, who, now=now)
                supersedes = certifying.is_superseding(session, who, now=now)
                told = document.console if console.is_news(session, who.site_id, document.console) else None
            if supersedes:
                certifying.retire_superseded(database, config, who, now=now)
            if told is not None:
                with database.write(actor=f"router {who.site_id}") as session:
                    console.note(session, who.site_id, told, now)
            found = {
                "renew_certificate": renew,
                "repository": snapshot_version(config.firmware_directory),
                "console_key": console.key_for(document.console, console_key.published(store)),
            }
            return answer.model_copy(update=found).model_dump_json()

        return Response(await in_thread(keep), media_type="application/json")

    @app.post("/agent/v1/logs/{request_id}", status_code=HTTPStatus.NO_CONTENT)
    async def take_log(request: Request, request_id: str) -> Response:
        who = await speaker(request)
        content = await read_body(request, LOG_MAX_BYTES, LOG_BODY_S)

        def keep() -> None:
            handover.check_log(content)
            with database.write() as session:
                log_requests.answer(
                    session, OPERATOR, request_id=request_id, site_id=who.site_id, content=content, now=clock()
                )

        await in_thread(keep)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    request_paths.register(app, database, speaker=speaker, in_thread=in_thread, clock=clock)

    @app.post("/agent/v1/certificate")
    async def renew(request: Request) -> Response:
        who = await speaker(request)
        wanted = parsed(CertificateRequest, await read_body(request, REQUEST_MAX_BYTES, HEARTBEAT_BODY_S))
        made = await in_thread(lambda: certifying.renew(database, config, who, wanted, now=clock()))
        return Response(made.model_dump_json(), media_type="application/json")

    @app.post("/enrol/v1/router")
    async def enrol(request: Request) -> Response:
        source = source_of(request)
        wait_s = attempts.wait_s(source, clock().timestamp())
        if wait_s > 0:
            raise TooManyError(wait_s)
        try:
            wanted = parsed(EnrolmentRequest, await read_body(request, REQUEST_MAX_BYTES, HEARTBEAT_BODY_S))
            made = await in_thread(lambda: certifying.enrol(database, config, wanted, source, now=clock()))
        except DeviceElsewhereError as error:
            attempts.failed(source, clock().timestamp())
            hashed = routers.hash_device_id(wanted.device_id)
            await tell(Stranger(strangers.MOVED, error.site, hashed, error.other), source)
            raise
        except (InputError, RefusedError):
            attempts.failed(source, clock().timestamp())
            raise
        return Response(made.model_dump_json(), media_type="application/json")

    published = payloads.Directory(config.firmware_directory)
    payloads.add(app, published, speaker, rate_bytes_s=config.firmware.rate_per_site_bytes_s)

    @app.exception_handler(KyotenError)
    async def keyed(request: Request, error: KyotenError) -> Response:
        path, status = request.url.path, error.http_status
        _log.info("refused", path=path, status=status, key=error.key, params=dict(error.params))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, RefusedError):
            return problem_response(path, status, "fleet.cloud-trouble", {})
        retry_s = error.seconds if isinstance(error, TooManyError) else 10
        return problem_response(path, status, error.key, dict(error.params), retry_s=retry_s)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        return problem_response(path, error.status_code, "fleet.no-such-path", {"path": path[:80]})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return problem_response(request.url.path, HTTPStatus.BAD_REQUEST, "fleet.hung-up", {})

    # ServerErrorMiddleware logs and raises on; the exception's text stays here, the peer gets a key.
    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return problem_response(request.url.path, HTTPStatus.INTERNAL_SERVER_ERROR, "fleet.cloud-trouble", {})

    return app
