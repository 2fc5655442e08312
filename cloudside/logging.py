"""Logging of the daemons, set up in one place: JSON lines for machines, colours on a terminal. Never a secret."""

import json
import logging
import sys
from functools import cache

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

#: Fields whose name contains one of these are written as ***: a mistake in one call must not put a secret into a log.
SECRET_NAMES = ("password", "secret", "device_id", "authorization", "private_key", "token")


def configure(*, level: str = "info", json_lines: bool | None = None, for_good: bool = False) -> None:
    """Log to standard error. ``json_lines`` None: JSON unless that is a terminal. Libraries' warnings go along.

    ``for_good``: it is never configured again in this process, which makes each line cheaper.
    """
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
    ]
    ending: list[Processor] = (
        [structlog.processors.format_exc_info, _json_line]
        if as_json
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=for_good,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace values of fields that are named like secrets."""
    for name in event:
        if _is_secret(name):
            event[name] = "***"
    return event


@cache
def _is_secret(name: str) -> bool:
    # Names of fields are words in our code: there are some hundred.
    return any(secret in name.lower() for secret in SECRET_NAMES)


#: Made once: a relay writes thousands of lines a second.
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=repr)


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _ENCODER.encode(event)
