"""Settings to several sites, logs by range over a line that breaks, commands, crashes: the product at both ends."""

import json
import random
import string
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry import log_pulls, site_commands
from cloudside.registry.callers import OPERATOR
from lab import topology
from lab.network import Host, wait_until
from lab.world import BINARIES, World, build

#: The gateway's second address: one site's way to it is blocked.
SECOND = "203.0.113.200"
SITES = ("osaka-1", "tokyo-1")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    built = build(topology.SMALL, name="desk", settings_confirm_s=6.0)
    try:
        built.gateway.ip("address", "add", f"{SECOND}/32", "dev", "wan0")
        _internet(built).ip("route", "add", f"{SECOND}/32", "via", str(topology.GATEWAY_PUBLIC))
        built.start_cloud()
        for site in SITES:
            built.start_agent(site)
        built.wait_for_tunnels(set(SITES), timeout_s=60)
        wait_until("heartbeats", lambda: built.heard_of() >= set(SITES), timeout_s=60)
        yield built
    finally:
        built.close()


def _internet(world: World) -> Host:
    return world.ground.internet


def _router(world: World, site: str) -> Host:
    return world.ground.sites[site].router


def _state(world: World, site: str) -> Path:
    return _router(world, site).directory / "state"


def _change(world: World, number: int) -> dict[str, Any]:
    found: dict[str, Any] = world.kyoten_json("settings", "change", "status", str(number))
    return found


def _in_force(world: World, site: str) -> dict[str, Any]:
    """What the router itself has, not what the cloud believes."""
    document = json.loads((_state(world, site) / "settings.json").read_text())
    values: dict[str, Any] = document["current"]["values"]
    return values


def test_a_draft_is_compared_and_applied(world: World) -> None:
    world.kyoten("settings", "draft", "tokyo-1", "tunnel.dpd_s=9", "log.level=debug")
    shown = world.kyoten_json("settings", "diff", "tokyo-1")["differences"]
    assert [(one["setting"], one["before"], one["after"]) for one in shown] == [
        ("log.level", None, "debug"), ("tunnel.dpd_s", None, 9.0),
    ]  # fmt: skip
    assert _state(world, "tokyo-1").joinpath("settings.json").exists() is False or not _in_force(world, "tokyo-1")
    applied = world.kyoten("settings", "apply", "tokyo-1", "--timeout", "80", timeout_s=120)
    assert "works with settings version 1" in applied.stdout
    assert _in_force(world, "tokyo-1") == {"tunnel.dpd_s": 9.0, "log.level": "debug"}


def _planned(world: World) -> dict[str, str]:
    """When each site would be told of a change."""
    plan = world.kyoten_json("settings", "change", "start", f"tunnel.gateways={SECOND}", "--all", "--dry-run")
    return {row["site"]: row["now"] for row in plan["sites"]}


def test_a_change_that_one_site_undoes_stops_before_the_next(world: World) -> None:
    osaka = _router(world, "osaka-1")
    osaka.run(["iptables-legacy", "-t", "raw", "-I", "OUTPUT", "-d", SECOND, "-j", "DROP"])
    # A site counts as away after three intervals of a second: on a busy machine a look may fall into such a gap.
    wait_until("a dry run with everybody there", lambda: _planned(world) == dict.fromkeys(SITES, "now"), timeout_s=60)
    started = world.kyoten_json(
        "settings", "change", "start", f"tunnel.gateways={SECOND}", "--all", "--stagger", "1", "--every", "0",
        "--stop-after-failures", "1", "--reason", "the second address", "--yes",
    )  # fmt: skip
    number = started["change"]
    wait_until("the change stops", lambda: _change(world, number)["state"] == "stopped", timeout_s=90)
    found = _change(world, number)
    assert {row["site"]: row["state"] for row in found["rows"]} == {"osaka-1": "reverted", "tokyo-1": "waiting"}
    assert found["rows"][0]["problem"]["key"] == "agent.settings-cut-off"
    assert "tunnel.gateways" not in _in_force(world, "osaka-1")
    assert "tunnel.gateways" not in _in_force(world, "tokyo-1"), "a site after the one that failed was touched"

    world.kyoten("settings", "change", "resume", str(number), "--stop-after-failures", "2")
    wait_until("the rest", lambda: _change(world, number)["state"] == "done", timeout_s=90)
    assert {row["site"]: row["state"] for row in _change(world, number)["rows"]} == {
        "osaka-1": "reverted", "tokyo-1": "applied",
    }  # fmt: skip
    assert _in_force(world, "tokyo-1")["tunnel.gateways"] == [SECOND]


