"""A thousand routers whose cloud comes back do not come back in step."""

import random
from collections import Counter

from hypothesis import Phase as Step
from hypothesis import given, settings
from hypothesis import strategies as st

from router_agent.tunnel import machine
from router_agent.tunnel.machine import MOBILE_TIMING, WIRED_TIMING, Phase, Seen, State, Timing

ROUTERS = 1000
NOTHING = Seen(established=False, present=False)
WAITS = Seen(established=False, present=True)


def attempts(timing: Timing, roll: random.Random, *, down_s: float, gateways: int) -> list[float]:
    """When one router tries after the cloud went at 0, until it is back and has been tried once more.

    Probes are in no step, so routers notice at times of their own.
    """
    now = roll.uniform(0, timing.probe_s)
    state, times = State(Phase.UP, since=-100, present_at=now, proven_at=0), []
    while not times or times[-1] < down_s:
        seen = NOTHING if state.phase is not Phase.CONNECTING else WAITS
        state, actions = machine.step(
            state, seen, now=now, roll=roll.random(), gateways=gateways, timing=timing, line=True
        )
        if actions.initiate:
            times.append(now)
        now += 0.5
    return times


# Without shrinking: it takes minutes, and a smaller number of the dice says no more.
@settings(max_examples=6, deadline=None, phases=[Step.explicit, Step.generate])
@given(
    seed=st.integers(0, 2**32),
    down_s=st.sampled_from([60.0, 300.0]),
    gateways=st.sampled_from([1, 2]),
    timing=st.sampled_from([WIRED_TIMING, MOBILE_TIMING]),
)
def test_no_second_sees_more_than_a_few_times_its_share(
    seed: int, down_s: float, gateways: int, timing: Timing
) -> None:
    dice = random.Random(seed)
    fleet = ROUTERS // 5  # five hundred steps a router: a fifth of them shows the distribution as well
    last = [attempts(timing, dice, down_s=down_s, gateways=gateways)[-1] - down_s for _ in range(fleet)]
    span_s = timing.connect_s * gateways + timing.backoff.most_s
    assert max(last) <= span_s + 1, "a router comes back later than one round of trying takes"
    busiest = max(Counter(int(at) for at in last).values())
    assert busiest <= fleet * 0.15, f"{busiest} of {fleet} routers in one second"
    # No bunch at the beginning: early on a round takes little more than one attempt.
    assert len({int(at) for at in last}) >= timing.connect_s / 2
