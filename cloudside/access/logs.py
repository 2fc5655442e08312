"""A log pull: ask, wait for the router to hand it over, read it. The router sees the request in its next heartbeat."""

import time
from collections.abc import Callable
from datetime import datetime

from cloudside.errors import UnavailableError
from cloudside.fleet import handover
from cloudside.registry import log_requests, reports
from cloudside.registry.callers import Caller
from cloudside.registry.database import Database

#: Seconds between looks at the registry while waiting.
_LOOK_S = 0.2


def ask(
    database: Database, caller: Caller, *, request_id: str, site_id: str, lines: int, requested_by: str, now: datetime
) -> None:
    """Leave the request for the router. Raises InputError: unknown site, or a wrong number of lines."""
    with database.write() as session:
        log_requests.ask(
            session,
            caller,
            request_id=request_id,
            site_id=site_id,
            lines=lines,
            requested_by=requested_by,
            now=now,
        )


def wait(
    database: Database,
    caller: Caller,
    *,
    request_id: str,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The log's text, as soon as it is there.

    Raises UnavailableError: not within ``timeout_s`` (the request stays; the answer can be fetched later).
    """
    ends = clock() + timeout_s
    while True:
        with database.read() as session:
            request = log_requests.get(session, caller, request_id)
            if request.content is not None:
                return handover.read_log(request.content)
            if clock() >= ends:
                heartbeat = reports.heartbeat(session, caller, request.site_id)
                raise UnavailableError(
                    "access.log-not-yet",
                    site=request.site_id,
                    request=request_id,
                    seconds=round(timeout_s),
                    reported="-" if heartbeat is None else heartbeat.received_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                )
        sleep(_LOOK_S)
