"""Reports from what is known of an end. Pure. The same fault has the same id, so that it is counted and not repeated.

No values of variables are in them: a traceback here is files, lines and functions, and the exception's own words.
"""

import hashlib
import re
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime

from router_agent.logs.redaction import Redaction
from router_agent.report.requests import CrashReport

EXCEPTION, KILLED, RESET, KERNEL, CHILD = "exception", "killed", "reset", "kernel", "child"

#: Characters of a report's text: a report is below 20 kB, also on a mobile line.
TEXT_MAX_CHARS = 16_000
_SUMMARY_MAX_CHARS = 200

#: Lines that begin a report of the kernel's. Taken from Linux 6.1: lib/bug.c, mm/oom_kill.c, kernel/panic.c,
#: kernel/watchdog.c, kernel/hung_task.c, arch/x86/kernel/dumpstack.c.
_KERNEL = re.compile(
    r"BUG: |Oops: |Oops\[|kernel BUG at |Kernel panic - |general protection fault|Unable to handle kernel |"
    r"soft lockup|hard LOCKUP|Out of memory: Killed process|oom-kill:|blocked for more than \d+ seconds|"
    r"segfault at |I/O error, dev |EXT4-fs error|dm-verity.*corrupt"
)
#: So many lines belong to one.
_KERNEL_LINES = 60


def of_exception(
    error: BaseException, where: str, *, redaction: Redaction, versions: Mapping[str, str], at: datetime
) -> CrashReport:
    """An exception that nobody expected. ``where``: the thread or the part that it ended."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in frames]
    text = "".join(traceback.format_exception(error))
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    return _made(EXCEPTION, where, summary, text, [type(error).__name__, *places], redaction, versions, at)


def of_end(
    kind: str,
    process: str,
    summary: str,
    lines: Sequence[str],
    *,
    once: str,
    redaction: Redaction,
    versions: Mapping[str, str],
    at: datetime,
) -> CrashReport:
    """A process or a machine that ended, with the last lines of its log. ``once``: what sets this end apart from
    others of its kind, such as the boot's id and the process's."""
    return _made(kind, process, summary, "\n".join(lines), [once], redaction, versions, at)


def of_kernel(
    lines: Sequence[str], *, boot: str, redaction: Redaction, versions: Mapping[str, str], at: datetime
) -> tuple[CrashReport, ...]:
    """The faults that a kernel's log tells of, a report each; ``boot``: which boot's log it is."""
    found = []
    beyond = -1
    for number, line in enumerate(lines):
        if number > beyond and _KERNEL.search(line):
            beyond = number + _KERNEL_LINES
            text = "\n".join(lines[max(0, number - 3) : beyond])
            # Without its time: that is reckoned from a clock that is set now and then.
            found.append(_made(KERNEL, "kernel", bare(line), text, [boot, bare(line)], redaction, versions, at))
    return tuple(found)


def bare(line: str) -> str:
    """A kernel's line without its time."""
    return re.sub(r"^(\d{4}-\d\d-\d\dT[\d:]+ )?(<\d+>)?(\[ *\d+\.\d+\] )?(kernel: )?", "", line)


def _made(
    kind: str,
    process: str,
    summary: str,
    text: str,
    fingerprint: Sequence[str],
    redaction: Redaction,
    versions: Mapping[str, str],
    at: datetime,
) -> CrashReport:
    clean = redaction.text(text)
    if len(clean) > TEXT_MAX_CHARS:  # how it began and how it ended
        half = TEXT_MAX_CHARS // 2
        clean = f"{clean[:half]}\n...\n{clean[-half:]}"
    return CrashReport(
        id=hashlib.sha256("\0".join([kind, process, *fingerprint]).encode("utf-8", "replace")).hexdigest()[:32],
        kind=kind,
        process=process,
        summary=redaction.line(summary)[:_SUMMARY_MAX_CHARS],
        first_at=at,
        last_at=at,
        versions=dict(versions),
        text=clean,
    )
