"""Two lines with real daemons: dead ones, flapping ones, the way back, a blocked protocol, a second gateway."""

import itertools
import time
from collections.abc import Iterator

import pytest
from agent_world import GATEWAY, ROUTER, SERVICE, WAN
from uplink_world import MOBILE, SECOND, Pinger, UplinkWorld, build_uplinks, outage_s

from lab.network import wait_until

#: Three minutes, shortened.
HOLD_S = 8


@pytest.fixture(scope="module")
def lines() -> Iterator[UplinkWorld]:
    built = build_uplinks("lines")
    built.world.start_agent("--hold-s", str(HOLD_S), "--home-s", "4")
    try:
        built.world.wait_carries()
        yield built
    finally:
        built.world.close()


def well(lines: UplinkWorld) -> bool:
    return [line["healthy"] for line in lines.uplinks().values()] == [True, True]


def rest(lines: UplinkWorld) -> None:
    """Wired in use and both lines well."""
    lines.wait_line("wan0", 60)
    wait_until("both lines well", lambda: well(lines), timeout_s=30)
    lines.world.wait_carries(30)


def key_of(document: dict[str, object]) -> set[str]:
    problems = document["problems"]
    assert isinstance(problems, list)
    return {problem["key"] for problem in problems}


def test_both_lines_are_reported_each_by_its_own_probes(lines: UplinkWorld) -> None:
    rest(lines)
    heard = lines.world.wait_heartbeat(
        "both lines", lambda one: [u["healthy"] for u in one["document"]["uplinks"]] == [True, True]
    )
    wired, mobile = heard["document"]["uplinks"]
    assert (wired["kind"], wired["address"], wired["in_use"]) == ("wired", WAN, True)
    assert (mobile["kind"], mobile["address"], mobile["in_use"]) == ("mobile", MOBILE, False)
    assert 0 < wired["rtt_ms"] < 100
    assert wired["probes_lost"] == mobile["probes_lost"] == 0
    time.sleep(3)
    assert lines.uplinks()["wan0"]["probes_sent"] > wired["probes_sent"]
    assert lines.uplinks()["wwan0"]["probes_sent"] == mobile["probes_sent"], "an idle mobile line costs data"


def test_what_has_a_lines_address_leaves_by_that_line_whatever_is_in_use(lines: UplinkWorld) -> None:
    router = lines.world.router
    for source, interface in ((WAN, "wan0"), (MOBILE, "wwan0")):
        assert f"dev {interface} " in router.ip("route", "get", GATEWAY, "from", source).stdout
        assert lines.world.ping(router, GATEWAY, source=source)
    assert "dev wan0 " in router.ip("route", "get", GATEWAY).stdout


def test_nothing_comes_in_from_the_internet_over_either_line(lines: UplinkWorld) -> None:
    script = "import socket,sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 22)) == 0)"
    for address in (WAN, MOBILE):
        assert not lines.world.ping(lines.world.gateway, address)
        argv = ["timeout", "2", "python3", "-c", script, address]
        assert lines.world.gateway.run(argv, check=False).status != 1, "something listens towards the Internet"
    assert lines.world.ping(lines.world.gateway, ROUTER, source=SERVICE), "the negative tests could not fail"


@pytest.mark.parametrize("way", ["silence", "unplug"])
def test_a_dead_wired_line_is_replaced_within_six_seconds_and_taken_back_without_a_gap(
    lines: UplinkWorld, way: str
) -> None:
    rest(lines)
    pinger = Pinger(lines.world.gateway)
    time.sleep(1)
    broken_at = time.time()
    getattr(lines, way)("wan0")
    lines.wait_line("wwan0")
    lines.world.wait_carries()
    assert outage_s(pinger.end(), broken_at) <= 6
    if way == "silence":
        heard = lines.world.wait_heartbeat("the dead line", lambda one: "agent.uplink-dead" in key_of(one["document"]))
        assert heard["document"]["uplink"]["kind"] == "mobile"
    set_ups = lines.count("tunnel is connecting")
    pinger = Pinger(lines.world.gateway)
    getattr(lines, "mend" if way == "silence" else "plug")("wan0")
    mended_at = time.monotonic()
    lines.wait_line("wan0")
    # The status file is two seconds old at most.
    assert time.monotonic() - mended_at >= HOLD_S - 2, "taken back before it had been well for long enough"
    time.sleep(2)
    answers = pinger.end()
    assert max(after - before for before, after in itertools.pairwise(answers)) < 1
    assert lines.count("tunnel is connecting") == set_ups, "the tunnel was not moved but made anew"


