"""kyoten audit: who changed what, and that tampering ends with a status and a sentence."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Kyoten = Callable[..., Any]


def _tamper(tmp_path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(tmp_path / "state" / "registry.sqlite")) as raw:
        for statement in ("DROP TRIGGER audit_entries_no_update", "DROP TRIGGER audit_entries_no_delete", *statements):
            raw.execute(statement)
        raw.commit()


def test_change_is_listed_with_who_and_what(world: Kyoten) -> None:
    world("site", "phase", "tokyo-1", "commissioning")
    (row,) = world("audit", "list", "--subject", "tokyo-1", "--since", "1h", "--most", "1", "--json").document[
        "audit-entries"
    ]
    assert (row["actor"], row["action"], row["kind"], row["subject"], row["tenant"]) == (
        "alice", "changed", "sites", "tokyo-1", "acme",
    )  # fmt: skip
    assert (row["before"], row["after"]) == ({"phase": "operation"}, {"phase": "commissioning"})
    table = world("audit", "list", "--actor", "alice").out
    assert "alice" in table and "phase: operation -> commissioning" in table
    assert "No change on record fits" in world("audit", "list", "--since", "2099-01-01").out
    world("audit", "list", "--since", "yesterday", status=2)


def test_tenants_administrator_sees_its_own_only(world: Kyoten) -> None:
    everything = world("audit", "list", "--json").document["audit-entries"]
    assert {row["tenant"] for row in everything} > {"acme", "birch"}
    own = world("--tenant", "birch", "audit", "list", "--json").document["audit-entries"]
    assert {row["tenant"] for row in own} == {"birch"}
    assert world("--tenant", "birch", "audit", "list", "--tenant", "acme", "--json").document["audit-entries"] == []
    world("--tenant", "birch", "audit", "head", status=3)
    world("--tenant", "birch", "audit", "verify", status=3)


def test_whole_log_is_told_with_its_head(world: Kyoten, tmp_path: Path) -> None:
    head = world("audit", "head").out.strip()
    kept = tmp_path / "witness"
    kept.write_text(f"{head}\n")
    world("site", "phase", "tokyo-1", "commissioning")
    said = world("audit", "verify", "--witness", str(kept), "--head", head, "--json")
    assert said.status == 0
    assert said.document["entries"] == int(head.split(":")[0]) + 1
    assert said.document["witnesses"] == 2
    assert "is whole" in world("audit", "verify").out


def test_entry_that_does_not_fit_is_named(world: Kyoten, tmp_path: Path) -> None:
    _tamper(tmp_path, "UPDATE audit_entries SET actor = 'taro' WHERE number = 4")
    said = world("audit", "verify", "--json", status=4)
    assert (said.error["key"], said.error["params"]) == ("audit.changed", {"number": 4, "good": 3})
    assert "Entry 4" in world("audit", "verify", status=4).err


@pytest.mark.parametrize(
    "wrong",
    ["UPDATE audit_entries SET after = '{' WHERE number = 6", "UPDATE audit_entries SET at = 'now' WHERE number = 6"],
)
def test_entry_that_cannot_even_be_read_is_named(world: Kyoten, tmp_path: Path, wrong: str) -> None:
    _tamper(tmp_path, wrong)
    said = world("audit", "verify", "--json", status=4)
    assert (said.error["key"], said.error["params"]) == ("audit.changed", {"number": 6, "good": 5})
    assert world("audit", "list", "--json", status=4).error["key"] == "audit.unreadable"


def test_entry_before_an_unreadable_one_is_named_first(world: Kyoten, tmp_path: Path) -> None:
    changed = "UPDATE audit_entries SET actor = 'taro' WHERE number = 4"
    _tamper(tmp_path, changed, "UPDATE audit_entries SET after = '{' WHERE number = 6")
    assert world("audit", "verify", "--json", status=4).error["params"] == {"number": 4, "good": 3}


def test_entry_of_another_shape_is_shown(world: Kyoten, tmp_path: Path) -> None:
    _tamper(tmp_path, "UPDATE audit_entries SET after = '[1, 2]' WHERE number = 6")
    assert "[1, 2]" in world("audit", "list").out


def test_tail_that_is_gone_is_noticed_by_a_kept_head(world: Kyoten, tmp_path: Path) -> None:
    head = world("audit", "head").out.strip()
    _tamper(tmp_path, "DELETE FROM audit_entries WHERE number > 5")
    world("audit", "verify")  # nothing in the log itself can tell
    said = world("audit", "verify", "--head", head, "--json", status=4)
    assert (said.status, said.error["key"], said.error["params"]["number"]) == (4, "audit.tail-missing", 6)


def test_what_is_no_head_or_no_witness_is_refused(world: Kyoten, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for wrong in (("--head", "12:abc"), ("--witness", str(tmp_path / "nowhere")), ("--witness", str(empty))):
        world("audit", "verify", *wrong, status=2)
