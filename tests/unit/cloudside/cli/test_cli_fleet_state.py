"""status, tunnels, site show, history and diagnose at the command line."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry import history, releases, reports
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.history import Change, Seen
from cloudside.registry.reports import TunnelState
from cloudside.registry.tables import Certificate

Kyoten = Callable[..., Any]
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _fresh_now() -> None:
    """A gateway that has not reported since this file was imported would count as silent."""
    global NOW
    NOW = datetime.now(UTC)


@pytest.fixture
def database(world: Kyoten, tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    with opened.write() as session:
        reports.record_gateway(
            session, OPERATOR, name="gw1", seen_at=NOW, rule_set="abc", dataplane="kernel",
            report={"problems": [], "wanted_rule_set": "abc", "charon": True},
        )  # fmt: skip
    yield opened
    opened.close()


def _tunnel(database: Database, site: str, *, up: bool, hours: float = 1, ike: int = 2, gateway: str = "gw1") -> None:
    state = TunnelState(site, up, NOW - timedelta(hours=hours), "198.51.100.7", "AES_GCM_16-256", ike)
    with database.write() as session:
        reports.record_tunnels(session, OPERATOR, [state], gateway=gateway)


def _heartbeat(database: Database, site: str, source: str = "203.0.113.9", **report: Any) -> None:
    with database.write() as session:
        reports.record_heartbeat(
            session, OPERATOR, site_id=site, received_at=NOW, source=ip_address(source),
            report={"sent_at": NOW.isoformat(), "problems": [], **report},
        )  # fmt: skip


_REPORT: dict[str, Any] = {
    "uplink": {"kind": "mobile", "interface": "ppp0", "address": "100.64.0.9"},
    "uplinks": [
        {"kind": "wired", "interface": "wan0", "healthy": False, "in_use": False},
        {"kind": "mobile", "interface": "ppp0", "healthy": True, "in_use": True, "rtt_ms": 61.4},
    ],
    "modem": {
        "state": "connected", "signal_dbm": -71, "operator": "NTT DOCOMO", "technology": "LTE", "roaming": True,
        "data_used_bytes": 950 * 1024 * 1024, "data_budget_bytes": 1000 * 1024 * 1024,
    },
    "versions": {"agent": "1.2.3", "firmware": "7"},
    "lan_devices": [{"mac": "02:00:00:00:00:01", "address": "192.168.1.20", "name": "plc", "source": "lease"}],
}  # fmt: skip


def test_status_counts_and_names_the_worst_first(world: Kyoten, database: Database) -> None:
    _tunnel(database, "tokyo-1", up=True)
    _tunnel(database, "osaka-1", up=False, hours=2)
    _tunnel(database, "kobe-1", up=False, hours=9)
    with database.write() as session:
        seen = Seen("kobe-1", "causes.no-block", {"site": "kobe-1", "peer": "192.0.2.1"}, NOW)
        history.record_problems(session, OPERATOR, [seen], seen_by=history.gateway_witness("gw1"))
    document = world("status", "--json").document
    assert document["total"] == {"sites": 4, "up": 1, "down": 2, "never": 1, "unknown": 0, "revoked": 0}
    assert [row["site"] for row in document["worst"]] == ["kobe-1", "osaka-1", "nagoya-1"]
    assert document["worst"][0]["problems"][0]["key"] == "causes.no-block"
    [gateway] = document["gateways"]
    assert (gateway["current"], gateway["tunnels"], gateway["silent"]) == (True, 1, False)
    assert "no address block" in world("status").out
    assert [row["tenant"] for row in world("--tenant", "birch", "status", "--json").document["tenants"]] == ["birch"]


def test_status_names_certificates_that_end_and_data_that_is_used_up(world: Kyoten, database: Database) -> None:
    for site in ("tokyo-1", "osaka-1", "kobe-1"):
        _tunnel(database, site, up=True)
    _heartbeat(database, "tokyo-1", **_REPORT)
    with database.write() as session:
        for site, days in (("osaka-1", 10), ("kobe-1", 10), ("kobe-1", 200)):  # kobe-1 has its new one already
            serial, ends = f"{site}-{days}", NOW + timedelta(days=days)
            session.add(
                Certificate(
                    serial=serial, authority="x", kind="site", subject=site, pem="", not_before=NOW, not_after=ends
                )
            )
    worst = {row["site"]: row["problems"] for row in world("status", "--json").document["worst"]}
    assert [(one["key"], one["params"]["percent"]) for one in worst["tokyo-1"]] == [("cli.budget-used", "95")]
    assert [one["key"] for one in worst["osaka-1"]] == ["cli.certificate-ends"]
    assert "kobe-1" not in worst


def test_a_fleet_that_is_not_small_is_not_listed(
    world: Kyoten, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudside.cli.fleet_status.SMALL_FLEET", 3)
    assert world("status", "--json").document["sites"] is None
    assert len(world("status", "--sites", "--json").document["sites"]) == 4
    assert len(world("status", "--worst", "1", "--json").document["worst"]) == 1


def test_a_gateway_that_is_silent_leaves_its_sites_unknown(world: Kyoten, database: Database) -> None:
    _tunnel(database, "tokyo-1", up=True)
    with database.write() as session:
        reports.record_gateway(session, OPERATOR, name="gw1", seen_at=NOW - timedelta(minutes=10))
    status = world("status", "--json").document
    assert (status["total"]["unknown"], status["gateways"][0]["silent"]) == (1, True)
    shown = world("site", "show", "tokyo-1", "--json").document
    assert (shown["state"], shown["why"]["key"]) == ("unknown", "causes.gateway-silent")
    assert world("tunnels", "--json").document["tunnels"][0]["state"] == "unknown"
    assert "nobody knows" in world("site", "history", "tokyo-1").out


def test_tunnels_are_picked(world: Kyoten, database: Database) -> None:
    _tunnel(database, "tokyo-1", up=True)
    _tunnel(database, "osaka-1", up=False)
    _tunnel(database, "kobe-1", up=True, ike=1, gateway="gw2")

    def picked(*options: str) -> list[str]:
        return [row["site"] for row in world("tunnels", *options, "--json").document["tunnels"]]

    assert picked() == ["kobe-1", "osaka-1", "tokyo-1"]
    assert picked("--down") == ["osaka-1"]
    assert picked("--ike1") == ["kobe-1"]
    assert picked("--gateway", "gw1") == ["osaka-1", "tokyo-1"]
    assert picked("--tenant", "birch") == ["kobe-1"]
    assert picked("--suite", "aes_cbc") == []
    world("tunnels", "--tenant", "nobody", status=2)
    mine = world("--tenant", "acme", "tunnels", "--json").document["tunnels"]
    assert {row["tenant"] for row in mine} == {"acme"}


def test_a_site_is_shown_with_all_that_its_router_reports(world: Kyoten, database: Database) -> None:
    _tunnel(database, "tokyo-1", up=True)
    _heartbeat(database, "tokyo-1", "10.10.0.1", **_REPORT)
    shown = world("site", "show", "tokyo-1", "--json").document
    assert (shown["state"], shown["why"], shown["uplink"], shown["rtt_ms"]) == ("up", None, "mobile", 61.4)
    assert (shown["signal_dbm"], shown["operator"], shown["roaming"]) == (-71, "NTT DOCOMO", True)
    assert (shown["behind_nat"], shown["ike_version"]) == (True, 2)
    out = world("site", "show", "tokyo-1").out
    for words in ("-71 dBm", "roaming", "950.0 MiB / 1000 MiB (95 %)", "carries nothing", "behind NAT", "plc", "1.2.3"):
        assert words in out, words


def test_what_an_older_agent_leaves_out_was_not_reported(world: Kyoten, database: Database) -> None:
    _heartbeat(database, "tokyo-1", uplink={"kind": "wired"}, uplinks="nonsense", modem=None)
    shown = world("site", "show", "tokyo-1", "--json").document
    assert (shown["uplinks"], shown["lan_devices"], shown["signal_dbm"]) == (None, None, None)
    assert world("site", "show", "tokyo-1").out.count("not reported") >= 5


def _history(database: Database, *changes: Change) -> None:
    with database.write() as session:
        history.add_changes(session, OPERATOR, changes, gateway="gw1", now=NOW)


def test_history_says_why_and_how_available(world: Kyoten, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _tunnel(database, "tokyo-1", up=True)
    params = {"site": "tokyo-1", "peer": "198.51.100.7"}
    _history(
        database,
        Change("tokyo-1", NOW - timedelta(hours=10), True),
        Change("tokyo-1", NOW - timedelta(hours=2), False, "198.51.100.7", "causes.dead-peer", params),
        Change("tokyo-1", NOW - timedelta(hours=1), True),
    )
    told = world("site", "history", "tokyo-1", "--json").document
    assert (told["losses"], [row["state"] for row in told["changes"]]) == (1, ["up", "down", "up"])
    assert 89.9 < told["availability_percent"] < 90.1
    assert "answered no more" in world("site", "history", "tokyo-1", "--since", "1d").out
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    assert "応答がなくなりました" in world("site", "history", "tokyo-1").out
    world("site", "history", "tokyo-1", "--since", "soon", status=2)
    assert world("--tenant", "birch", "site", "history", "tokyo-1", status=2).out == ""


def test_history_that_flapping_cut_short_ends_as_the_tunnel_is(world: Kyoten, database: Database) -> None:
    _tunnel(database, "tokyo-1", up=False, hours=5)
    _history(database, Change("tokyo-1", NOW - timedelta(hours=10), True))
    told = world("site", "history", "tokyo-1", "--json").document
    assert 49.9 < told["availability_percent"] < 50.1


def test_history_is_pruned(world: Kyoten, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PRUNE_AT_ONCE", 3)
    old = [Change("tokyo-1", NOW - timedelta(days=500, seconds=n), n % 2 == 0) for n in range(10)]
    _history(database, *old, Change("tokyo-1", NOW - timedelta(days=1), True))
    assert world("history", "prune", "--before", "400d", "--json").document["pruned"] == 10
    assert world("site", "history", "tokyo-1", "--since", "600d", "--json").document["losses"] == 0
    assert world("--tenant", "acme", "history", "prune", "--before", "1d", status=3).out == ""
    assert world("history", "prune", "--before", "2199-01-01", "--json", status=2).error["key"] == "cli.moment-not-past"


def test_diagnose_says_where_it_stops(world: Kyoten, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    stops = world("site", "diagnose", "tokyo-1", "--json", status=1).document
    assert (stops["stops_at"], stops["steps"][-1]["key"]) == ("registry", "causes.never-enrolled")
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    assert "エンロールされていません" in world("site", "diagnose", "tokyo-1", status=1).out
    world("site", "diagnose", "nowhere", status=2)
    assert json.loads(world("--tenant", "birch", "site", "diagnose", "tokyo-1", "--json", status=2).err)["error"]


_FIRMWARE: dict[str, Any] = {
    "hardware": "x86-64", "version": "1.4.0", "counter": 4, "slot": "B", "stage": "refused",
    "release": "releases/x86-64/1.5.0.json", "rollout": "1.5.0-1", "since": NOW, "problem": None,
}  # fmt: skip
_WRONG_BOARD = {
    "key": "agent.module-wrong-hardware",
    "params": {"module": "quectel", "version": "1.5", "hardware": "x86-64"},
}


def _firmware(database: Database, site: str, *modules: tuple[str, str, str, Any], **other: Any) -> None:
    said = [{"name": name, "version": version, "stage": stage, "problem": why} for name, version, stage, why in modules]
    report = releases.Report(**{**_FIRMWARE, "progress_pct": None, "bytes_fetched": 0, "modules": said, **other})
    with database.write() as session:
        releases.record_state(session, OPERATOR, site_id=site, report=report, now=NOW)


def test_modules_are_counted_and_shown_site_by_site(world: Kyoten, database: Database) -> None:
    _firmware(database, "tokyo-1", ("quectel", "1.5", "active", None), ("probe", "1", "newer-stage", None))
    _firmware(database, "osaka-1", ("quectel", "1.5", "refused", _WRONG_BOARD))
    _firmware(database, "kobe-1", ("quectel", "1.5", "active", None))
    counted = world("firmware", "modules", "quectel", "--json").document["modules"]
    assert counted == [
        {"module": "quectel", "version": "1.5", "stage": "active", "sites": 2},
        {"module": "quectel", "version": "1.5", "stage": "refused", "sites": 1},
    ]
    refused = next(
        one for one in world("firmware", "modules", "--sites", "--json").document["modules"] if one["site"] == "osaka-1"
    )
    assert refused["problem"]["key"] == "agent.module-wrong-hardware"
    shown = world("firmware", "modules", "--sites").out
    assert refused["problem"]["text"].split()[0] in shown and "newer-stage" in shown and "in use" in shown
    # A customer's administrator sees their own sites.
    own = world("--tenant", "birch", "firmware", "modules", "--sites", "--json").document["modules"]
    assert {one["site"] for one in own} == {"kobe-1"}
    assert "No router has said that it has such" in world("firmware", "modules", "nobody").out


def test_a_site_shows_its_firmware_and_modules(world: Kyoten, database: Database) -> None:
    assert world("site", "show", "tokyo-1", "--json").document["firmware"] is None
    _heartbeat(database, "tokyo-1", **_REPORT)
    problem = {"key": "agent.update-no-space", "params": {}}
    _firmware(database, "tokyo-1", ("quectel", "1.5", "refused", _WRONG_BOARD), problem=problem)
    document = world("site", "show", "tokyo-1", "--json").document
    assert (document["firmware"]["version"], document["firmware"]["slot"]) == ("1.4.0", "B")
    assert document["firmware"]["problem"]["key"] == "agent.update-no-space"
    assert [one["module"] for one in document["modules"]] == ["quectel"]
    shown = world("site", "show", "tokyo-1").out
    assert "1.4.0 (x86-64), slot B: refused" in shown
    assert "quectel 1.5: refused; what was there before stays" in shown
