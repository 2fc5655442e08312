"""Which tunnels are asked for before the agent is loaded, and when there is a line for them."""

import json
import os
import time
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from router_agent.bundle import Enrolment
from router_agent.identity import Identity
from router_agent.tunnel import ahead

#: /proc/net/route of a router: a default route by wan0, the line's own network, another's default route.
HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
WAN_DEFAULT = "wan0\t00000000\t057100CB\t0003\t0\t0\t900\t00000000\t0\t0\t0\n"
WAN_NETWORK = "wan0\t007100CB\t00000000\t0001\t0\t0\t0\tF8FFFFFF\t0\t0\t0\n"
MOBILE_DEFAULT = "wwan0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"


def _enrolment(gateway: str) -> Enrolment:
    return Enrolment(
        site="tokyo-1",
        tenant="acme",
        overlay=ip_network("10.10.1.0/24"),
        lan=ip_network("192.168.1.0/24"),
        gateways=(gateway, "203.0.113.3"),
        gateway_identity="vpn.example",
        service_address=ip_address("10.255.255.1"),
        reachable=ip_network("10.0.0.0/8"),
        endpoints=(),
        endpoint_name="agents.example",
        heartbeat_s=30.0,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "site.crt").write_text("signed some days ago")
    return tmp_path


def _gateway(state: Path, gateway: str = "203.0.113.2") -> str | None:
    return ahead.gateway(Identity(_enrolment(gateway), state / "identity"), state)


def _settings(state: Path, values: Mapping[str, object], candidate: object = None) -> None:
    document = {"current": {"version": 3, "values": values}, "candidate": candidate}
    (state / "settings.json").write_text(json.dumps(document))


def test_a_plain_router_asks_its_first_gateway(state: Path) -> None:
    assert _gateway(state) == "203.0.113.2"
    _settings(state, {"heartbeat.interval_s": 60, "lan.dhcp": True})
    assert _gateway(state) == "203.0.113.2"


@pytest.mark.parametrize(
    "values", [{"tunnel.gateways": ["203.0.113.9"]}, {"tunnel.dpd_s": 60}, {"uplink.prefer": "mobile"}]
)
def test_settings_about_the_way_are_the_agents_to_follow(state: Path, values: Mapping[str, object]) -> None:
    _settings(state, values)
    assert _gateway(state) is None


def test_nothing_on_trial_is_tried_ahead(state: Path) -> None:
    _settings(state, {}, {"version": 4, "values": {}})
    assert _gateway(state) is None
    (state / "settings.json").unlink()
    assert _gateway(state) is not None
    (state / "identity.before").mkdir()
    assert _gateway(state) is None, "a certificate on trial"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"current": null, "candidate": null}', '{"current": {"values": 3}}'])
def test_settings_that_cannot_be_read_are_left_to_the_agent(state: Path, text: str) -> None:
    (state / "settings.json").write_text(text)
    assert _gateway(state) is None


def test_a_name_is_not_looked_up_ahead(state: Path) -> None:
    assert _gateway(state, "vpn.example") is None


def test_a_clock_before_the_certificate_is_set_first(state: Path) -> None:
    later = time.time() + 86400
    os.utime(state / "identity" / "site.crt", (later, later))
    assert _gateway(state) is None


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (HEAD, False),
        (HEAD + WAN_NETWORK, False),
        (HEAD + MOBILE_DEFAULT + WAN_NETWORK, False),
        (HEAD + WAN_NETWORK + WAN_DEFAULT, True),
        ("", False),
        (HEAD + "wan0\n", False),
    ],
)
def test_a_line_is_there_when_it_has_a_default_route(table: str, found: bool) -> None:
    assert ahead.routed(table, ["wan0"]) is found