def test_a_site_that_is_away_takes_a_change_up_later(world: World) -> None:
    agent = _router(world, "osaka-1").processes["agent"]
    agent.stop()
    time.sleep(4)  # three intervals of a second
    number = world.kyoten_json(
        "settings", "change", "start", "heartbeat.interval_s=2", "--sites", "osaka-1", "--every", "0", "--yes"
    )["change"]
    time.sleep(3)
    assert [row["state"] for row in _change(world, number)["rows"]] == ["waiting"]
    world.start_agent("osaka-1")
    wait_until("the change", lambda: _change(world, number)["state"] == "done", timeout_s=60)
    assert _in_force(world, "osaka-1") == {"heartbeat.interval_s": 2.0}


def _noise(world: World, site: str, *, lines: int) -> list[str]:
    """Old lines in an agent's log that do not pack well."""
    dice = random.Random(1)
    start = datetime.now(UTC) - timedelta(hours=5)
    made = [
        f"{start + timedelta(seconds=number):%Y-%m-%dT%H:%M:%SZ} INFO router_agent.noise: "
        + "".join(dice.choices(string.ascii_letters + string.digits, k=180))
        for number in range(lines)
    ]
    (_state(world, site) / "agent.log.2").write_text("".join(f"{line}\n" for line in made))
    return made


def _pull(world: World, site: str, request: str) -> dict[str, Any]:
    rows = world.kyoten_json("logs", site, "--list")["log-pulls"]
    found: dict[str, Any] = next(row for row in rows if row["request"] == request)
    return found


def test_a_log_by_range_goes_on_after_the_line_was_cut_and_the_agent_killed(world: World, tmp_path: Path) -> None:
    made = _noise(world, "osaka-1", lines=6000)
    router = _router(world, "osaka-1")
    # A megabyte takes 20 s at this rate: long enough to cut the line in the middle.
    router.run(
        ["tc", "qdisc", "add", "dev", "wan0", "root", "tbf", "rate", "400kbit", "burst", "16kb", "latency", "400ms"]
    )
    asked = world.kyoten(
        "logs", "osaka-1", "--since", "6h", "--until", "3h", "--unit", "agent", "--timeout", "0", "--json", check=False
    )
    request = json.loads(asked.stderr)["error"]["params"]["request"]

    def received() -> int:
        with world.reading() as session:
            return log_pulls.received(session, OPERATOR, request) or 0

    wait_until("a first piece", lambda: received() > 0, timeout_s=60)
    router.ip("link", "set", "wan0", "down")
    cut_at = received()
    time.sleep(3)
    router.processes["agent"].kill()
    assert cut_at <= received(), "what had come was dropped"
    assert _pull(world, "osaka-1", request)["state"] == "open", "nothing was cut: the log was there already"
    world.start_agent("osaka-1")
    router.ip("link", "set", "wan0", "up")
    router.run(["ip", "route", "replace", "default", "via", _gateway_of(router)], check=False)
    output = tmp_path / "osaka.log"
    smallest = cut_at
    deadline = time.monotonic() + 120
    while _pull(world, "osaka-1", request)["state"] == "open" and time.monotonic() < deadline:
        smallest = min(smallest, received())
        time.sleep(0.3)
    router.run(["tc", "qdisc", "del", "dev", "wan0", "root"])
    world.kyoten("logs", "osaka-1", "--request", request, "--output", str(output), "--timeout", "60")
    assert smallest >= cut_at, "it began anew"
    lines = output.read_text().splitlines()
    assert [line.removeprefix("agent| ") for line in lines if "router_agent.noise" in line] == made
    assert lines[0].startswith("# site osaka-1") and "6000 lines of agent" in lines[0]


