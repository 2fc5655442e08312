"""The main job, end to end, on one world: each step of the demo is a test, in the demo's order."""

from collections.abc import Iterator

import pytest

from lab import topology
from lab.demo import matrix, steps
from lab.world import World, build


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    running = build(topology.DEMO, name="job")
    try:
        first = steps.start(running)
        assert all(line.held for line in first), first
        yield running
    finally:
        running.close()


@pytest.mark.parametrize(("name", "step"), steps.STEPS, ids=[name.replace(" ", "-") for name, _ in steps.STEPS])
def test_the_main_job(world: World, name: str, step: steps.Step) -> None:
    lines = step(world)
    assert lines, f"{name} found nothing: it would check nothing"
    assert [line for line in lines if not line.held] == []


def test_a_matrix_that_disagrees_is_noticed(world: World) -> None:
    """The check can fail: with the rule set flushed behind our back, allowed pairs are reported as blocked."""
    world.gateway.processes["gateway"].kill()
    world.gateway.run(["iptables-legacy", "-t", "mangle", "-F", "KY-POLICY"])
    outcome = matrix.compare(world)
    assert outcome.disagreements
    assert all(wrong.expected for wrong in outcome.disagreements), "nothing may pass that should not"
