"""Commands: what is not in the table is not run, nothing runs twice, nothing runs late; the result is never lost."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from request_cloud import WAY, MemoryCloud, unreachable

from linux.errors import CharonUnavailableError
from router_agent.errors import CloudUnreachableError
from router_agent.exec import bounded, table
from router_agent.exec.bounded import Ran
from router_agent.exec.ledger import KEPT, OUTPUTS_KEPT, Entry, Ledger
from router_agent.exec.orders import Orders
from router_agent.exec.reboot import Reboot
from router_agent.exec.table import Look, NotTaken, Programs, Restart
from router_agent.logs.redaction import Redaction
from router_agent.report.requests import Command, CommandReport

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PONG = Ran(0, "pong\n", False)
PING = Command("c1", "ping", {"address": "192.168.1.20", "count": 2}, 30, 600)


class Router:
    """Orders on a state directory, with programs that are recorded and not run."""

    def __init__(self, state: Path, *, boot: str = "boot-1", answer: Ran | Exception = PONG) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.restarts: list[bool] = []
        self.answer = answer
        self.now = 0.0
        self.cloud = MemoryCloud()
        self.orders = Orders(
            Ledger(state),
            lan="lan0",
            looks={"connections": lambda: "3 of 100\n", "tunnels": self._no_charon, "modem": lambda: "pin=1234\n"},
            restart=self.restarts.append,
            redaction=Redaction,
            boot=boot,
            clock=lambda: NOW,
            monotonic=lambda: self.now,
            run=self._run,
        )

    def _run(self, argv: tuple[str, ...], *, timeout_s: float, most_bytes: int) -> Ran:
        self.ran.append(argv)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _no_charon(self) -> str:
        raise CharonUnavailableError("charon does not answer")

    def step(self, *commands: Command) -> None:
        self.orders.want(commands, self.now)
        self.orders.step(self.cloud, WAY)  # type: ignore[arg-type]

    @property
    def results(self) -> list[Any]:
        return [body for path, body in self.cloud.posts if path.startswith("/agent/v1/commands/")]


def test_a_command_runs_once_however_often_it_is_asked(tmp_path: Path) -> None:
    router = Router(tmp_path)
    for _ in range(3):
        router.step(PING)
    assert router.ran == [
        ("ping", "-n", "-c", "2", "-s", "56", "-i", "0.5", "-W", "2", "--", "192.168.1.20")
    ]  # fmt: skip
    assert router.results[0]["state"] == "done" and router.results[0]["output"] == "pong\n"
    again = Router(tmp_path)
    again.step(PING)
    assert again.ran == [] and again.results[0]["output"] == "pong\n", (
        "the cloud asks: it is told again, not done again"
    )


def test_a_result_that_was_not_taken_is_handed_over_later(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.cloud.fails = unreachable
    with pytest.raises(CloudUnreachableError):
        router.step(PING)
    assert len(router.ran) == 1
    again = Router(tmp_path)
    again.step()  # the cloud does not even ask
    assert again.ran == [] and [one["state"] for one in again.results] == ["done"]
    again.step()
    assert len(again.results) == 1


def test_what_a_crash_interrupted_is_not_run_again(tmp_path: Path) -> None:
    Ledger(tmp_path).begin(Entry("c1", "ping", NOW, "boot-1"))
    router = Router(tmp_path)
    router.step(PING)
    assert router.ran == []
    assert router.results[0]["state"] == "interrupted"
    assert router.results[0]["problem"] == {"key": "agent.command-interrupted", "params": {"command": "ping"}}


def test_a_record_that_is_damaged_still_keeps_its_command_from_running(tmp_path: Path) -> None:
    Ledger(tmp_path).begin(Entry("c1", "ping", NOW, "boot-1"))
    (tmp_path / "commands" / "c1.json").write_text("{")
    router = Router(tmp_path)
    router.step(PING)
    assert router.ran == [] and router.results[0]["problem"]["key"] == "agent.command-record-damaged"


def test_without_a_record_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "commands").write_text("a file where the directory should be")
    router = Router(tmp_path)
    router.step(PING)
    assert router.ran == [] and router.results[0]["problem"]["key"] == "agent.state-unwritable"


def test_what_is_late_is_not_begun(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.orders.want((PING,), 0.0)
    router.now = 601.0
    router.orders.step(router.cloud, WAY)  # type: ignore[arg-type]
    assert router.ran == [] and router.results[0]["state"] == "expired"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sh", {}), ("ping", {}), ("ping", {"address": "plc"}), ("ping", {"address": "-f"}),
        ("ping", {"address": "1.1.1.1; reboot"}), ("ping", {"address": "192.0.2.1", "count": 21}),
        ("ping", {"address": "192.0.2.1", "count": "2"}), ("ping", {"address": "192.0.2.1", "flood": 1}),
        ("routes", {"table": "main"}), ("reboot", {"now": 1}), ("traceroute", {"address": "192.0.2.1", "hops": 0}),
    ],
)  # fmt: skip
def test_what_is_not_in_the_table_is_refused(tmp_path: Path, name: str, arguments: dict[str, str | int]) -> None:
    router = Router(tmp_path)
    router.step(Command("c9", name, arguments, 30, 600))
    assert router.ran == [] and router.restarts == []
    assert router.results[0]["state"] == "refused"
    assert not (tmp_path / "commands").exists(), "what does not run leaves no record"


def test_every_name_has_a_plan() -> None:
    target: dict[str, str | int] = {"address": "2001:db8::1"}
    plans = {
        name: table.plan(name, target if name in ("ping", "traceroute") else {}, lan="lan0") for name in table.NAMES
    }
    assert {type(one) for one in plans.values()} == {Programs, Look, Restart}
    for one in plans.values():
        if isinstance(one, Programs):
            assert all(argv[0] in ("ping", "traceroute", "ip") for argv in one.argvs)
    with pytest.raises(NotTaken):
        table.plan("ping", {"address": "$(reboot)"}, lan="lan0")


def test_cloud_and_router_know_the_same_commands() -> None:
    from cloudside.config import DIAGNOSTIC_COMMANDS
    from cloudside.fleet.diagnostics import DIAGNOSTICS

    assert tuple(DIAGNOSTICS) == table.NAMES == DIAGNOSTIC_COMMANDS
    for name, diagnostic in DIAGNOSTICS.items():
        words = {one.name: one.read("192.0.2.1" if one.host else "7") for one in diagnostic.parameters}
        assert table.plan(name, words, lan="lan0"), f"the router does not take what the cloud offers of {name}"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Ran(None, "so far\n", False), "timed-out"),
        (Ran(2, "no route\n", False), "done"),
        (FileNotFoundError(2, "No such file or directory"), "failed"),
    ],
)
def test_how_a_program_may_end(tmp_path: Path, answer: Ran | Exception, state: str) -> None:
    router = Router(tmp_path, answer=answer)
    router.step(PING)
    assert router.results[0]["state"] == state
    if isinstance(answer, Ran):
        assert (router.results[0]["status"], router.results[0]["output"]) == (answer.status, answer.output)


def test_what_the_agent_answers_itself(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.step(*(Command(name, name, {}, 5, 60) for name in ("connections", "tunnels", "modem")))
    assert [(one["state"], one["output"]) for one in router.results] == [
        ("done", "3 of 100\n"), ("failed", ""), ("done", "pin=***\n"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["restart-agent", "reboot"])
def test_a_restart_is_answered_by_the_agent_after_it(tmp_path: Path, name: str) -> None:
    router = Router(tmp_path)
    router.step(Command("c5", name, {}, 30, 600), PING)
    assert router.restarts == [name == "reboot"]
    assert router.ran == [] and router.results == [], "nothing else is begun"
    after = Router(tmp_path, boot="boot-2")
    after.step(Command("c5", name, {}, 30, 600), PING)
    assert [one["state"] for one in after.results] == ["done", "done"]
    assert "started anew" in after.results[-1]["output"] or "started anew" in after.results[0]["output"]
    assert after.restarts == [], "it starts anew for ever"


def test_a_reboot_that_did_not_come_is_told(tmp_path: Path) -> None:
    reboot = Command("c5", "reboot", {}, 30, 600)
    router = Router(tmp_path)
    router.step(reboot)
    router.orders.refuse_restart("status 1")
    router.step(reboot)
    assert router.results[0]["problem"] == {"key": "agent.command-failed", "params": {"reason": "status 1"}}
    killed = Router(tmp_path / "other")
    (tmp_path / "other").mkdir()
    killed.step(reboot)
    same_boot = Router(tmp_path / "other")
    same_boot.step(reboot)
    assert same_boot.results[0]["state"] == "interrupted", "the machine never went down"


def test_old_records_go_and_outputs_before_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(KEPT + 5):
        name = f"c{number:04}"
        ledger.begin(Entry(name, "ping", datetime.fromtimestamp(number, UTC), "b"))
        ledger.end(name, CommandReport("done", 0, "x" * 10))
        ledger.handed_over(name)
    again = Ledger(tmp_path)
    assert again.find("c0000") is None
    assert len(list((tmp_path / "commands").glob("*.json"))) <= KEPT + 1
    outputs = [
        one for number in range(KEPT + 5) if (one := again.find(f"c{number:04}")) and one.report and one.report.output
    ]
    assert len(outputs) <= OUTPUTS_KEPT + 2


def test_a_program_is_bounded_in_time_and_size() -> None:
    python = sys.executable
    began = time.monotonic()
    child = "import subprocess,sys,time; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    late = bounded.run([python, "-c", child], timeout_s=1.5, most_bytes=100)
    assert late == Ran(None, "begun\n", False) and time.monotonic() - began < 20
    long = bounded.run([python, "-c", "print('x' * 100_000)"], timeout_s=30, most_bytes=50)
    assert long == Ran(0, "x" * 50, True)
    both = bounded.run([python, "-c", "import sys; sys.stderr.write('bad'); sys.exit(3)"], timeout_s=30, most_bytes=50)
    assert both == Ran(3, "bad", False)
    with pytest.raises(FileNotFoundError):
        bounded.run(["/nowhere/program"], timeout_s=1, most_bytes=1)


def test_a_program_sees_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KYOTEN_SECRET", "x")
    assert "KYOTEN_SECRET" not in bounded.run(["env"], timeout_s=10, most_bytes=9999).output


def test_a_reboot_that_fails_says_so(tmp_path: Path) -> None:
    def until(reboot: Reboot, wanted: Callable[[str | None], bool]) -> str | None:
        for _ in range(500):
            found = reboot.step()
            if wanted(found):
                return found
            time.sleep(0.01)
        raise AssertionError("it does not end")

    assert until(Reboot(Path("/bin/false")), lambda found: found is not None) == "/bin/false ended with status 1"
    assert Reboot(tmp_path / "none").step() == "No such file or directory"
    marker = tmp_path / "called"
    program = tmp_path / "reboot"
    program.write_text(f"#!/bin/sh\necho once >> {marker}\n")
    program.chmod(0o755)
    reboot = Reboot(program)
    assert reboot.step() is None
    until(reboot, lambda _: marker.exists())
    assert reboot.step() is None and marker.read_text() == "once\n"
