"""What everybody may ask over plain HTTP: revocation lists and OCSP. Both are signed; nothing else is served.

RFC 5280 section 4.2.1.13 (lists), RFC 6960 appendix A (OCSP over HTTP).
"""

import asyncio
import base64
import binascii
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import unquote

import structlog
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from cloudside.config import Config
from cloudside.errors import KyotenError
from cloudside.fleet.documents import read_body
from cloudside.pki import status
from cloudside.pki.authority import OCSP_PATH
from cloudside.registry import certificates
from cloudside.registry.database import Database

_BODY_S = 10.0
_THREADS = 4

_log = structlog.get_logger()


def application(
    database: Database, config: Config, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> FastAPI:
    """The application on this registry."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="public")

    def current_list(name: str) -> Response:
        with database.read() as session:
            kept = certificates.revocation_list(session, name)
        if kept is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        left_s = max(0, round((kept.next_update - clock()).total_seconds()))
        headers = {"Cache-Control": f"public, max-age={min(left_s, 3600)}"}
        return Response(kept.der, media_type="application/pkix-crl", headers=headers)

    def answer(request: bytes) -> Response:
        with database.read() as session:
            content = status.answer(session, config, request, now=clock())
        return Response(content, media_type="application/ocsp-response")

    @app.get("/crl/{name}.crl")
    async def revocation_list(name: str) -> Response:
        return await asyncio.get_running_loop().run_in_executor(threads, current_list, name)

    @app.post(OCSP_PATH)
    async def ocsp_by_post(request: Request) -> Response:
        body = await read_body(request, status.REQUEST_MAX_BYTES, _BODY_S)
        return await asyncio.get_running_loop().run_in_executor(threads, answer, body)

    @app.get(OCSP_PATH + "/{encoded:path}")
    async def ocsp_by_get(encoded: str) -> Response:
        # Clients differ in whether they encode "/", "+" and "=" once more.
        try:
            asked = base64.b64decode(unquote(encoded), validate=True)
        except (binascii.Error, ValueError):
            asked = b""
        return await asyncio.get_running_loop().run_in_executor(threads, answer, asked[: status.REQUEST_MAX_BYTES])

    @app.exception_handler(KyotenError)
    async def trouble(request: Request, error: KyotenError) -> Response:
        _log.info("not served", path=request.url.path[:80], key=error.key)
        return Response(status_code=error.http_status)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=HTTPStatus.BAD_REQUEST)

    return app
