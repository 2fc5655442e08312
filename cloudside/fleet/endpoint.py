"""The agents' HTTP application: who speaks, how much, then the document. Registry work runs off the event loop.

Order of the checks: certificate and device id first, so that only an enrolled router can make us read a body.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import TypeVar

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cloudside import messages
from cloudside.errors import InputError, KyotenError, RefusedError
from cloudside.fleet import handover, heartbeat, identity, tls
from cloudside.fleet.protocol import LOG_MAX_BYTES, Heartbeat
from cloudside.registry import log_requests
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

#: A heartbeat with every list full stays below 20 KiB.
HEARTBEAT_MAX_BYTES = 64 * 1024
#: Seconds for a whole body. A log of LOG_MAX_BYTES takes 250 s at 64 kbit/s, the slowest mobile line we serve.
HEARTBEAT_BODY_S = 60.0
LOG_BODY_S = 600.0
#: Registry sessions at once; below SQLAlchemy's pool of 5 + 10 connections, so none waits for a connection.
REGISTRY_THREADS = 8

#: Statuses that carry no useful further request on the same connection: the body was not read to its end.
_CLOSING = frozenset({401, 403, 408, 413})

_Result = TypeVar("_Result")
_log = structlog.get_logger()


class _TooLargeError(KyotenError):
    http_status = 413


class _TooSlowError(KyotenError):
    http_status = 408


def application(
    database: Database, intervals: heartbeat.Intervals, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> FastAPI:
    """The application on this registry. Errors are ``{"key", "params", "text"}`` with the error's status."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    threads = ThreadPoolExecutor(REGISTRY_THREADS, thread_name_prefix="registry")

    async def in_thread(work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def site_of(certificate: bytes | None, device_id: str) -> str:
        with database.read() as session:
            return identity.authenticate(session, certificate, device_id, now=clock()).id

    async def speaker(request: Request) -> str:
        certificate = tls.peer_certificate(request)
        device_id = identity.device_id_of(request.headers)
        return await in_thread(lambda: site_of(certificate, device_id))

    @app.post("/agent/v1/heartbeat")
    async def take_heartbeat(request: Request) -> Response:
        site_id = await speaker(request)
        document = _parsed(await _body(request, HEARTBEAT_MAX_BYTES, HEARTBEAT_BODY_S))
        if document.site != site_id:
            raise RefusedError("fleet.other-site", site=site_id, claimed=document.site)
        source = ip_address(request.client.host if request.client else "0.0.0.0")  # noqa: S104 - not a bind address

        def keep() -> str:
            with database.write() as session:
                answer = heartbeat.receive(
                    session, document, site_id=site_id, source=source, intervals=intervals, now=clock()
                )
            return answer.model_dump_json()

        return Response(await in_thread(keep), media_type="application/json")

    @app.post("/agent/v1/logs/{request_id}", status_code=HTTPStatus.NO_CONTENT)
    async def take_log(request: Request, request_id: str) -> Response:
        site_id = await speaker(request)
        content = await _body(request, LOG_MAX_BYTES, LOG_BODY_S)

        def keep() -> None:
            handover.check_log(content)
            with database.write() as session:
                log_requests.answer(
                    session, OPERATOR, request_id=request_id, site_id=site_id, content=content, now=clock()
                )

        await in_thread(keep)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.exception_handler(KyotenError)
    async def keyed(request: Request, error: KyotenError) -> Response:
        _log.info("refused", path=request.url.path, status=error.http_status, key=error.key, **error.params)
        if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, RefusedError):
            return _problem(error.http_status, "fleet.cloud-trouble", {})
        return _problem(error.http_status, error.key, dict(error.params))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, "fleet.no-such-path", {"path": request.url.path[:80]})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return _problem(HTTPStatus.BAD_REQUEST, "fleet.hung-up", {})

    # ServerErrorMiddleware logs and raises on; the exception's text stays here, the peer gets a key.
    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "fleet.cloud-trouble", {})

    return app


def _problem(status: int, key: str, params: dict[str, str | int | float]) -> Response:
    document = {"key": key, "params": params, "text": messages.text(key, params, language="en")}
    headers = {"Connection": "close"} if status in _CLOSING else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "10"
    return JSONResponse(document, status_code=status, headers=headers)


async def _body(request: Request, most_bytes: int, within_s: float) -> bytes:
    if int(request.headers.get("content-length", "0")) > most_bytes:  # h11 has checked that it is a number
        raise _TooLargeError("fleet.body-too-large", most=most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for piece in request.stream():
                body += piece
                if len(body) > most_bytes:  # chunked: no length was announced
                    raise _TooLargeError("fleet.body-too-large", most=most_bytes)
    except TimeoutError:
        raise _TooSlowError("fleet.body-too-slow", seconds=within_s) from None
    return bytes(body)


def _parsed(body: bytes) -> Heartbeat:
    try:
        return Heartbeat.model_validate_json(body)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)[:10]
        )
        raise InputError("fleet.bad-document", problems=wrong) from None
