"""How a site is and why, when those who know say different things or nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudside.vpn import diagnosis
from cloudside.vpn.availability import availability
from cloudside.vpn.diagnosis import Certificate, Facts, GatewayFacts, Live, Outcome
from cloudside.vpn.verdict import (
    Evidence,
    Heard,
    State,
    Trouble,
    TunnelView,
    last_problem,
    silent_after_s,
    silent_gateways,
    standing,
    why,
)

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def _ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def _tunnel(*, up: bool, gateway: str = "gw1", minutes: float = 60) -> TunnelView:
    return TunnelView(gateway, up, _ago(minutes), "198.51.100.7")


def _heard(minutes: float = 1, *, inside: bool = False, **report: Any) -> Heard:
    return Heard(_ago(minutes), "203.0.113.9", inside, {"sent_at": _ago(minutes).isoformat(), **report})


def _evidence(*tunnels: TunnelView, **known: Any) -> Evidence:
    return Evidence(**{"site": "tokyo", "enrolled": True, "tunnels": tunnels, "silent_gateways": {}, **known})


@pytest.mark.parametrize(
    ("tunnels", "silent", "state"),
    [
        ((), (), State.NEVER),
        ((_tunnel(up=True),), (), State.UP),
        ((_tunnel(up=False),), (), State.DOWN),
        ((_tunnel(up=True),), ("gw1",), State.UNKNOWN),
        ((_tunnel(up=False),), ("gw1",), State.UNKNOWN),
        ((_tunnel(up=True), _tunnel(up=False, gateway="gw2")), (), State.UP),
        ((_tunnel(up=True), _tunnel(up=True, gateway="gw2")), ("gw1",), State.UP),
        ((_tunnel(up=True), _tunnel(up=False, gateway="gw2")), ("gw1",), State.UNKNOWN),
    ],
)
def test_a_site_is_as_those_say_who_still_report(
    tunnels: tuple[TunnelView, ...], silent: tuple[str, ...], state: State
) -> None:
    assert standing(tunnels, silent)[0] is state


def test_a_gateway_is_silent_after_some_resyncs_and_not_at_once() -> None:
    assert (silent_after_s(1), silent_after_s(10)) == (30, 60)
    seen = [("gw1", NOW - timedelta(seconds=31)), ("gw2", NOW - timedelta(seconds=29))]
    assert silent_gateways(seen, now=NOW, after_s=30) == {"gw1": 31}


def _key(evidence: Evidence) -> str | None:
    found = why(evidence, now=NOW)
    return None if found is None else found.key


def test_why() -> None:
    down = _tunnel(up=False)
    seen = Trouble("causes.certificate-expired", {}, _ago(5), "gateway/gw1")
    old = Trouble("causes.ike-proposal", {}, _ago(300), "gateway/gw1")
    own = {"problems": [{"key": "agent.udp-blocked", "params": {}}]}
    loss = Trouble("causes.dead-peer", {}, _ago(60), "gateway/gw1")
    assert _key(_evidence(_tunnel(up=True), seen=[seen])) is None
    assert _key(_evidence(enrolled=False)) == "causes.never-enrolled"
    assert _key(_evidence(_tunnel(up=True), silent_gateways={"gw1": 99})) == "causes.gateway-silent"
    assert _key(_evidence(down, seen=[seen, old])) == "causes.certificate-expired"
    assert _key(_evidence(down, seen=[old])) == "causes.silent"
    assert _key(_evidence(down, last_loss=loss)) == "causes.dead-peer"
    assert _key(_evidence(down, last_loss=loss, heard=_heard())) == "causes.udp-blocked"
    assert _key(_evidence(down, last_loss=loss, heard=_heard(90))) == "causes.dead-peer"
    assert _key(_evidence(down, heard=_heard(**own))) == "agent.udp-blocked"
    assert _key(_evidence(down, heard=_heard(**own), seen=[seen])) == "causes.certificate-expired"
    assert _key(_evidence(heard=_heard())) == "causes.udp-blocked"
    assert _key(_evidence(heard=_heard(inside=True))) == "causes.silent"
    assert _key(_evidence()) == "causes.silent"
    assert _key(_evidence(reporting=False)) == "causes.no-gateway"
    assert _key(_evidence(reporting=False, heard=_heard())) == "causes.no-gateway"


def test_what_a_gateway_saw_goes_before_the_routers_other_troubles() -> None:
    seen = [
        Trouble("agent.disk", {}, _ago(1), "router"),
        Trouble("causes.authentication", {}, _ago(5), "gateway/gw1"),
    ]
    assert _key(_evidence(_tunnel(up=False), seen=seen)) == "causes.authentication"


@pytest.mark.parametrize("off", [timedelta(days=365), -timedelta(days=365)])
def test_a_routers_clock_that_is_wrong_by_a_year(off: timedelta) -> None:
    heard = Heard(_ago(1), "203.0.113.9", False, {"sent_at": (_ago(1) + off).isoformat()})
    found = why(_evidence(_tunnel(up=False), heard=heard), now=NOW)
    assert found is not None
    assert (found.key, found.params["hours"]) == ("causes.clock-wrong", off.total_seconds() / 3600)
    nonsense = Heard(_ago(1), "203.0.113.9", False, {"sent_at": "yesterday"})
    assert _key(_evidence(_tunnel(up=False), heard=nonsense)) == "causes.udp-blocked"


def test_the_last_problem_is_the_newest_of_all() -> None:
    loss = Trouble("causes.dead-peer", {}, _ago(60))
    seen = Trouble("causes.authentication", {}, _ago(80))
    found = last_problem(_evidence(_tunnel(up=True, minutes=2), seen=[seen], last_loss=loss))
    assert found is loss
    assert last_problem(_evidence()) is None


def test_availability_of_two_gateways_is_of_any() -> None:
    def percent(*changes: tuple[float, str, bool], before: dict[str, bool] | None = None) -> float | None:
        steps = [(_ago(minutes), gateway, up) for minutes, gateway, up in changes]
        told = availability(steps, before or {}, since=_ago(100), until=NOW)
        return None if told.percent is None else round(told.percent, 6)

    assert percent() is None
    assert percent(before={"gw1": True}) == 100
    assert percent((50, "gw1", True)) == 100  # nothing is known of the time before
    assert percent((50, "gw1", True), before={"gw1": False}) == 50
    assert percent((100, "gw1", True), (75, "gw1", False), (50, "gw1", True)) == 75
    assert percent((60, "gw2", True), (50, "gw1", False), before={"gw1": True}) == 100
    both = availability([(_ago(50), "gw1", False), (_ago(40), "gw1", True)], {"gw1": True}, since=_ago(100), until=NOW)
    assert (both.losses, both.up_s) == (1, 90 * 60)


_LIVE = Live("5.9.8", "AES", "AES", True, True, 3.0, (("plc", "10.10.1.20", True),))


def _facts(**changed: Any) -> Facts:
    known: dict[str, Any] = {
        "site": "tokyo",
        "phase": "operation",
        "revoked_at": None,
        "router_address": "10.10.1.1",
        "certificate": Certificate(_ago(60), NOW + timedelta(days=90)),
        "gateways": [GatewayFacts("gw1", None, True, True)],
        "evidence": _evidence(_tunnel(up=True), heard=_heard(inside=True)),
        "live": _LIVE,
        "here": "gw1",
    }
    return Facts(**{**known, **changed})


def _live(**changed: Any) -> Live:
    fields = {name: getattr(_LIVE, name) for name in Live.__slots__}
    return Live(**{**fields, **changed})


def test_the_whole_way_holds() -> None:
    steps = diagnosis.walk(_facts(), now=NOW)
    assert {step.outcome for step in steps} == {Outcome.OK}
    assert [step.name for step in steps][-1] == "devices"


def test_elsewhere_the_live_links_are_not_looked_at_and_said_so() -> None:
    steps = diagnosis.walk(_facts(live=None), now=NOW)
    skipped = {step.name: step.params["gateway"] for step in steps if step.outcome is Outcome.SKIPPED}
    assert skipped == dict.fromkeys(("route", "rules", "ping", "devices"), "gw1")


@pytest.mark.parametrize(
    ("changed", "stops"),
    [
        ({"revoked_at": NOW}, ("registry", "diagnose.revoked")),
        ({"phase": "retired"}, ("registry", "diagnose.retired")),
        ({"evidence": _evidence(enrolled=False)}, ("registry", "causes.never-enrolled")),
        ({"certificate": None}, ("certificate", "diagnose.no-certificate")),
        ({"certificate": Certificate(_ago(9), _ago(1))}, ("certificate", "diagnose.certificate-over")),
        ({"certificate": Certificate(NOW + timedelta(days=365), NOW + timedelta(days=730))},
         ("certificate", "diagnose.certificate-early")),
        ({"gateways": []}, ("gateway", "diagnose.no-gateway")),
        ({"gateways": [GatewayFacts("gw1", 99, True, True)]}, ("gateway", "diagnose.gateway-silent")),
        ({"gateways": [GatewayFacts("gw1", None, True, False)]}, ("gateway", "diagnose.gateway-behind")),
        ({"live": _live(charon=None)}, ("charon", "diagnose.charon-dead")),
        ({"live": None, "gateways": [GatewayFacts("gw1", None, False, True)]}, ("charon", "diagnose.charon-dead")),
        ({"live": None, "evidence": _evidence()}, ("ike", "causes.silent")),
        ({"live": _live(ike_suite=None, child_suite=None)}, ("ike-sa", "diagnose.no-ike-sa")),
        ({"live": _live(child_suite=None)}, ("child-sa", "diagnose.no-child-sa")),
        ({"live": _live(route=False)}, ("route", "diagnose.no-route")),
        ({"live": _live(admitted=False)}, ("rules", "diagnose.not-admitted")),
        ({"live": _live(ping_ms=None)}, ("ping", "diagnose.no-ping")),
        ({"evidence": _evidence(_tunnel(up=True))}, ("heartbeat", "diagnose.no-heartbeat")),
        ({"evidence": _evidence(_tunnel(up=True), heard=_heard(99))}, ("heartbeat", "diagnose.heartbeat-old")),
        ({"live": _live(devices=(("plc", "10.10.1.20", False),))}, ("devices", "diagnose.device-silent")),
    ],
)  # fmt: skip
def test_where_the_way_stops(changed: dict[str, Any], stops: tuple[str, str]) -> None:
    steps = diagnosis.walk(_facts(**changed), now=NOW)
    assert (steps[-1].name, steps[-1].key, steps[-1].outcome) == (*stops, Outcome.STOP)
    assert all(step.outcome is not Outcome.STOP for step in steps[:-1])
