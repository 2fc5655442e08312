"""The guard: it feeds until the deadline, until the agent stands still, or for good once the slot is kept."""

from dataclasses import dataclass, field

import pytest

from router_agent.update import guard, marks
from router_agent.update.guard import STEP_S, STILL_S, Agent, Verdict
from router_agent.update.slots import BootedTrial

TRIAL = BootedTrial("t-1", 900)


class EndOfTestError(Exception):
    """The scene has lasted long enough."""


@dataclass
class Scene:
    """A machine on which time passes only while the guard waits."""

    agent_from: float = 1e9
    agent_until: float = 1e9
    commit_at: float = 1e9
    lasts_s: float = 4000.0
    at: float = 20.0
    fed: list[float] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    restarted: float | None = None

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds
        if self.at > self.lasts_s:
            raise EndOfTestError

    def feed(self) -> None:
        self.fed.append(self.at)

    def sign(self) -> int | None:
        return None if self.at < self.agent_from else int(min(self.at, self.agent_until))

    def committed(self) -> bool:
        return self.at >= self.commit_at

    def mark(self, what: str) -> None:
        self.marks.append(what)

    def restart(self) -> None:
        self.restarted = self.at


def test_without_a_commit_it_is_over_at_the_deadline() -> None:
    scene = Scene(agent_from=60)
    guard.run(TRIAL, scene)
    assert scene.restarted is not None
    assert TRIAL.seconds < scene.restarted <= TRIAL.seconds + STEP_S
    assert scene.fed[-1] <= TRIAL.seconds
    assert scene.marks == [marks.GUARD, marks.DEADLINE]


def test_an_agent_that_never_comes_has_until_the_deadline() -> None:
    scene = Scene()
    guard.run(TRIAL, scene)
    assert scene.restarted is not None
    assert scene.restarted > TRIAL.seconds


def test_an_agent_that_stands_still_ends_the_trial() -> None:
    scene = Scene(agent_from=60, agent_until=200)
    guard.run(TRIAL, scene)
    assert scene.restarted is not None
    assert 200 + STILL_S < scene.restarted <= 200 + STILL_S + 2 * STEP_S
    assert scene.marks == [marks.GUARD, "still"]


def test_after_the_commit_it_feeds_for_good() -> None:
    scene = Scene(agent_from=60, commit_at=700)
    with pytest.raises(EndOfTestError):
        guard.run(TRIAL, scene)
    assert scene.restarted is None
    assert max(later - before for before, later in zip(scene.fed, scene.fed[1:], strict=False)) <= STEP_S


def test_the_signs_own_time_is_no_measure() -> None:
    """The clock is set from 1970 to today during a trial: that is one sign like any other."""
    agent = Agent().look(5, 60.0).look(1_790_000_000_000_000_000, 61.0)
    assert guard.judge(TRIAL, agent, committed=False, now=61.0 + STILL_S) is Verdict.FEED
    assert guard.judge(TRIAL, agent, committed=False, now=62.0 + STILL_S) is Verdict.STILL
