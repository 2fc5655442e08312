"""The tunnel when the line changes; the way home to the first gateway; causes in charon's own words."""

from pathlib import Path

import pytest

from router_agent.backoff import Backoff
from router_agent.tunnel import home, machine
from router_agent.tunnel.causes import LogEnd, cause
from router_agent.tunnel.home import ANSWERS, EVERY_S, Home
from router_agent.tunnel.machine import Actions, Event, Phase, Seen, State, Timing

TIMING = Timing(probe_s=5, probe_wait_s=2, connect_s=12, backoff=Backoff(1, 30), move_s=2, move_wait_s=0.7)
THERE = Seen(True, True)
ELSEWHERE = Seen(True, True, on_line=False)
NOTHING = Actions()


def step(state: State, seen: Seen, now: float) -> tuple[State, Actions]:
    return machine.step(state, seen, now=now, roll=0.5, gateways=2, timing=TIMING, line=True)


def up() -> State:
    state, _ = step(machine.start(0), THERE, 0)
    return step(state, Seen(True, True, probe=True), 0)[0]


def test_a_tunnel_that_charon_moves_and_that_carries_something_there_stays() -> None:
    state, actions = step(up(), ELSEWHERE, 10)
    assert (state.moving_at, actions) == (10, NOTHING)
    state, actions = step(state, THERE, 10.3)
    assert actions == Actions(probe=True), "what it carries is asked the moment it is there"
    state, actions = step(state, Seen(True, True, probe=True), 10.4)
    assert (state.phase, state.moving_at, state.proven_at, actions) == (Phase.UP, None, 10.4, NOTHING)


def test_an_answer_from_before_the_move_proves_nothing() -> None:
    state, _ = step(up(), ELSEWHERE, 10)
    state, _ = step(state, Seen(True, True, probe=True, on_line=False), 10.1)
    assert state.moving_at == 10
    state, _ = step(state, Seen(True, True, probe=True), 10.2)
    assert state.moving_at == 10, "it was asked before the tunnel had the address there"


@pytest.mark.parametrize("seen", [ELSEWHERE, THERE])
def test_a_tunnel_that_carries_nothing_there_in_time_is_made_anew_at_once_with_the_same_gateway(seen: Seen) -> None:
    state, _ = step(up(), ELSEWHERE, 10)
    state, _ = step(state, seen, 11)
    state, actions = step(state, seen, 12.1)
    assert (state.phase, state.cause, actions) == (Phase.IDLE, Event.STRANDED, Actions(terminate=True))
    assert (state.gateway, state.failures, state.retry_at) == (0, 0, 12.1)
    state, actions = step(state, ELSEWHERE, 12.2)
    assert state.phase is Phase.CONNECTING, "the stranded tunnel was taken for a new one"
    assert actions == Actions(terminate=True, initiate=True)
    state, _ = step(state, ELSEWHERE, 12.3)
    assert state.phase is Phase.CONNECTING
    state, _ = step(state, THERE, 12.5)
    assert state.phase is Phase.UP


def test_misses_on_the_way_do_not_count() -> None:
    state, _ = step(up(), ELSEWHERE, 10)
    state, _ = step(state, THERE, 10.1)
    state, actions = step(state, Seen(True, True, probe=False), 10.8)
    assert (state.misses, actions) == (0, Actions(probe=True))


def test_who_waits_is_hurried_by_another_line_and_nobody_else() -> None:
    waiting = State(Phase.IDLE, since=0, retry_at=50)
    assert machine.hurried(waiting, 10).retry_at == 10
    assert machine.hurried(up(), 10) == up()


def test_a_tunnel_with_the_first_gateway_asks_nothing() -> None:
    found = home.came_up(Home(), 0, first=True, base_s=600, roll=0.5)
    assert not home.due(found, 1e9)


def test_the_way_home_is_late_spread_and_wants_several_answers() -> None:
    times = [home.came_up(Home(), 0, first=False, base_s=600, roll=roll).at for roll in (0.0, 0.5, 0.99)]
    assert times == sorted({600, 900, 1194})
    away, now = home.came_up(Home(), 0, first=False, base_s=600, roll=0), 600.0
    for _ in range(ANSWERS - 1):
        assert home.due(away, now)
        away, go = home.heard(away, now, answered=True, roll=0)
        assert not go
        assert not home.due(away, now)
        now += EVERY_S
    assert home.heard(away, now, answered=True, roll=0)[1]
    silent, go = home.heard(away, now, answered=False, roll=0)
    assert (silent.answers, silent.at, go) == (0, now + 600, False)


def test_each_return_that_failed_makes_the_next_one_later() -> None:
    away = home.came_up(Home(wait_s=600), 0, first=False, base_s=600, roll=0)
    for _ in range(ANSWERS):
        away, _ = home.heard(away, 0, answered=True, roll=0)
    again = home.came_up(away, 0, first=False, base_s=600, roll=0)
    assert again.at == 1200
    assert home.came_up(again, 0, first=True, base_s=600, roll=0).wait_s == 600


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["x", "11[IKE] received AUTHENTICATION_FAILED notify error"], "agent.tunnel-authentication-failed"),
        (["05[CFG] subject certificate invalid (valid from Nov 22 02:00:00 2027 to Nov 21)",
          "05[IKE] no trusted ECDSA public key found for 'vpn.kyoten'"], "agent.gateway-certificate-dates"),
        (["05[IKE] no trusted ECDSA public key found for 'vpn.kyoten'"], "agent.gateway-certificate-refused"),
        (["07[IKE] received NO_PROPOSAL_CHOSEN notify error"], "agent.tunnel-no-proposal"),
        (["07[IKE] received TS_UNACCEPTABLE notify, no CHILD_SA built"], "agent.tunnel-prefix-refused"),
        (["peer not responding"], None), ([], None),
    ],
)  # fmt: skip
def test_charons_words_have_a_cause(lines: list[str], key: str | None) -> None:
    assert cause(lines) == key


def test_only_what_this_attempt_wrote_counts(tmp_path: Path) -> None:
    log = tmp_path / "charon.log"
    end = LogEnd(log)
    assert end.lines() == []
    log.write_text("old\n")
    end.mark()
    assert end.lines() == []
    with log.open("a") as stream:
        stream.write("new\n")
    assert end.lines() == ["new"]
    log.write_text("n\n")
    assert end.lines() == ["n"], "a log that was set aside begins anew"
