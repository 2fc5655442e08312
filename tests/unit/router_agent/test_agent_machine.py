"""The tunnel's states: what is done when, and that nothing is tried in step or in a busy loop."""

from router_agent.backoff import Backoff
from router_agent.tunnel import machine
from router_agent.tunnel.machine import ABSENT_S, Actions, Event, Phase, Seen, State, Timing

TIMING = Timing(probe_s=5, probe_wait_s=2, connect_s=12, backoff=Backoff(1, 30))
NOTHING = Seen(established=False, present=False)
UP = Seen(established=True, present=True)


def step(
    state: State, seen: Seen, now: float, *, gateways: int = 1, line: bool = True, roll: float = 0.5
) -> tuple[State, Actions]:
    return machine.step(state, seen, now=now, roll=roll, gateways=gateways, timing=TIMING, line=line)


def up_at(now: float) -> State:
    state, _ = step(machine.start(now), UP, now)
    state, _ = step(state, Seen(True, True, probe=True), now)
    return state


def test_connects_at_once_and_probes_what_comes_up() -> None:
    state, actions = step(machine.start(0), NOTHING, 0)
    assert (state.phase, actions) == (Phase.CONNECTING, Actions(initiate=True))
    state, actions = step(state, UP, 1)
    assert (state.phase, actions) == (Phase.UP, Actions(probe=True))


def test_adopts_a_tunnel_that_is_there() -> None:
    state, actions = step(machine.start(0), UP, 0)
    assert (state.phase, actions) == (Phase.UP, Actions(probe=True))


def test_does_nothing_without_a_line() -> None:
    state, actions = step(machine.start(0), NOTHING, 100, line=False)
    assert (state.phase, actions) == (Phase.IDLE, Actions())


def test_an_sa_that_vanishes_while_connecting_is_a_refusal_and_one_that_stays_is_no_answer() -> None:
    connecting, _ = step(machine.start(0), NOTHING, 0)
    refused, _ = step(connecting, NOTHING, ABSENT_S + 0.1)
    assert refused.cause is Event.REFUSED
    waiting, actions = step(connecting, Seen(False, present=True), 11.9)
    assert (waiting.phase, actions) == (Phase.CONNECTING, Actions())
    silent, actions = step(waiting, Seen(False, present=True), 12.1)
    assert (silent.cause, actions) == (Event.NO_ANSWER, Actions(terminate=True))


def test_an_sa_that_is_not_listed_for_a_moment_is_still_there() -> None:
    state, _ = step(up_at(0), NOTHING, ABSENT_S - 0.1)
    assert state.phase is Phase.UP
    state, _ = step(state, NOTHING, ABSENT_S + 0.1)
    assert (state.phase, state.cause) == (Phase.IDLE, Event.LOST)


def test_three_misses_end_a_tunnel_and_an_answer_forgives_two() -> None:
    state = up_at(0)
    for _ in range(2):
        state, actions = step(state, Seen(True, True, probe=False), 10)
        assert actions == Actions(probe=True), "after a miss the next probe follows at once"
    state, _ = step(state, Seen(True, True, probe=True), 12)
    for _ in range(2):
        state, _ = step(state, Seen(True, True, probe=False), 20)
    assert state.phase is Phase.UP
    state, actions = step(state, Seen(True, True, probe=False), 24)
    assert (state.phase, state.cause, actions) == (Phase.IDLE, Event.SILENT, Actions(terminate=True))


def test_healthy_tunnels_are_probed_at_their_pace() -> None:
    state = up_at(0)
    assert step(state, UP, 4.9)[1] == Actions()
    state, actions = step(state, UP, 5.1)
    assert actions == Actions(probe=True)
    assert step(state, UP, 5.2)[1] == Actions(), "a second probe before the first one ended"


def test_gateways_are_tried_in_order_and_it_waits_longer_each_round() -> None:
    state = machine.start(0)
    now, order, waits = 0.0, [], []
    for _ in range(6):
        state, actions = step(state, NOTHING, now, gateways=2)
        assert actions.initiate
        order.append(state.gateway)
        now += 2
        state, _ = step(state, NOTHING, now, gateways=2)
        waits.append(state.retry_at - now)
        now = state.retry_at
    assert order == [0, 1, 0, 1, 0, 1]
    assert waits[0] == 0, "the second gateway is tried at once"
    assert waits[1] < waits[3] < waits[5]


def test_a_lost_tunnel_tries_its_own_gateway_first() -> None:
    first = machine.start(0)
    state, _ = step(first, NOTHING, 0, gateways=2)
    state, _ = step(state, UP, 1, gateways=2)
    state, _ = step(state, Seen(True, True, probe=True), 2, gateways=2)
    lost, _ = step(state, NOTHING, 10, gateways=2)
    assert lost.gateway == 0
    again, _ = step(lost, NOTHING, lost.retry_at, gateways=2)
    failed, _ = step(again, NOTHING, lost.retry_at + 2, gateways=2)
    assert failed.gateway == 1


def test_a_tunnel_that_never_carried_anything_does_not_reset_the_waiting() -> None:
    state, now, waits = machine.start(0), 0.0, []
    for _ in range(5):
        state, _ = step(state, NOTHING, now)
        state, _ = step(state, UP, now + 1)
        for _ in range(3):
            state, _ = step(state, Seen(True, True, probe=False), now + 2)
        waits.append(state.retry_at - now - 2)
        now = state.retry_at
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]


def test_new_settings_start_over_with_the_first_gateway_at_once() -> None:
    state, actions = machine.restarted(up_at(0), 50)
    assert (state.phase, state.gateway, state.retry_at, actions) == (Phase.IDLE, 0, 50, Actions(terminate=True))
    assert state.proven_at is None


def test_every_state_can_start_over() -> None:
    assert {phase for phase, event in machine.TRANSITIONS if event is Event.RESTART} == set(Phase)


def test_backoff_is_bounded_spread_and_never_zero() -> None:
    backoff = Backoff(1, 30)
    assert backoff.delay_s(0, 0.9) == 0
    assert 0.1 <= backoff.delay_s(1, 0.0) < backoff.delay_s(1, 0.99) <= 1
    assert backoff.delay_s(1000, 0.999) <= 30
    assert backoff.delay_s(3, 0.1) != backoff.delay_s(3, 0.9)
