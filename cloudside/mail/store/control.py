"""The running relay's side of `kyoten mail`: a Unix socket that only the relay's user can open."""

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from cloudside.errors import ConfigurationError, InputError, KyotenError
from cloudside.mail.store import wire
from cloudside.mail.store.queue import Queue

log = structlog.get_logger(__name__)

FILE_NAME = "relay.sock"
_BACKLOG = 16


async def serve(queue: Queue, path: Path, stop: asyncio.Event) -> None:
    """Answer until ``stop``. A socket that a dead relay left is replaced. Raises ConfigurationError: cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Before bind: at no moment can anybody else open it.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
    except OSError as error:
        raise ConfigurationError("mail.control-socket", path=str(path), reason=error.strerror or str(error)) from error
    callers: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.add(writer)
        try:
            await _converse(queue, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the caller went away
        finally:
            callers.discard(writer)
            writer.close()

    server = await asyncio.start_unix_server(answer, sock=listener, backlog=_BACKLOG)
    try:
        await stop.wait()
    finally:
        server.close()
        for writer in list(callers):
            writer.close()
        path.unlink(missing_ok=True)


async def _converse(queue: Queue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            (size,) = wire.LENGTH.unpack(await reader.readexactly(wire.LENGTH.size))
        except asyncio.IncompleteReadError:
            return
        if size > wire.REQUEST_MAX_BYTES:
            return
        request = await reader.readexactly(size)
        try:
            done = await _do(queue, request, writer)
        except KyotenError as error:
            writer.write(wire.frame({"error": wire.error_out(error)}))
        except Exception as error:  # a bug in one request is not the relay's end
            log.error("control-fault", exc_info=error)
            fault = InputError("mail.control-fault", reason=type(error).__name__)
            writer.write(wire.frame({"error": wire.error_out(fault)}))
        else:
            writer.write(wire.frame({"done": done}))
        await writer.drain()


async def _do(queue: Queue, request: bytes, writer: asyncio.StreamWriter) -> Any:
    """One request; what it came to, without the parts of a list, which are written already."""
    given: Mapping[str, Any] = json.loads(request)
    what = given["do"]
    if what == "states":
        return await queue.states()
    which = wire.selection_in(given["which"])
    if what in ("entries", "stories"):
        find = queue.entries if what == "entries" else queue.stories
        found = await find(which, int(given["limit"]))
        for start in range(0, len(found), wire.PART_MAX):
            writer.write(wire.frame({"part": [wire.out(item) for item in found[start : start + wire.PART_MAX]]}))
            await writer.drain()
        return None
    now, reason = float(given["now"]), str(given.get("reason", ""))
    log.info("mail-control", do=what, reason=reason)
    if what == "hold":
        return await queue.hold(which, now, reason)
    if what == "release":
        return await queue.release(which, now)
    if what == "retry":
        return await queue.retry(which, now)
    if what == "drop":
        return await queue.drop(which, now, reason)
    raise InputError("mail.control-fault", reason=str(what))
