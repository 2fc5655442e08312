"""The hooks in this process, the marks on disk, and the children whose end is not ours.

What is found at the start of an agent (a kill, a reset, what the kernel left) takes a look at logs and a journal: it is
done in the sender's lane and not before the doors are shut.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from router_agent.crash import kernel, reports
from router_agent.crash.marks import Mark, RunningMark
from router_agent.crash.store import Store
from router_agent.logs import collect
from router_agent.logs.kernel import KernelLog
from router_agent.logs.redaction import Redaction
from router_agent.logs.units import Places
from router_agent.report.requests import CrashReport

_log = logging.getLogger(__name__)

#: Lines of a log that a report has.
LINES = 60


@dataclass(slots=True)
class Child:
    """A program that the agent looks after, by its pid file. ``log``: what it said last."""

    name: str
    pid_file: Path
    log: Path
    pid: int | None = None


class Crashes:
    """``news`` is called when there is a report; any thread."""

    def __init__(
        self,
        places: Places,
        store: Store,
        kernel_log: KernelLog,
        redaction: Callable[[], Redaction],
        *,
        boot: str,
        pid: int,
        versions: Mapping[str, str],
        news: Callable[[], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._places = places
        self._store = store
        self._kernel_log = kernel_log
        self._redaction = redaction
        self._boot = boot
        self._pid = pid
        self._versions = versions
        self._news = news
        self._clock = clock
        self._mark = RunningMark(places.state)
        self._left_behind: Mark | None = None
        self._last_words: list[str] = []
        self._children = (
            Child("charon", places.runtime / "charon.pid", places.runtime / "charon.log"),
            Child("sshd", places.runtime / "sshd.pid", places.runtime / "sshd.log"),
        )

    def start(self) -> None:
        """The agent runs from now on. Hooks in where exceptions end that nobody caught."""
        self._left_behind = self._mark.left_behind()
        if self._left_behind is not None:  # now: this agent's own lines come behind it
            self._last_words = collect.last_lines(self._places.files("agent")[0], LINES)
        try:
            self._mark.set(Mark(self._boot, self._pid, self._clock()))
        except OSError as error:
            _log.warning("a kill of this agent could not be noticed: %s", error.strerror)
        sys.excepthook = self._uncaught
        threading.excepthook = self._uncaught_in_thread

    def stop(self) -> None:
        """The agent stops because it was told to."""
        self._mark.clear()

    def exception(self, error: BaseException, where: str) -> None:
        """One that was caught to keep the agent alive, and is a bug all the same."""
        self._keep(reports.of_exception(
            error, where, redaction=self._redaction(), versions=self._versions, at=self._clock()
        ))  # fmt: skip

    def child(self, name: str, summary: str, log: Path, *, once: str) -> None:
        """A program that the agent started ended otherwise than it should."""
        self._ended(reports.CHILD, name, summary, _tail(log), once=once)

    def look_at_children(self) -> None:
        """Notice those that have ended under the agent: it ends none of them while it runs, but one that hangs."""
        for child in self._children:
            pid = _read_pid(child.pid_file)
            if child.pid is not None and not _alive(child.pid):
                once = f"{self._boot}/{child.pid}"
                self.child(child.name, f"{child.name} (process {child.pid}) has ended by itself", child.log, once=once)
            child.pid = pid if pid is not None and _alive(pid) else None

    def look_back(self) -> None:
        """What happened before this agent's start."""
        mark, self._left_behind = self._left_behind, None
        if mark is not None:
            self._tell_of(mark)
        for path, lines in kernel.leftovers():
            found = self._of_kernel(lines, boot=path.name)
            if not found:
                self._ended(reports.KERNEL, "kernel", "the kernel left a record", lines, once=path.name)
            kernel.remove(path)
        if mark is not None and mark.boot != self._boot:
            self._of_kernel(kernel.last_boot(self._kernel_log), boot=mark.boot)
        self.look_at_kernel()

    def look_at_kernel(self) -> None:
        """Faults that this boot's kernel has told of."""
        self._of_kernel(kernel.this_boot(self._kernel_log), boot=self._boot)

    def _tell_of(self, mark: Mark) -> None:
        killed = mark.boot == self._boot
        summary = (
            f"the agent (process {mark.pid}) ended without having been told to"
            if killed
            else "the router went down without stopping the agent: power cut, reset or panic"
        )
        kind, process = (reports.KILLED, "kyoten-agent") if killed else (reports.RESET, "router")
        once = f"{mark.boot}/{mark.pid}/{mark.started_at}"
        self._ended(kind, process, summary, self._last_words, once=once)

    def _of_kernel(self, lines: list[str], *, boot: str) -> bool:
        found = reports.of_kernel(
            lines, boot=boot, redaction=self._redaction(), versions=self._versions, at=self._clock()
        )
        for report in found:
            if not self._store.knows(report.id):
                self._keep(report)
        return bool(found)

    def _ended(self, kind: str, process: str, summary: str, lines: list[str], *, once: str) -> None:
        report = reports.of_end(
            kind, process, summary, lines, once=once, redaction=self._redaction(), versions=self._versions,
            at=self._clock(),
        )  # fmt: skip
        if not self._store.knows(report.id):
            _log.warning("%s", summary)
            self._keep(report)

    def _keep(self, report: CrashReport) -> None:
        self._store.add(report)
        self._news()

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return
        _log.critical("the agent ends: %s: %s", kind.__name__, error)
        self.exception(error, "kyoten-agent")
        self._mark.clear()  # why it ended is told

    def _uncaught_in_thread(self, arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            name = arguments.thread.name if arguments.thread is not None else "a thread"
            _log.error("%s ends: %r", name, arguments.exc_value)
            self.exception(arguments.exc_value, name)


def _tail(path: Path) -> list[str]:
    return collect.last_lines([path], LINES)


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has reaped yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
