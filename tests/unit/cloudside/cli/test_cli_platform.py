"""The platform's file and grants at the command line."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudside.registry.database import Doorbell

Kyoten = Callable[..., Any]

ACME = "tenant: acme\nallow: [{name: all, from: tokyo-1, to: [web, osaka-1], services: [telnet-like, https]}]\n"
ACME += "services: {telnet-like: tcp/23}\n"
PLATFORM = "forbidden: tcp/23\nservers: {web: {offers: [https, http], opens: none}}\n"


@pytest.fixture
def files(world: Kyoten, tmp_path: Path) -> Path:
    (tmp_path / "acme.yaml").write_text(ACME)
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    world("policy", "apply", "acme.yaml")
    return tmp_path


def _services(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["destination"], row["service"]) for row in rows]


def test_a_platform_file_closes_for_all_tenants_and_holds_for_answers_and_later_policies(
    world: Kyoten, files: Path
) -> None:
    world("platform", "check", "platform.yaml")
    plan = world("platform", "plan", "platform.yaml", "--json").document
    assert _services(plan["closed"]) == [("osaka-1", "tcp/23"), ("web", "tcp/23")]
    assert world("platform", "history", "--json").document["platform-files"] == []
    with Doorbell(files, "gateway").listen() as bell:
        bell.setblocking(False)
        assert world("platform", "apply", "platform.yaml", "--json").document["version"] == 1
        assert bell.recv(1) == b"\0"
    assert world("platform", "show").out == PLATFORM
    blocked = world("why", "tokyo-1", "web", "tcp/23", "--json", status=1).document
    assert [one["key"] for one in blocked["reasons"]][:1] == ["rules.why-forbidden"]
    assert _services(world("reach", "tokyo-1", "--json").document["reach"]) == [
        ("osaka-1", "tcp/443"),
        ("web", "tcp/443"),
    ]
    (files / "acme.yaml").write_text("tenant: acme\nallow: [{from: tokyo-1, to: web, services: tcp/23}]\n")
    refused = world("policy", "check", "acme.yaml", "--json", status=2).error
    assert refused["problems"][0]["params"]["kind"] == "rules.service-forbidden"


def test_a_platform_file_that_opens_much_needs_a_yes(world: Kyoten, files: Path) -> None:
    with (files / "kyoten.toml").open("a") as stream:
        stream.write("[policy]\nacknowledge_above_pairs = 1\n")
    world("platform", "apply", "platform.yaml")
    (files / "platform.yaml").write_text("forbidden: tcp/445\n")
    refused = world("platform", "apply", "platform.yaml", "--json", status=3).error
    assert (refused["key"], refused["params"]["pairs"]) == ("cli.plan-needs-yes", 2)
    code = world("platform", "plan", "platform.yaml", "--json").document["gate"]["code"]
    assert world("platform", "apply", "platform.yaml", "--acknowledge", code, "--json").document["version"] == 2
    world("platform", "rollback")
    assert world("platform", "show").out == PLATFORM
    refused = world("platform", "rollback", "--to", "2", status=3).err
    assert "kyoten platform rollback --to 2 --plan" in refused
    assert [row["version"] for row in world("platform", "history", "--json").document["platform-files"]] == [3, 2, 1]
    world("platform", "rollback", "--to", "3", status=2)
    world("platform", "rollback", "--to", "8", status=2)


def test_every_problem_of_a_platform_file_is_told_and_what_policies_suffer(world: Kyoten, files: Path) -> None:
    (files / "platform.yaml").write_text("forbiden: tcp/23\nservers: {weeb: {}}\n")
    for verb in ("check", "plan", "apply"):
        lines = world("platform", verb, "platform.yaml", status=2).err.splitlines()
        assert [line.split(": ")[1] for line in lines] == ["platform.yaml:1:1", "platform.yaml:2:11"]
    (files / "platform.yaml").write_text("services: {telnet-like: udp/23}\n")
    told = world("platform", "plan", "platform.yaml", "--json").document["problems"]
    assert [one["key"] for one in told] == ["rules.service-built-in"]
    assert "! acme.yaml:" in world("platform", "plan", "platform.yaml").out


def test_the_platform_is_no_tenants_business(world: Kyoten, files: Path) -> None:
    for verb in (["check", "platform.yaml"], ["plan", "platform.yaml"], ["apply", "platform.yaml"], ["history"]):
        world("--tenant", "acme", "platform", *verb, status=3)
    for verb in (["show"], ["rollback"]):
        world("--tenant", "acme", "platform", *verb, status=3)
        world("platform", *verb, status=2)  # there is none


def test_a_shared_server_that_is_gone_from_under_the_platforms_file_is_no_tenants_fault(
    world: Kyoten, files: Path
) -> None:
    world("server", "add", "portal", "10.255.0.11")
    (files / "platform.yaml").write_text("servers: {portal: {opens: none}}\n")
    world("platform", "apply", "platform.yaml")
    world("server", "remove", "portal")
    world("policy", "plan", "acme.yaml")
    (files / "platform.yaml").write_text("tenant: acme\nallow: [{from: tokyo-1, to: portal, services: ssh}]\n")
    assert "portal" in world("policy", "plan", "platform.yaml", status=2).err


# -- grants -----------------------------------------------------------------------------------------------------------

VISIT = ["grant", "add", "osaka-1", "tokyo-1/plc", "ssh", "tcp/443", "--reason", "Visit of Sato"]


def test_a_grant_is_kept_listed_and_ended(world: Kyoten, tmp_path: Path) -> None:
    assert "no grants" in world("grant", "list").out
    with Doorbell(tmp_path, "gateway").listen() as bell:
        bell.setblocking(False)
        kept = world(*VISIT, "--for", "1d2h30m", "--json").document
        assert bell.recv(1) == b"\0"
        assert (kept["tenant"], kept["services"], kept["state"]) == ("acme", "ssh, tcp/443", "holds")
        assert world("grant", "list", "--json").document["grants"] == [kept]
        assert world("--tenant", "birch", "grant", "list", "--json").document["grants"] == []
        world("--tenant", "birch", "grant", "end", kept["grant"], status=2)
        assert world("grant", "end", kept["grant"], "--json").document["state"] == "ended"
        assert bell.recv(1) == b"\0"
    assert world("grant", "list", "--json").document["grants"] == []
    assert [one["state"] for one in world("grant", "list", "--all", "--json").document["grants"]] == ["ended"]
    assert "over already" in world("grant", "end", kept["grant"]).out


def test_a_grant_can_begin_later(world: Kyoten) -> None:
    assert world(*VISIT, "--for", "2h", "--from", "2099-01-01 08:00", "--json").document["state"] == "waiting"
    world(*VISIT, "--for", "2h", "--from", "2001-01-01 08:00", status=2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["osaka-1", "tokyo-1/pcl", "ssh", "--for", "2h", "--reason", "x"], "tokyo-1/plc"),
        (["osaka-1", "kobe-1", "ssh", "--for", "2h", "--reason", "x"], "osaka-1"),
        (["osaka-1", "tokyo-1", "shh", "--for", "2h", "--reason", "x"], "ssh"),
        (["osaka-1", "tokyo-1", "ssh", "--for", "8d", "--reason", "x"], "7 days"),
        (["osaka-1", "tokyo-1", "ssh", "--for", "soon", "--reason", "x"], "soon"),
        (["osaka-1", "tokyo-1", "ssh", "--for", "0h", "--reason", "x"], "0h"),
        (["osaka-1", "tokyo-1", "ssh", "--for", "2h", "--reason", " "], "reason"),
        (["osaka-1", "tokyo-1", "ssh", "--for", "2h", "--reason", "x", "--from", "today"], "today"),
        (["web", "web", "ssh", "--for", "2h", "--reason", "x"], "--tenant"),
    ],
)
def test_a_wrong_grant_is_told_and_not_kept(world: Kyoten, arguments: list[str], named: str) -> None:
    assert named in world("grant", "add", *arguments, status=2).err
    assert world("grant", "list", "--all", "--json").document["grants"] == []


def test_the_platform_stands_above_grants(world: Kyoten, files: Path) -> None:
    world("platform", "apply", "platform.yaml")
    refused = world("grant", "add", "tokyo-1", "web", "tcp/23", "--for", "1h", "--reason", "x", "--json", status=2)
    assert refused.error["key"] == "cli.grant-forbidden"
    with sqlite3.connect(files / "state" / "registry.sqlite") as registry:
        assert registry.execute("SELECT count(*) FROM grants").fetchone() == (0,)
    registry.close()
