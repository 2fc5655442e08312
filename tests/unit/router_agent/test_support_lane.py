"""A lane works when there is a way and something to do, waits after failures, outlives bugs; what the agent answers."""

import threading
from pathlib import Path

import pytest
from request_cloud import WAY

from linux.errors import CharonUnavailableError
from router_agent.errors import CloudUnreachableError
from router_agent.exec import answers
from router_agent.report import lane
from router_agent.report.lane import Lane


class Work:
    def __init__(self, *outcomes: float | Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.steps = threading.Semaphore(0)
        self.endpoints: list[object] = []

    def step(self, client: object, endpoints: object) -> float | None:
        self.endpoints.append(endpoints)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        self.steps.release()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.steps.acquire(timeout=30), "no step came"

    @property
    def idle(self) -> bool:
        return not self.steps.acquire(timeout=0.1)


def test_it_begins_with_a_way_and_goes_on_when_woken() -> None:
    work = Work()
    one = Lane("x", work, lambda: None)  # type: ignore[arg-type, return-value]
    one.start()
    one.wake()
    assert work.idle, "it worked without a way to the cloud"
    one.aim(WAY)
    work.wait(1)
    one.aim(WAY)
    assert work.idle, "each answer of the cloud makes work"
    one.wake()
    work.wait(1)
    one.stop(10)
    one.wake()
    assert work.idle and work.endpoints == [WAY, WAY]


def test_it_tries_again_and_outlives_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_AGAIN", lane.Backoff(0.01, 0.02))
    told: list[BaseException] = []
    bug = ValueError("a bug")
    work = Work(CloudUnreachableError("agent.cloud-unreachable", endpoint="", reason=""), bug, 0.01, None)
    one = Lane("x", work, lambda: None, told.append)  # type: ignore[arg-type, return-value]
    one.start()
    one.aim(WAY)
    work.wait(4)
    assert work.idle and told == [bug], "what the network does is no crash"
    one.stop(10)


def test_what_the_agent_answers(tmp_path: Path) -> None:
    (tmp_path / "nf_conntrack_count").write_text("5\n")
    (tmp_path / "nf_conntrack_max").write_text("100\n")
    assert answers.connections(tmp_path) == "5 of 100 connections are tracked (5.0 %)\n"
    with pytest.raises(OSError, match="No such file"):
        answers.connections(tmp_path / "none")
    assert "no mobile line" in answers.modem(None)
    assert answers.modem({"state": "connected", "signal_dbm": -67}) == 'state: "connected"\nsignal_dbm: -67\n'
    with pytest.raises(CharonUnavailableError) as caught:
        answers.tunnels(tmp_path / "none", timeout_s=1)
    assert "charon does not answer" in answers.failed(caught.value)