def _gateway_of(router: Host) -> str:
    """The next hop of the router's line, which went with the line: it is the first address of its network."""
    shown = json.loads(router.run(["ip", "-json", "address", "show", "dev", "wan0"]).stdout)[0]["addr_info"][0]
    return str(shown["local"]).rpartition(".")[0] + ".1"


def test_a_kill_leaves_a_report(world: World) -> None:
    wait_until("the report", lambda: bool(world.kyoten_json("site", "crashes", "osaka-1")["crashes"]), timeout_s=60)
    found = [one for one in world.kyoten_json("site", "crashes", "osaka-1")["crashes"] if one["kind"] == "killed"]
    assert [one["process"] for one in found] == ["kyoten-agent"]
    text = world.kyoten_json("site", "crashes", "osaka-1", "show", found[0]["report"])["text"]
    assert "router_agent" in text and "log " in text
    assert (_state(world, "osaka-1") / "identity" / "device_id").read_text().strip() not in text


def test_a_log_is_followed(world: World) -> None:
    gateway = world.gateway
    follow = gateway.start("follow", [str(BINARIES / "kyoten"), "logs", "tokyo-1", "--follow", "--unit", "agent"])
    wait_until("it begins", lambda: "agent started" in follow.tail(60) or "log" in follow.tail(60), timeout_s=30)
    world.kyoten("site", "set", "tokyo-1", "log.level=info", "--timeout", "80", timeout_s=120)
    wait_until("new lines", lambda: "settings version" in follow.tail(100), timeout_s=30)
    follow.stop()


def test_a_command_runs_once_and_is_in_the_audit_log(world: World) -> None:
    done = world.kyoten_json("site", "exec", "tokyo-1", "ping", "plc", "count=2", "--reason", "is the plc there?")
    assert (done["state"], done["status"]) == ("done", 0)
    assert "2 packets transmitted, 2 received" in done["output"]
    tunnels = world.kyoten_json("site", "exec", "tokyo-1", "tunnels", "--reason", "which suite?")
    assert "ESTABLISHED" in tunnels["output"] and "10.10.1.0/24" in tunnels["output"]
    audit = world.kyoten_json("audit", "list", "--subject", f"tokyo-1/{done['command']}")["audit-entries"]
    assert {entry["action"] for entry in audit} == {"added", "changed"}
    assert any("is the plc there?" in json.dumps(entry) for entry in audit)


def test_the_agent_starts_anew_on_command_and_the_tunnel_stays(world: World) -> None:
    router = _router(world, "tokyo-1")
    charon = (router.directory / "run" / "charon.pid").read_text()
    agent = router.processes["agent"].pid
    done = world.kyoten_json("site", "exec", "tokyo-1", "restart-agent", "--reason", "test", "--yes")
    assert (done["state"], done["output"]) == ("done", "the agent has started anew\n")
    assert router.processes["agent"].running and router.processes["agent"].pid == agent
    assert (router.directory / "run" / "charon.pid").read_text() == charon, "the tunnel was made anew"
    assert not [one for one in world.kyoten_json("site", "crashes", "tokyo-1")["crashes"] if one["kind"] == "killed"]


def test_a_command_for_a_site_that_is_away_expires(world: World) -> None:
    _router(world, "osaka-1").processes["agent"].stop()
    asked = world.kyoten_json("site", "exec", "osaka-1", "routes", "--reason", "late", "--expires", "1m", "--no-wait")
    with world.writing() as session:
        site_commands.get(session, OPERATOR, asked["command"]).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    world.start_agent("osaka-1")
    wait_until("a heartbeat", lambda: "osaka-1" in world.heard_of(), timeout_s=30)
    time.sleep(3)
    rows = world.kyoten_json("site", "commands", "osaka-1")["site-commands"]
    assert [row["state"] for row in rows] == ["expired"]
    assert not list((_state(world, "osaka-1") / "commands").glob("*.json"))


def test_the_agent_stays_small(world: World) -> None:
    found = {site: _router(world, site).processes["agent"].rss_mib() for site in SITES}
    assert max(found.values()) < 60, found
