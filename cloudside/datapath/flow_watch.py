"""Listens to connection tracking, on a thread of its own, and reads the set of refused triples. The shell of
accounting and refusals.

The listener is the program conntrack; it ends with this process, and is started again when it ends by itself. What the
kernel could not deliver, and what happened while nobody listened, is made good as far as what is still open tells, and
reported.
"""

import contextlib
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cloudside.datapath.accounting import StatementCounters, parse_event
from cloudside.datapath.problems import Problem, problem
from cloudside.datapath.refusals import REFUSED_SET, Triple, judged, parse_refused, seen_at
from cloudside.registry.counted import MembershipUse, Refused, StatementUse
from linux.errors import LinuxError
from linux.runner import Runner
from rules.compile import RuleSet

log = structlog.get_logger("kyoten.gateway")

#: setpriv, so that the listener ends with the daemon whichever way that ends. The kernel doubles the size.
LISTEN = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("conntrack", "-E", "-f", "ipv4", "--buffer-size", "8388608", "-e", "NEW,DESTROY", "-o", "extended,id"),
)
LIST = ("conntrack", "-L", "-f", "ipv4", "-o", "extended,id")
#: What conntrack says when it listens, and when the kernel threw events away (conntrack-tools 1.4.7, src/conntrack.c).
LISTENS = b"buffer size has been set"
LOST = b"ENOBUFS"
#: Seconds until a listener that ended is started again, and between listings after losses.
START_AGAIN_S = 1.0
LIST_AGAIN_S = 10.0
#: Seconds that a loss stays in the report.
REMEMBER_S = 300.0
#: Seconds between looks whether to end.
LOOK_UP_S = 0.5
#: Seconds that events gather before they are read: conntrack writes each by itself, and reading each by itself costs
#: 14 % of a core at 1,000 flows a second instead of 3 %. The pipe holds as much (bytes) as comes meanwhile.
GATHER_S = 0.1
PIPE_BYTES = 1 << 20
#: Connection tracking counts packets and bytes; and tells of flows that began before anybody listened.
SWITCHES = (Path("/proc/sys/net/netfilter/nf_conntrack_acct"), Path("/proc/sys/net/netfilter/nf_conntrack_events"))


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be told to the registry."""

    uses: tuple[StatementUse, ...]
    refused: tuple[Refused, ...]
    seen: dict[Triple, datetime]
    memberships: tuple[MembershipUse, ...] = ()


class FlowWatch:
    """Counts from `start` to `stop`. Other methods may be called from any thread; ``clock`` is monotonic seconds."""

    def __init__(self, runner: Runner, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        self._lock = threading.Lock()
        self._counters = StatementCounters()
        self._rule_set: RuleSet | None = None
        self._seen: dict[Triple, datetime] = {}
        self._stopped = threading.Event()
        self._ruled = threading.Event()
        self._problems: dict[Problem, float] = {}
        self._thread = threading.Thread(target=self._run, name="flows", daemon=True)
        self._deaf_since: float | None = None
        self._heard_before = False
        self._list_at: float | None = None

    def start(self) -> None:
        """Switch the kernel's accounting on and begin to listen."""
        try:
            for switch in SWITCHES:
                switch.write_text("1")
        except OSError as error:
            self._tell(problem("datapath.accounting-off", reason=str(error)), float("inf"))
        self._thread.start()

    def stop(self) -> None:
        """End the listener and the thread; what was counted can still be taken."""
        self._stopped.set()
        self._ruled.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def use(self, rule_set: RuleSet | None) -> None:
        """The rule set in the kernel; None: unknown for the moment."""
        if rule_set is None or rule_set is self._rule_set:
            return
        with self._lock:
            self._rule_set = rule_set
            self._counters.use(rule_set)
        self._ruled.set()

    def problems(self) -> tuple[Problem, ...]:
        """What was not counted, and why."""
        with self._lock:
            now = self._clock()
            self._problems = {one: until for one, until in self._problems.items() if until > now}
            return tuple(self._problems)

    def missed(self, since: datetime, until: datetime) -> None:
        """No process counted in between."""
        seconds = max(1, round((until - since).total_seconds()))
        self._tell(problem("datapath.counting-interrupted", seconds=seconds))

    def take(self, now: datetime) -> Batch:
        """What is new since the last `take`; to be followed by `settle` or `give_back`."""
        with self._lock:
            uses, rule_set = self._counters.take(now), self._rule_set
            members = self._counters.memberships.take()
        seen: dict[Triple, datetime] = {}
        if rule_set is None:
            return Batch(uses, (), seen, members)
        try:
            written = self._runner.run(["ipset", "save", REFUSED_SET], timeout_s=30).stdout
        except LinuxError as error:
            self._tell(problem("datapath.refused-unread", reason=str(error)[:400]), 30)
            return Batch(uses, (), dict(self._seen), members)
        seen = {triple: seen_at(now, ago_s) for triple, ago_s in parse_refused(written).items()}
        # The kernel speaks of whole seconds: what moved by less is the same packet.
        moved = [
            (triple, at)
            for triple, at in seen.items()
            if triple not in self._seen or (at - self._seen[triple]).total_seconds() > 2
        ]
        still = {triple: self._seen[triple] for triple in seen if triple in self._seen}
        return Batch(uses, tuple(judged(rule_set, moved)), {**seen, **still, **dict(moved)}, members)

    def settle(self, batch: Batch) -> None:
        """The batch is told."""
        self._seen = batch.seen

    def give_back(self, batch: Batch) -> None:
        """The batch could not be told; it will be part of the next one."""
        with self._lock:
            self._counters.give_back(batch.uses)
            self._counters.memberships.give_back(batch.memberships)

    def _tell(self, found: Problem, for_s: float = REMEMBER_S) -> None:
        with self._lock:
            if found not in self._problems:
                log.warning("problem", key=found.key, **dict(found.params))
            self._problems[found] = self._clock() + for_s

    def _run(self) -> None:
        self._ruled.wait()  # before there is a rule set nothing passes that it could have let in
        while not self._stopped.is_set():
            try:
                self._listen()
                reason = "it ended"
            except OSError as error:
                reason = str(error)
            if self._stopped.is_set():
                return
            if self._deaf_since is None:
                self._deaf_since = self._clock()
                log.warning("flow-listener-ended", reason=reason)
            if not self._heard_before:
                self._tell(problem("datapath.counting-failed", reason=reason), 30)
            self._stopped.wait(START_AGAIN_S)

    def _listen(self) -> None:
        """Raises OSError: the program cannot be started."""
        environment = {**os.environ, "LC_ALL": "C"}
        process = subprocess.Popen(
            LISTEN,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pipesize=PIPE_BYTES,
        )
        try:
            self._read(process)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        rest = said = b""
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ)
            while not self._stopped.is_set():
                for key, _ in selector.select(LOOK_UP_S):
                    data = os.read(key.fd, PIPE_BYTES)
                    if not data:
                        return
                    if key.fileobj is process.stderr:
                        said = self._hear(said + data)
                    else:
                        *lines, rest = (rest + data).split(b"\n")
                        self._count(lines)
                        self._stopped.wait(GATHER_S)
                if self._list_at is not None and self._clock() >= self._list_at:
                    self._list_at = None
                    self._hold_against(count=True)

    def _hear(self, said: bytes) -> bytes:
        """What conntrack says besides events. Returns what may be the beginning of something."""
        if LISTENS in said:
            if self._deaf_since is not None and self._heard_before:
                seconds = max(1, round(self._clock() - self._deaf_since))
                self._tell(problem("datapath.counting-interrupted", seconds=seconds))
            self._hold_against(count=self._heard_before)
            self._heard_before, self._deaf_since = True, None
            return b""
        if LOST in said:
            self._tell(problem("datapath.counting-lost"))
            if self._list_at is None:
                self._list_at = self._clock() + LIST_AGAIN_S
            return b""
        return said[-200:]

    def _count(self, lines: list[bytes]) -> None:
        now = datetime.now(UTC)
        events = [event for line in lines if (event := parse_event(line.decode("ascii", "replace"))) is not None]
        with self._lock:
            for event in events:
                self._counters.count(event, now)

    def _hold_against(self, *, count: bool) -> None:
        """What is open now, against what is known."""
        with contextlib.suppress(LinuxError):  # then flows from before count nothing but their end
            text = self._runner.run(LIST, timeout_s=30).stdout
            listed = [event for line in text.splitlines() if (event := parse_event(line)) is not None]
            with self._lock:
                self._counters.hold_against(listed, datetime.now(UTC), count=count)
