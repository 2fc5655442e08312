"""Random lives of a router under update: power cuts at any write, children that fail, offers that come and go, releases
that are ill. Never both slots bad, never a trial without a guard, never committed without health, and in the end at
rest in a release that works, or told why not. The simulation itself watches the first three at every tick."""

import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from simulated_router import DAMAGED, PowerCut, SimulatedRouter

from router_agent.problems import Problem
from router_agent.update.machine import Stage
from router_agent.update.work import Failed, Fault, Step


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of lives: their logs would take longer than they do."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


ILLS = ["", "kernel", "panic", "agent", "tunnel", "device", "hang", "crash", "unsettled"]

failures = st.lists(
    st.tuples(
        st.sampled_from([Step.REFRESH, Step.FETCH, Step.ASSEMBLE, Step.INSTALL, Step.VERIFY]),
        st.sampled_from([Fault.LATER, Fault.LOST, Fault.FULL]),
    ),
    max_size=4,
)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.integers(1, 12), st.booleans()),
        st.tuples(st.just("run"), st.integers(1, 400)),
        st.tuples(st.just("offer"), st.sampled_from(ILLS)),
        st.tuples(st.sampled_from(["withdraw", "agent", "power", "offline", "online", "full", "room", "garbage"])),
    ),
    max_size=14,
)


def live(router: SimulatedRouter, story: list[tuple[object, ...]]) -> int:
    """Live through it; the counter that was offered last."""
    counter = 1
    for happening in story:
        match happening:
            case ("cut", int(acts), bool(before)):
                router.cut_at, router.cut_before = router.acts + acts, before
            case ("run", int(seconds)):
                router.run(seconds)
            case ("offer", str(ill)):
                counter += 1
                router.offer = router.publish(counter, ill)
            case ("withdraw",):
                router.offer = None
            case ("agent",):
                with suppress(PowerCut):
                    router.restart_agent()
                    continue
                router.power_cut()
            case ("power",):
                router.power_cut()
            case ("offline",):
                router.online = False
            case ("online",):
                router.online = True
            case ("full",):
                router.disk_full = True
            case ("room",):
                router.disk_full = False
            case ("garbage",):
                router.journal_text = DAMAGED if router.journal_text else None
    return counter


@settings(max_examples=120, phases=[Phase.generate], deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(happenings, failures)
def test_whatever_happens_the_router_comes_to_rest_in_what_works(
    story: list[tuple[object, ...]], broken: list[tuple[Step, Fault]]
) -> None:
    router = SimulatedRouter()
    for step, fault in broken:
        router.steps.setdefault(step, []).append(Failed(fault, Problem("agent.update-step-crashed", {})))
    router.tick()
    live(router, story)
    router.cut_at, router.disk_full, router.online, router.offer = None, False, True, None
    for _ in range(40):
        router.run(400)
        if router.settled():
            break
    assert router.settled(), router.now_state
    release = router.slots[router.slot]
    assert release is not None and not release.ill
    if router.now_state.stage in (Stage.RETURNED, Stage.REFUSED):
        assert router.now_state.problem is not None, "told why"


@settings(max_examples=60, phases=[Phase.generate], deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ILLS), st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=4))
def test_a_release_is_kept_if_it_is_good_and_only_then_whenever_the_power_fails(
    ill: str, cuts: list[tuple[int, bool]]
) -> None:
    router = SimulatedRouter()
    router.offer = router.publish(2, ill)
    for acts, before in cuts:
        router.cut_at, router.cut_before = router.acts + acts, before
        router.run(900)
    router.cut_at = None
    for _ in range(40):
        router.run(400)
        if router.settled() and router.now_state.stage is not Stage.IDLE:
            break
    assert router.settled(), router.now_state
    release = router.slots[router.slot]
    assert release is not None
    if ill:
        assert release.counter == 1 and router.now_state.stage is Stage.RETURNED
        assert router.now_state.problem is not None
    else:
        # A power cut during the trial may send a good release back; it is never half kept.
        assert (release.counter, router.now_state.stage) in ((2, Stage.COMMITTED), (1, Stage.RETURNED), (2, Stage.IDLE))


def test_without_any_mishap_a_good_release_is_kept() -> None:
    router = SimulatedRouter()
    router.offer = router.publish(2)
    router.run(900)
    assert router.now_state.stage is Stage.COMMITTED
    assert router.commits == [2]
