"""Requests and answers of the agents' endpoint: a body within its bounds, a document out of it, an error as one."""

import asyncio
import math
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from cloudside import messages
from cloudside.errors import InputError, KyotenError, Parameter

#: Where routers go that have no certificate yet.
ENROLMENT = "/enrol/"

#: Statuses that carry no useful further request on the same connection: the body was not read to its end.
_CLOSING = frozenset({401, 403, 408, 413, 429})

_Document = TypeVar("_Document", bound=BaseModel)


class _TooLargeError(KyotenError):
    http_status = 413


class _TooSlowError(KyotenError):
    http_status = 408


class TooManyError(KyotenError):
    """Too many attempts from one address; ``seconds`` until the next one is looked at."""

    exit_code = 5
    http_status = 429

    def __init__(self, seconds: float) -> None:
        super().__init__("fleet.enrolment-too-often", seconds=math.ceil(seconds))
        self.seconds = math.ceil(seconds)


async def read_body(request: Request, most_bytes: int, within_s: float) -> bytes:
    """The whole body. Raises KyotenError with status 413 (too large) or 408 (too slow)."""
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


def parsed(kind: type[_Document], body: bytes) -> _Document:
    """The document in a body. Raises InputError with everything that is wrong; never with what was given."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)[:10]
        )
        raise InputError("fleet.bad-document", problems=wrong) from None


def source_of(request: Request) -> IPv4Address | IPv6Address:
    """The address that a request comes from."""
    return ip_address(request.client.host if request.client else "0.0.0.0")  # noqa: S104 - not a bind address


def problem_response(path: str, status: int, key: str, params: dict[str, Parameter], *, retry_s: int = 10) -> Response:
    """``{"key", "params", "text"}``; for a router that enrols ``{"error", "params", "text"}``, where 422 is 400."""
    text = messages.text(key, params, language="en")
    enrolling = path.startswith(ENROLMENT)
    if enrolling and status == 422:
        status = 400
    document = {"error" if enrolling else "key": key, "params": params, "text": text}
    headers = {"Connection": "close"} if status in _CLOSING else {}
    if status in (429, 503):
        headers["Retry-After"] = str(retry_s)
    return JSONResponse(document, status_code=status, headers=headers)
