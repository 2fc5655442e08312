"""The paths where routers hand over what they were asked for: log pieces, results of commands, crash reports."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Protocol, TypeVar

from fastapi import FastAPI, Request, Response

from cloudside.errors import InputError
from cloudside.fleet import requests
from cloudside.fleet.documents import parsed, read_body
from cloudside.fleet.identity import Speaker
from cloudside.fleet.protocol import PIECE_MAX_BYTES, CommandResult, CrashReport, LogPullState
from cloudside.registry.database import Database

_Result = TypeVar("_Result")

#: Every character of an output may take six bytes in JSON.
RESULT_MAX_BYTES = 512 * 1024
CRASH_MAX_BYTES = 256 * 1024
STATE_MAX_BYTES = 16 * 1024
#: Seconds for a whole body. A piece takes 33 s at 64 kbit/s, the slowest mobile line we serve.
BODY_S = 300.0

_NUMBER = re.compile(r"\d{1,10}")
_SHA256 = re.compile(r"[0-9a-f]{64}|")


class InThread(Protocol):
    """Runs registry work off the event loop."""

    def __call__(self, work: Callable[[], _Result]) -> Awaitable[_Result]: ...


def register(
    app: FastAPI,
    database: Database,
    *,
    speaker: Callable[[Request], Awaitable[Speaker]],
    in_thread: InThread,
    clock: Callable[[], datetime],
) -> None:
    """Put the paths into the application."""

    @app.post("/agent/v1/log-pulls/{pull_id}/pieces")
    async def take_piece(request: Request, pull_id: str) -> Response:
        who = await speaker(request)
        offset, total = _number(request, "offset"), _number(request, "total")
        sha256 = request.query_params.get("sha256", "")
        if not _SHA256.fullmatch(sha256):
            raise InputError("fleet.bad-document", problems="sha256: 64 hexadecimal digits are wanted")
        content = await read_body(request, PIECE_MAX_BYTES, BODY_S)

        def keep() -> str:
            with database.record(f"router {who.site_id}") as session:
                answer = requests.take_piece(
                    session,
                    pull_id=pull_id,
                    site_id=who.site_id,
                    offset=offset,
                    total=total,
                    sha256=sha256,
                    content=content,
                    now=clock(),
                )
            return answer.model_dump_json()

        return Response(await in_thread(keep), media_type="application/json")

    @app.post("/agent/v1/log-pulls/{pull_id}/state", status_code=HTTPStatus.NO_CONTENT)
    async def take_state(request: Request, pull_id: str) -> Response:
        who = await speaker(request)
        state = parsed(LogPullState, await read_body(request, STATE_MAX_BYTES, BODY_S))

        def keep() -> None:
            with database.record(f"router {who.site_id}") as session:
                requests.take_pull_state(session, state, pull_id=pull_id, site_id=who.site_id, now=clock())

        await in_thread(keep)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.post("/agent/v1/commands/{command_id}", status_code=HTTPStatus.NO_CONTENT)
    async def take_result(request: Request, command_id: str) -> Response:
        who = await speaker(request)
        result = parsed(CommandResult, await read_body(request, RESULT_MAX_BYTES, BODY_S))

        def keep() -> None:
            with database.record(f"router {who.site_id}") as session:
                requests.take_result(session, result, command_id=command_id, site_id=who.site_id, now=clock())

        await in_thread(keep)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.post("/agent/v1/crashes", status_code=HTTPStatus.NO_CONTENT)
    async def take_crash(request: Request) -> Response:
        who = await speaker(request)
        report = parsed(CrashReport, await read_body(request, CRASH_MAX_BYTES, BODY_S))

        def keep() -> None:
            with database.record(f"router {who.site_id}") as session:
                requests.take_crash(session, report, site_id=who.site_id, now=clock())

        await in_thread(keep)
        return Response(status_code=HTTPStatus.NO_CONTENT)


def _number(request: Request, name: str) -> int:
    given = request.query_params.get(name, "")
    if not _NUMBER.fullmatch(given):
        raise InputError("fleet.bad-document", problems=f"{name}: a number of bytes is wanted")
    return int(given)
