"""`kyoten rollout` and `kyoten site label`: what is typed, what comes of it, what is refused."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cloudside.cli import rollout_status
from cloudside.config import load
from cloudside.fleet.rollouts import keeper
from cloudside.registry import releases, reports
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import FirmwareRelease

Kyoten = Callable[..., Any]
HARDWARE = "kyoten-x86-64"
PATH = f"releases/{HARDWARE}/1.1.0.json"


def report(database: Database, site: str, counter: int, stage: str = "idle") -> None:
    """What a router says of itself now."""
    now = datetime.now(UTC)
    release = "" if stage == "idle" else PATH
    state = releases.Report(HARDWARE, "1.0.0", counter, "A", stage, release, "", None, 0, now, None, [])
    uplink = {"uplink": {"kind": "mobile" if site == "kobe-1" else "wired"}}
    source = ip_address("10.0.0.1")
    with database.record() as session:
        reports.record_heartbeat(session, OPERATOR, site_id=site, received_at=now, source=source, report=uplink)
        if counter:
            releases.record_state(session, OPERATOR, site_id=site, report=state, now=now)


@pytest.fixture
def registry(world: Kyoten, tmp_path: Path) -> Iterator[Database]:
    """The registry behind the command: 1.1.0 is published, osaka-1 has no delta, tokyo-1 never said what it runs."""
    database = Database(load(tmp_path / "kyoten.toml").registry_url)
    with database.write() as session:
        session.add(
            FirmwareRelease(
                hardware=HARDWARE, version="1.1.0", counter=11, path=PATH, minimum_from=1, disk_mib=1,
                full_bytes=90 << 20, deltas={"10": 4 << 20}, published_at=datetime.now(UTC), yanked_at=None,
                yank_reason="",
            )
        )  # fmt: skip
    for site, counter in (("kobe-1", 10), ("nagoya-1", 10), ("osaka-1", 9), ("tokyo-1", 0)):
        report(database, site, counter)
    with closing(database):
        yield database


def test_the_dry_run_says_who_what_and_what_it_costs_and_changes_nothing(world: Kyoten, registry: Database) -> None:
    document = world("rollout", "plan", "1.1.0", "--ring", "30%:2h", "--json").document
    assert document["rollout"] == "1.1.0-1"
    assert [(ring["who"], ring["sites"]) for ring in document["rings"]] == [("30%:2h", 1), ("100%:0m", 2)]
    assert document["left_out"] == {"tokyo-1": "unknown"}
    assert document["total"]["mobile_bytes"] == 4 << 20
    assert document["total"]["wired_bytes"] == 94 << 20
    assert {one["site"]: one["kind"] for one in document["sites"]} == {
        "kobe-1": "delta", "nagoya-1": "delta", "osaka-1": "full",
    }  # fmt: skip
    shown = world("rollout", "plan", "1.1.0", "--sites").out
    assert "osaka-1" in shown and "they never said what they run" in shown
    assert world("rollout", "list").out.startswith("There are no rollouts.")


def test_a_start_does_as_the_dry_run_said(world: Kyoten, registry: Database) -> None:
    words = ("1.1.0", "--ring", "30%:2h", "--window", "22:00-05:00", "--json")
    planned = world("rollout", "plan", *words).document
    started = world("rollout", "start", *words, "--yes").document
    assert started.pop("state") == "planned"
    assert started == planned
    status = world("rollout", "status", "--json").document
    assert [(ring["sites"], ring["waiting"]) for ring in status["rings"]] == [(1, 1), (2, 2)]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can answer a question."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


@pytest.mark.usefixtures("nobody")
def test_nothing_starts_without_a_yes(world: Kyoten, registry: Database) -> None:
    refused = world("rollout", "start", "1.1.0", status=130)
    assert "3 sites" in refused.err and "0.3%" in refused.out
    assert world("rollout", "list", "--all", "--json").document == {"rollouts": []}


@pytest.mark.usefixtures("nobody")
def test_its_life_by_command(world: Kyoten, registry: Database) -> None:
    world("rollout", "start", "1.1.0", "--at-once", "3", "--ring", "100%:0h", "--yes")
    keeper.step_all(registry, datetime.now(UTC))
    assert "running" in world("rollout", "status").out
    assert "paused" in world("rollout", "pause", "1.1.0-1").out
    again = world("rollout", "pause", "1.1.0-1", "--json", status=2).error
    assert (again["key"], again["params"]["state"]) == ("rollout.cannot", "paused")
    world("rollout", "resume", "1.1.0-1")
    for site in ("kobe-1", "nagoya-1", "osaka-1"):
        report(registry, site, 9, "returned")
    keeper.step_all(registry, datetime.now(UTC))
    status = world("rollout", "status", "1.1.0-1", "--json").document
    assert status["state"] == "halted" and status["report"]["harmed"] == 3
    assert {one["site"] for one in status["troubles"]} == {"kobe-1", "nagoya-1", "osaka-1"}
    shown = world("rollout", "status", "1.1.0-1").out
    assert "3 of 3 sites failed" in shown and "it went back by itself" in shown
    assert "Rollout halted: 1.1.0-1" in world("incident", "list").out
    asked = world("rollout", "resume", "1.1.0-1", status=130).err
    assert "3 of 3 sites failed" in asked
    assert world("rollout", "resume", "1.1.0-1", "--yes", "--json").document["state"] == "running"
    assert world("incident", "list", "--json").document["incidents"] == []
    assert world("rollout", "abort", "1.1.0-1", "--yes", "--json").document["state"] == "aborted"
    assert world("rollout", "list", "--json").document == {"rollouts": []}
    assert [row["state"] for row in world("rollout", "list", "--all", "--json").document["rollouts"]] == ["aborted"]


def test_watching_ends_when_nothing_more_happens_by_itself(
    world: Kyoten, registry: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world("rollout", "start", "1.1.0", "--at-once", "3", "--ring", "100%:0h", "--yes")

    def look(_seconds: float) -> None:
        """The world goes on between two looks."""
        for site in ("kobe-1", "nagoya-1", "osaka-1"):
            report(registry, site, 11, "committed")
        keeper.step_all(registry, datetime.now(UTC))

    monkeypatch.setattr(rollout_status.time, "sleep", look)
    keeper.step_all(registry, datetime.now(UTC))
    lines = world("rollout", "status", "--watch", "--json").out.splitlines()
    assert '"state": "running"' in lines[0] and '"state": "finished"' in lines[-1]
    assert "finished" in world("rollout", "status", "1.1.0-1", "--watch").out


def test_labels_choose_rings_and_sites(world: Kyoten, registry: Database) -> None:
    assert world("site", "label", "kobe-1", "canary=yes", "exclusive=tower").out == (
        "Labels of kobe-1: canary=yes, exclusive=tower\n"
    )
    assert world("site", "label", "kobe-1", "exclusive=", "--json").document["labels"] == {"canary": "yes"}
    assert world("site", "label", "--json").document["labels"] == [
        {"site": "kobe-1", "label": "canary", "value": "yes"}
    ]
    plan = world("rollout", "plan", "1.1.0", "--ring", "canary=yes:1h", "--json").document
    assert (plan["sites"][0]["site"], plan["sites"][0]["ring"]) == ("kobe-1", 1)
    only = world("rollout", "plan", "1.1.0", "--label", "canary=yes", "--json").document
    assert [one["site"] for one in only["sites"]] == ["kobe-1"]


def test_a_tenants_administrator_has_own_sites_and_rollouts_only(world: Kyoten, registry: Database) -> None:
    mine = world("--tenant", "acme", "rollout", "start", "1.1.0", "--yes", "--json").document
    assert [one["site"] for one in mine["sites"]] == ["osaka-1"]
    assert world("--tenant", "birch", "rollout", "list", "--all", "--json").document == {"rollouts": []}
    for command in ("status", "pause", "resume", "abort"):
        refused = world("--tenant", "birch", "rollout", command, mine["rollout"], "--json", status=2)
        assert refused.error["key"] == "registry.unknown-rollout"
    foreign = world("--tenant", "birch", "rollout", "plan", "1.1.0", "--site", "osaka-1", "--json", status=2)
    assert foreign.error["key"] == "registry.unknown-site"
    label = world("--tenant", "birch", "site", "label", "osaka-1", "a=b", "--json", status=2)
    assert label.error["key"] == "registry.unknown-site"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("plan", "7.7"), "registry.unknown-version"),
        (("plan", "1.1.0", "--ring", "x"), "rollout.bad-ring"),
        (("plan", "1.1.0", "--ring", "50%", "--ring", "10%"), "rollout.ring-order"),
        (("plan", "1.1.0", "--window", "night"), "rollout.bad-window"),
        (("plan", "1.1.0", "--tolerate", "200"), "rollout.bad-share"),
        (("plan", "1.1.0", "--harm", "x"), "rollout.bad-share"),
        (("plan", "1.1.0", "--silent", "0"), "cli.bad-duration"),
        (("plan", "1.1.0", "--at", "tomorrow"), "cli.bad-moment"),
        (("plan", "1.1.0", "--permit", "/nonexistent"), "rollout.permit-unreadable"),
        (("plan", "1.1.0", "--label", "canary"), "registry.bad-label"),
        (("plan", "1.1.0", "--label", "canary="), "registry.bad-label"),
        (("plan", "1.1.0", "--hardware", "toaster"), "registry.unknown-release"),
        (("plan", "1.1.0", "--tenant", "nobody"), "registry.unknown-tenant"),
        (("start", "1.1.0", "--site", "tokyo-1", "--yes"), "rollout.nobody"),
        (("status",), "rollout.none-alive"),
        (("status", "x"), "registry.unknown-rollout"),
    ],
)
def test_what_cannot_be_done_is_said(world: Kyoten, registry: Database, words: tuple[str, ...], key: str) -> None:
    assert world("rollout", *words, "--json", status=2).error["key"] == key
