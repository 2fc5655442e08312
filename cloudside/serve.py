"""One-machine default: the daemons as child processes, started again when they end, ended together.

Separate processes as in production, so that a crash of one is the others' business no more here than there. In
production systemd does this part.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

#: Seconds before a daemon that ended is started again: doubled each time, up to the longest.
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
#: A daemon that ran this long counts as well again, in seconds.
WELL_AFTER_S = 60.0
#: Seconds that a daemon has to end after SIGTERM before it is killed.
END_S = 40.0

_log = structlog.get_logger()


async def supervise(
    commands: Mapping[str, Sequence[str]],
    stop: asyncio.Event,
    *,
    first_delay_s: float = FIRST_DELAY_S,
    end_s: float = END_S,
) -> None:
    """Keep all of ``commands`` (name -> argv) running until ``stop``; then end them all before returning."""
    async with asyncio.TaskGroup() as group:
        for name, argv in commands.items():
            group.create_task(_keep_running(name, argv, stop, first_delay_s, end_s))


async def _keep_running(
    name: str, argv: Sequence[str], stop: asyncio.Event, first_delay_s: float, end_s: float
) -> None:
    delay_s = first_delay_s
    while not stop.is_set():
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL)
        _log.info("started", daemon=name, pid=process.pid)
        try:
            await _ended_or_stopped(process, stop)
        finally:
            await _end(process, end_s)
        if stop.is_set():
            _log.info("ended", daemon=name, status=process.returncode)
            return
        if time.monotonic() - started >= WELL_AFTER_S:
            delay_s = first_delay_s
        _log.error("daemon ended by itself", daemon=name, status=process.returncode, again_in_s=delay_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


async def _ended_or_stopped(process: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    waits = {asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _end(process: asyncio.subprocess.Process, end_s: float) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), end_s)
    except TimeoutError:
        _log.error("killed", pid=process.pid)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
