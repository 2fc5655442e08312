"""`kyoten policy counters` and `refused`, on a registry that a gateway has told something."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry import counters
from cloudside.registry.callers import OPERATOR
from cloudside.registry.counted import Refused, StatementUse
from cloudside.registry.database import Database

POLICY = """tenant: acme
allow:
  - {name: web, from: [tokyo-1, osaka-1], to: web, services: https}
  - {name: never, from: osaka-1, to: web, services: ssh}
deny:
  - {name: no-telnet, from: tokyo-1, to: web, services: tcp/23}
"""


@pytest.fixture
def told(world: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """The policy in force; a gateway has counted today and 40 days ago, and refused two."""
    (tmp_path / "acme.yaml").write_text(POLICY)
    world("policy", "apply", "acme.yaml")
    now = datetime.now(UTC)
    past = now - timedelta(days=40)
    database = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    with database.write() as session:
        uses = [
            StatementUse("acme/web", now.date(), 3, 40, 5000, now),
            StatementUse("acme/web", past.date(), 10, 100, 20_000, past),
            StatementUse("acme/removed", now.date(), 1, 1, 1, now),
        ]
        counters.add_uses(session, OPERATOR, uses)
        params = {"source": "tokyo-1/plc", "destination": "web"}
        denied = ("rules.denied", {**params, "statements": "acme/no-telnet"}, ("acme/no-telnet",))
        refused = [
            Refused("acme", "tokyo-1/plc", "10.1.0.20", "web", "10.255.0.10", "tcp/23", *denied, now),
            Refused("acme", "osaka-1", "10.1.1.5", "10.2.0.1", "10.2.0.1", "udp/161",
                    "rules.unknown-destination", {"address": "10.2.0.1"}, (), now - timedelta(hours=1)),
        ]  # fmt: skip
        counters.add_refused(session, OPERATOR, refused, gateway="gw1")
    database.close()
    return world


def test_counters_have_every_statement_in_force_and_no_other(told: Callable[..., Any]) -> None:
    document = told("policy", "counters", "acme", "--json").document
    rows = {row["statement"]: row for row in document["statements"]}
    assert rows.keys() == {"acme/web", "acme/never", "acme/no-telnet"}
    assert (rows["acme/web"]["flows"], rows["acme/web"]["packets"], rows["acme/web"]["bytes"]) == (3, 40, 5000)
    assert (rows["acme/never"]["flows"], rows["acme/never"]["last_used"]) == (0, None)
    assert (rows["acme/no-telnet"]["refused"], rows["acme/no-telnet"]["flows"]) == (1, None)
    assert rows["acme/no-telnet"]["last_used"]
    assert document["applied"]


def test_days_widen_the_count(told: Callable[..., Any]) -> None:
    rows = told("policy", "counters", "acme", "--days", "60", "--json").document["statements"]
    assert {row["statement"]: row["flows"] for row in rows}["acme/web"] == 13
    assert told("policy", "counters", "acme", "--days", "0", status=2)


def test_counters_for_people(told: Callable[..., Any]) -> None:
    shown = told("policy", "counters", "acme").out
    assert "acme/never" in shown and "5000" in shown
    assert "1 of 3 statements were not used" in shown


def test_refused_are_shown_newest_first_with_why(told: Callable[..., Any]) -> None:
    rows = told("policy", "refused", "acme", "--json").document["refused"]
    assert [row["source"] for row in rows] == ["tokyo-1/plc", "osaka-1"]
    assert rows[0]["statements"] == ["acme/no-telnet"]
    assert "acme/no-telnet" in rows[0]["text"] and "tokyo-1/plc" in rows[0]["text"]
    shown = told("policy", "refused", "acme").out
    assert shown.index("tokyo-1/plc") < shown.index("osaka-1")
    assert "10.1.0.20" in shown and "tcp/23" in shown


def test_refused_at_a_site(told: Callable[..., Any]) -> None:
    rows = told("policy", "refused", "acme", "--site", "tokyo-1", "--json").document["refused"]
    assert [row["source"] for row in rows] == ["tokyo-1/plc"]
    result = told("--tenant", "acme", "policy", "refused", "acme", "--site", "kobe-1", "--json", status=2)
    assert result.error["key"] == "registry.unknown-site"


@pytest.mark.parametrize("command", ["counters", "refused"])
def test_another_tenants_are_not_shown(told: Callable[..., Any], command: str) -> None:
    result = told("--tenant", "birch", "policy", command, "acme", "--json", status=2)
    assert result.error["key"] == "registry.unknown-tenant"


def test_with_nothing_to_show_it_is_said(world: Callable[..., Any]) -> None:
    assert "No statement is in force" in world("policy", "counters", "birch").out
    assert "Nothing was refused" in world("policy", "refused", "birch").out