def test_a_line_that_flaps_causes_one_change_and_no_storm_of_tunnels(lines: UplinkWorld) -> None:
    rest(lines)
    switches, set_ups = lines.count("keeper: uplink: "), lines.count("tunnel is connecting")
    for _ in range(3):
        lines.silence("wan0")
        time.sleep(10)
        lines.mend("wan0")
        time.sleep(6)  # less than the hold
    assert lines.count("keeper: uplink: ") - switches == 1
    assert lines.count("tunnel is connecting") - set_ups <= 1
    assert lines.world.ping(lines.world.gateway, ROUTER, source=SERVICE)


def test_when_both_lines_are_dead_nothing_is_changed_and_all_comes_back(lines: UplinkWorld) -> None:
    rest(lines)
    switches = lines.count("keeper: uplink: ")
    lines.silence("wan0")
    lines.silence("wwan0")
    wait_until(
        "both dead", lambda: [line["healthy"] for line in lines.uplinks().values()] == [False, False], timeout_s=30
    )
    time.sleep(3)
    assert lines.count("keeper: uplink: ") == switches
    lines.mend("wan0")
    lines.mend("wwan0")
    assert lines.world.wait_carries(60) < 45


def test_a_line_that_blocks_udp_is_named(lines: UplinkWorld) -> None:
    rest(lines)
    lines.block_udp()
    try:
        heard = lines.world.wait_heartbeat(
            "the cause", lambda one: "agent.udp-blocked" in key_of(one["document"]), timeout_s=60
        )
    finally:
        lines.pass_udp()
    (problem,) = [one for one in heard["document"]["problems"] if one["key"] == "agent.udp-blocked"]
    assert problem["params"] == {"gateway": GATEWAY, "interface": "wan0"}
    assert lines.in_use() == "wan0", "the line is well but for UDP"
    lines.world.wait_carries(60)


def test_the_second_gateway_is_used_while_the_first_is_away_and_the_first_again_when_it_answers(
    lines: UplinkWorld,
) -> None:
    rest(lines)
    world = lines.world
    lines.start_second()
    gateways = {"version": 1, "values": {"tunnel.gateways": [GATEWAY, SECOND]}, "confirm_s": 60}
    world.answer(settings=gateways)
    world.wait_heartbeat("two gateways", lambda one: one["document"]["settings"]["version"] == 1, timeout_s=60)
    world.kill_gateway()
    heard = world.wait_heartbeat(
        "the second gateway",
        lambda one: one["document"]["tunnel"]["up"] and one["document"]["tunnel"]["gateway"] == SECOND,
        timeout_s=60,
    )
    assert heard["document"]["uplink"]["interface"] == "wan0", "a gateway that is down is no dead line"
    world.start_gateway()
    world.wait_heartbeat(
        "the first gateway again",
        lambda one: one["document"]["tunnel"]["up"] and one["document"]["tunnel"]["gateway"] == GATEWAY,
        timeout_s=90,
    )
    assert world.wait_carries() < 10


def test_a_gateway_without_an_ike_daemon_is_named(lines: UplinkWorld) -> None:
    world = lines.world
    world.wait_carries(60)
    world.kill_gateway()
    lines.second.processes["charon"].kill()
    world.wait_heartbeat("the cause", lambda one: "agent.ike-down" in key_of(one["document"]), timeout_s=60)
