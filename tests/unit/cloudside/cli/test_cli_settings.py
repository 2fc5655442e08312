"""`kyoten settings`: drafts, differences, history; one change to many sites."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry import reports, settings
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

Kyoten = Callable[..., Any]
NOW = datetime.now(UTC)


@pytest.fixture
def database(world: Kyoten, tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    yield opened
    opened.close()


def _beat(database: Database, *sites: str, line: str = "wired", ago_s: float = 0) -> None:
    with database.write() as session:
        for site in sites:
            reports.record_heartbeat(
                session, OPERATOR, site_id=site, received_at=datetime.now(UTC) - timedelta(seconds=ago_s),
                source=ip_address("10.0.0.1"), report={"uplink": {"kind": line}, "problems": []},
            )  # fmt: skip


def test_a_draft_is_made_shown_compared_applied(world: Kyoten, database: Database) -> None:
    assert "has 2 settings" in world("settings", "draft", "tokyo-1", "log.level=debug", "tunnel.dpd_s=9").out
    assert world("site", "set", "tokyo-1", "--draft", "mobile.roaming=yes").status == 0
    shown = world("settings", "draft", "tokyo-1").out
    assert "alice" in shown and "log.level=debug" in shown and "mobile.roaming=yes" in shown
    table = world("settings", "diff", "tokyo-1").out
    assert "tunnel.dpd_s" in table and "9.0" in table
    with database.read() as session:
        assert settings.latest(session, OPERATOR, "tokyo-1") is None, "the router would hear of a draft"
    applied = world("settings", "apply", "tokyo-1", "--no-wait", "--json").document
    assert (applied["version"], applied["state"]) == (1, "pending")
    assert world("settings", "diff", "tokyo-1", status=2).err.startswith("error: tokyo-1 has no draft")


def test_a_draft_is_thrown_away(world: Kyoten) -> None:
    world("settings", "draft", "tokyo-1", "log.level=debug")
    assert "thrown away" in world("settings", "discard", "tokyo-1").out
    assert world("settings", "discard", "tokyo-1", status=2).out == ""


def test_a_draft_that_somebody_overtook_is_not_applied_by_itself(world: Kyoten) -> None:
    world("settings", "draft", "tokyo-1", "log.level=debug")
    world("site", "set", "tokyo-1", "log.level=warning", "--no-wait")
    refused = world("settings", "apply", "tokyo-1", "--no-wait", "--json", status=2).error
    assert (refused["key"], refused["params"]["names"]) == ("settings.draft-moved", "log.level")
    assert world("settings", "draft", "tokyo-1", "--json").document["moved"] == ["log.level"]
    assert "--overwrite" in world("settings", "draft", "tokyo-1").err
    done = world("settings", "apply", "tokyo-1", "--overwrite", "--no-wait", "--json").document
    assert done["values"] == {"log.level": "debug"}


def test_secrets_are_compared_and_not_shown(world: Kyoten, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("8642\n")
    world("settings", "draft", "tokyo-1", f"mobile.pin=@{tmp_path / 'pin'}")
    for command in (("draft", "tokyo-1"), ("diff", "tokyo-1"), ("draft", "tokyo-1", "--json")):
        shown = world("settings", *command).out
        assert "8642" not in shown and "***" in shown
    world("settings", "apply", "tokyo-1", "--no-wait")
    assert "8642" not in world("settings", "history", "tokyo-1", "--json").out
    assert world("settings", "draft", "tokyo-1", "mobile.pin=8642", status=2).out == ""


def test_history_says_what_each_version_changed_and_an_old_one_is_drafted(world: Kyoten, database: Database) -> None:
    world("site", "set", "tokyo-1", "log.level=debug", "--no-wait")
    world("site", "set", "tokyo-1", "tunnel.gateways=192.0.2.1", "--no-wait")
    problem = {"key": "agent.settings-cut-off", "params": {"version": 2, "confirm_s": 60}}
    with database.write() as session:
        settings.mark_applied(session, OPERATOR, site_id="tokyo-1", version=1)
        settings.mark_reverted(session, OPERATOR, site_id="tokyo-1", version=2, problem=problem)
    world("site", "set", "tokyo-1", "log.level=", "tunnel.dpd_s=9", "--no-wait")
    rows = world("settings", "history", "tokyo-1", "--json").document["versions"]
    assert [(row["version"], row["state"]) for row in rows] == [(3, "pending"), (2, "reverted"), (1, "applied")]
    assert rows[0]["changed"] == [
        {"setting": "log.level", "before": "debug", "after": None},
        {"setting": "tunnel.dpd_s", "before": None, "after": 9.0},
    ]
    assert "60" in world("settings", "history", "tokyo-1").out
    shown = world("settings", "diff", "tokyo-1", "1", "3", "--json").document["differences"]
    assert [one["setting"] for one in shown] == ["log.level", "tunnel.dpd_s"]
    assert world("settings", "diff", "tokyo-1", "1", "2", "3", status=2).err.startswith("error: Two versions")
    assert world("settings", "diff", "tokyo-1", "77", status=2).out == ""
    world("settings", "draft", "tokyo-1", "--version", "1")
    assert world("settings", "apply", "tokyo-1", "--no-wait", "--json").document["values"] == {"log.level": "debug"}
    assert "as version 1 had them" in world("settings", "draft", "tokyo-1", "--version", "1", status=2).err


def test_a_dry_run_states_nothing(world: Kyoten, database: Database) -> None:
    shown = world("site", "set", "tokyo-1", "log.level=debug", "--dry-run", "--json").document
    assert shown["differences"] == [{"setting": "log.level", "before": None, "after": "debug"}]
    with database.read() as session:
        assert settings.latest(session, OPERATOR, "tokyo-1") is None
    assert world("site", "set", "tokyo-1", "log.level=debug", "--dry-run", "--draft", status=2).out == ""
    assert world("site", "set", "tokyo-1", "--timezone", "Asia/Tokyo", "--draft", status=2).out == ""


START = ("settings", "change", "start", "log.level=debug")


def test_a_change_to_many_is_planned_begun_watched_ended(world: Kyoten, database: Database) -> None:
    _beat(database, "tokyo-1", "kobe-1")
    _beat(database, "osaka-1", ago_s=999)
    _beat(database, "nagoya-1", line="mobile")
    world("site", "set", "kobe-1", "log.level=debug", "--no-wait")
    plan = world(*START, "--all", "--dry-run", "--stagger", "1", "--json").document
    assert {row["site"]: row["now"] for row in plan["sites"]} == {
        "tokyo-1": "now", "kobe-1": "unchanged", "osaka-1": "later-away", "nagoya-1": "later-mobile",
    }  # fmt: skip
    assert (plan["ready"], plan["steps"]) == (1, 1)
    table = world(*START, "--all", "--dry-run").out
    assert "when it is on its wired line" in table and "Nothing was changed" in table
    assert world("settings", "change", "list").out.startswith("There was no change")
    begun = world(*START, "--all", "--yes", "--reason", "a fault", "--json").document
    assert (begun["sites"], begun["unchanged"]) == (["nagoya-1", "osaka-1", "tokyo-1"], ["kobe-1"])
    number = str(begun["change"])
    assert "a fault" in world("settings", "change", "list").out
    assert "waits its turn" in world("settings", "change", "status", number).out
    assert "paused" in world("settings", "change", "pause", number).out
    assert world("settings", "change", "pause", number, status=2).err.startswith("error: Change 1 is paused")
    assert "goes on" in world("settings", "change", "resume", number).out
    assert "is over" in world("settings", "change", "cancel", number, "--yes").out
    assert world("settings", "change", "resume", number, status=2).out == ""
    assert world("settings", "change", "status", "77", status=2).err.startswith("error: There is no change 77")


def test_which_sites_are_meant_is_said_in_one_way(world: Kyoten, database: Database) -> None:
    world("site", "label", "tokyo-1", "ring=canary")
    assert world(*START, "--label", "ring=canary", "--yes", "--json").document["sites"] == ["tokyo-1"]
    both = world(*START, "--sites", "tokyo-1, kobe-1", "--sites", "kobe-1", "--yes", "--json").document
    assert both["sites"] == ["tokyo-1", "kobe-1"]
    for wrong in ((), ("--all", "--sites", "tokyo-1"), ("--sites", "nowhere-1"), ("--label", "ring=none"),
                  ("--all", "--stagger", "0"), ("--all", "--until", "soon")):  # fmt: skip
        assert world(*START, *wrong, "--yes", status=2).out == "", wrong
    assert world("settings", "change", "start", "log.level=loud", "--all", "--yes", status=2).out == ""


def test_a_tenant_changes_its_own_sites_and_sees_its_own_changes(world: Kyoten) -> None:
    mine = world("--tenant", "acme", *START, "--all", "--yes", "--json").document
    assert mine["sites"] == ["osaka-1", "tokyo-1"]
    assert world("--tenant", "acme", *START, "--sites", "kobe-1", "--yes", status=2).out == ""
    number = str(mine["change"])
    for word in ("status", "pause", "resume", "cancel"):
        refused = world(
            "--tenant", "birch", "settings", "change", word, number, *(["--yes"] if word == "cancel" else []), status=2
        )
        assert "There is no change" in refused.err
    assert world("--tenant", "birch", "settings", "change", "list", "--json").document == {"settings-changes": []}
    for words in (
        ("draft", "kobe-1", "log.level=debug"),
        ("history", "kobe-1"),
        ("diff", "kobe-1"),
        ("apply", "kobe-1"),
    ):
        assert world("--tenant", "acme", "settings", *words, status=2).err.startswith("error: There is no site")
