"""Runs commands one after the other and hands their results over, in a lane of its own."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from linux.errors import LinuxError
from router_agent.bundle import Endpoint
from router_agent.errors import CloudRefusedError, StateError
from router_agent.exec import answers, bounded, table
from router_agent.exec.ledger import Entry, Ledger
from router_agent.exec.table import Look, NotTaken, Plan, Programs, Restart
from router_agent.logs.redaction import Redaction
from router_agent.problems import Problem
from router_agent.report.cloud import CloudClient
from router_agent.report.requests import OUTPUT_MAX_CHARS, Command, CommandReport

_log = logging.getLogger(__name__)

#: Half the limit of the protocol: a character may be several bytes, and the other way round.
OUTPUT_MAX_BYTES = OUTPUT_MAX_CHARS // 2
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id(path: Path = BOOT_ID) -> str:
    """Names this boot of the machine; empty: the kernel does not say."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class Orders:
    """``looks``: what this agent answers itself, by name; each may raise LinuxError or OSError. ``restart`` is told
    when the agent (False) or the machine (True) is to start anew; it returns at once."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        lan: str,
        looks: Mapping[str, answers.Answer],
        restart: Callable[[bool], None],
        redaction: Callable[[], Redaction],
        boot: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        run: Callable[..., bounded.Ran] = bounded.run,
    ) -> None:
        self._ledger = ledger
        self._lan = lan
        self._looks = looks
        self._restart = restart
        self._redaction = redaction
        self._boot = boot
        self._clock = clock
        self._monotonic = monotonic
        self._run = run
        #: What the cloud asks for, and when it said so; replaced whole by the main loop.
        self._wanted: tuple[tuple[Command, ...], float] = ((), 0.0)
        self._recovered = False
        #: A restart was begun: nothing else is, in this process.
        self._ends = False

    def want(self, commands: tuple[Command, ...], now: float) -> bool:
        """What the cloud asks for now; any thread. True: there is something to do."""
        self._wanted = (commands, now)
        return bool(commands) or not self._recovered

    def step(self, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        """Run what is new, hand over what has ended. Raises CloudUnreachableError: the results are kept."""
        if not self._recovered:
            self._recover()
            self._recovered = True
        commands, heard_at = self._wanted
        for command in commands:
            if self._ends:
                break
            if self._ledger.find(command.id) is None:
                self._do(command, heard_at, client, endpoints)
            else:
                self._again(command.id, client, endpoints)
        for entry in self._ledger.undelivered():
            self._hand_over(entry.id, entry.report, client, endpoints)
        return None

    def refuse_restart(self, reason: str) -> None:
        """The restart that was asked for cannot be: say so, and go on."""
        self._ends = False
        for entry in self._ledger.open():
            self._ledger.end(entry.id, CommandReport(
                "failed", began_at=entry.began_at, problem=Problem("agent.command-failed", {"reason": reason[:200]})
            ))  # fmt: skip

    def _recover(self) -> None:
        """What an agent before this one has begun is over."""
        for entry in self._ledger.open():
            again = entry.name == "reboot" and entry.boot != self._boot
            if again or entry.name == "restart-agent":
                seconds = max(0.0, (self._clock() - entry.began_at).total_seconds())
                what = "the router" if entry.name == "reboot" else "the agent"
                report = CommandReport(
                    "done", 0, f"{what} has started anew\n", began_at=entry.began_at, duration_s=seconds
                )
            else:
                problem = Problem("agent.command-interrupted", {"command": entry.name})
                report = CommandReport("interrupted", began_at=entry.began_at, problem=problem)
            self._ledger.end(entry.id, report)

    def _do(self, command: Command, heard_at: float, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> None:
        began = self._clock()
        if self._monotonic() - heard_at > command.expires_s:
            self._hand_over(command.id, CommandReport("expired"), client, endpoints)
            return
        try:
            plan = table.plan(command.name, command.arguments, lan=self._lan)
        except NotTaken as error:
            problem = Problem("agent.command-not-taken", {"command": command.name[:40], "what": str(error)[:80]})
            self._hand_over(command.id, CommandReport("refused", problem=problem), client, endpoints)
            return
        try:
            self._ledger.begin(Entry(command.id, command.name, began, self._boot))
        except StateError as error:
            # It would be run again after a restart: better not at all.
            report = CommandReport("failed", problem=Problem.of(error))
            self._hand_over(command.id, report, client, endpoints)
            return
        _log.info("command %s: %s", command.id, command.name)
        if isinstance(plan, Restart):
            self._ends = True
            self._restart(plan.machine)
            return
        report = self._carry_out(plan, command, began)
        _log.info("command %s: %s", command.id, report.state)
        self._ledger.end(command.id, report)

    def _carry_out(self, plan: Plan, command: Command, began: datetime) -> CommandReport:
        start = self._monotonic()
        status: int | None = 0
        output, truncated, problem = "", False, None
        try:
            if isinstance(plan, Look):
                output = self._looks[plan.what]()
            elif isinstance(plan, Programs):
                status, output, truncated = self._programs(plan, start + command.timeout_s)
        except (LinuxError, OSError) as error:
            status, problem = None, Problem("agent.command-failed", {"reason": answers.failed(error)})
        state = "failed" if problem is not None else "timed-out" if status is None else "done"
        duration_s = self._monotonic() - start
        return CommandReport(state, status, self._redaction().text(output), truncated, began, duration_s, problem)

    def _programs(self, plan: Programs, deadline: float) -> tuple[int | None, str, bool]:
        status: int | None = 0
        output, truncated = "", False
        for argv in plan.argvs:
            left_bytes = max(0, OUTPUT_MAX_BYTES - len(output.encode()))
            ran = self._run(argv, timeout_s=max(0.1, deadline - self._monotonic()), most_bytes=left_bytes)
            output += ran.output
            truncated = truncated or ran.truncated
            status = ran.status if ran.status is None else max(status or 0, ran.status)
            if ran.status is None:
                break
        return status, output, truncated

    def _again(self, identifier: str, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> None:
        """The cloud asks for what has been done: its answer was lost."""
        entry = self._ledger.find(identifier)
        if entry is not None and entry.handed_over:
            self._hand_over(identifier, entry.report, client, endpoints)

    def _hand_over(
        self, identifier: str, report: CommandReport | None, client: CloudClient, endpoints: tuple[Endpoint, ...]
    ) -> None:
        if report is None:
            return
        try:
            body = json.dumps(report.document()).encode()
            client.post(f"/agent/v1/commands/{identifier}", body, "application/json", endpoints)
        except CloudRefusedError as error:
            _log.warning("command %s: the cloud does not take its result: %s", identifier, error)
        entry = self._ledger.find(identifier)
        if entry is not None and not entry.handed_over:
            self._ledger.handed_over(identifier)
