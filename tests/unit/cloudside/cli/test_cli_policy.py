"""Policies at the command line: every problem with its place, behaviour opened and closed, and nothing half done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry.database import Doorbell

Kyoten = Callable[..., Any]

GOOD = """\
tenant: acme
allow:
  - name: readings
    from: tokyo-1
    to: web
    services: [tcp/443, ping]
"""
BAD = """\
tenant: acme
alow: []
allow:
  - from: tokio-1
    to: kobe-1
    services: [htp, tcp/99999]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "acme.yaml"
    path.write_text(GOOD)
    return path


def test_every_problem_is_told_with_its_place(world: Kyoten, tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(BAD)
    for verb in ("check", "plan", "apply"):
        shown = world("policy", verb, str(path), status=2)
        lines = shown.err.splitlines()
        assert [line.split(": ")[1] for line in lines] == [
            "acme.yaml:2:1", "acme.yaml:4:11", "acme.yaml:5:9", "acme.yaml:6:16", "acme.yaml:6:21",
        ]  # fmt: skip
        assert shown.out == ""
    assert world("policy", "history", "acme", "--json").document["policies"] == []
    told = world("policy", "check", str(path), "--json", status=2).error["problems"]
    assert (told[0]["params"]["kind"], told[0]["params"]["line"]) == ("rules.unknown-key", 2)


def test_checking_and_planning_change_nothing(world: Kyoten, policy: Path) -> None:
    world("policy", "check", str(policy))
    plan = world("policy", "plan", str(policy), "--json").document
    assert plan["opened"] == [
        {"source": "tokyo-1", "destination": "web", "service": "icmp/8/0"},
        {"source": "tokyo-1", "destination": "web", "service": "tcp/443"},
    ]
    assert (plan["closed"], plan["version"]) == ([], None)
    assert world("policy", "history", "acme", "--json").document["policies"] == []


def test_applying_counts_and_rings_the_gateway(world: Kyoten, policy: Path, tmp_path: Path) -> None:
    with Doorbell(tmp_path, "gateway").listen() as bell:
        bell.setblocking(False)
        assert world("policy", "apply", str(policy), "--json").document["version"] == 1
        assert bell.recv(1) == b"\0"
    policy.write_text(GOOD.replace("tcp/443, ping", "tcp/80"))
    change = world("policy", "apply", str(policy), "--json").document
    assert [row["service"] for row in change["opened"]] == ["tcp/80"]
    assert [row["service"] for row in change["closed"]] == ["icmp/8/0", "tcp/443"]
    history = world("policy", "history", "acme", "--json").document["policies"]
    assert [(row["version"], row["author"]) for row in history] == [(2, "alice"), (1, "alice")]
    assert world("policy", "show", "acme", "--version", "1").out == GOOD
    assert world("policy", "show", "acme", "--version", "3", status=2).out == ""


def test_why_answers_with_statements_or_reasons(world: Kyoten, policy: Path) -> None:
    world("policy", "apply", str(policy))
    yes = world("why", "tokyo-1/plc", "web", "tcp/443", "--json").document
    assert (yes["allowed"], [one["statement"] for one in yes["statements"]]) == (True, ["acme/readings"])
    no = world("why", "osaka-1", "web", "tcp/443", "--json", status=1).document
    assert (no["allowed"], no["statements"]) == (False, [])
    assert no["reasons"][0]["text"]
    assert world("why", "tokyo-1", "kobe-1", "ping", status=1).out.startswith("NO")
    assert "tokyo-1" in world("why", "tokio-1", "web", "ping", status=2).err
    assert "http" in world("why", "tokyo-1", "web", "htp", status=2).err


def test_why_says_that_a_site_is_out_of_service(world: Kyoten, policy: Path) -> None:
    world("site", "phase", "tokyo-1", "retired")
    assert world("why", "tokyo-1", "web", "ping", "--json", status=2).error["key"] == "cli.site-out-of-service"


@pytest.mark.parametrize("text", ["", "tenant: nobody\n", "- a\n", "\0", "tenant: [acme]\n", "allow: []\n"])
def test_any_text_is_told_and_never_crashes(world: Kyoten, tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text)
    assert world("policy", "apply", str(path), status=2).err.startswith("error: any.yaml:")


def test_a_file_that_cannot_be_read_is_named(world: Kyoten, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing.yaml", "binary"):
        assert name in world("policy", "check", str(tmp_path / name), status=2).err


def test_another_tenants_policy_cannot_be_written(world: Kyoten, policy: Path) -> None:
    refused = world("--tenant", "birch", "policy", "apply", str(policy), "--json", status=2)
    assert refused.error["problems"][0]["params"]["kind"] == "rules.wrong-tenant"
    assert world("policy", "history", "acme", "--json").document["policies"] == []


def test_a_policy_file_that_is_no_text_is_named_once(world: Kyoten, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"a\xff")
    assert world("policy", "check", "binary.yaml", "--json", status=2).error["params"] == {
        "path": "binary.yaml",
        "position": 2,
    }
    assert world("policy", "check", ".", status=2).err == "error: . cannot be read: Is a directory.\n"


def test_a_plan_says_what_would_open_and_an_application_what_is_open(world: Kyoten, policy: Path) -> None:
    assert "Would be open" in world("policy", "plan", str(policy)).out
    shown = world("policy", "apply", str(policy)).out
    assert "Open now" in shown and "Would" not in shown
