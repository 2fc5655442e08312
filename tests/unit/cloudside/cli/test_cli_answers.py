"""Questions at the command line: why, reach, who-can-reach; and whose answers they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kyoten = Callable[..., Any]

ACME = """\
tenant: acme
allow:
  - name: readings
    from: tokyo-1
    to: web
    services: [tcp/443, ping]
    valid: {from: 2026-01-01, zone: Asia/Tokyo}
  - {name: past, from: osaka-1, to: web, services: ssh, valid: {until: 2026-01-01, zone: UTC}}
  - {name: plc, from: web, to: tokyo-1/plc, services: modbus-tcp}
"""
BIRCH = "tenant: birch\nallow: [{name: b, from: kobe-1, to: web, services: http}]\n"


@pytest.fixture
def asked(world: Kyoten, tmp_path: Path) -> Kyoten:
    for name, text in (("acme", ACME), ("birch", BIRCH)):
        (tmp_path / f"{name}.yaml").write_text(text)
        world("policy", "apply", f"{name}.yaml")
    return world


def test_why_names_the_statement_with_author_time_and_validity(asked: Kyoten, tmp_path: Path) -> None:
    yes = asked("why", "tokyo-1/plc", "web", "tcp/443", "--json").document
    assert (yes["allowed"], [one["statement"] for one in yes["statements"]]) == (True, ["acme/readings"])
    found = yes["statements"][0]
    assert (found["author"], found["version"], found["exact"]) == ("alice", 1, True)
    assert found["valid"] == "from 2026-01-01 00:00"
    assert found["applied"].startswith("20")
    assert "alice" in asked("why", "tokyo-1", "web", "ping").out


def test_an_author_is_the_one_of_the_version_since_which_it_stands_unchanged(
    asked: Kyoten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for author, text in (
        ("bob", ACME.replace("tcp/443", "tcp/444")),
        ("carol", ACME + "# moved\n"),
        ("dave", "\n" + ACME.replace("modbus-tcp", "ssh")),
    ):
        monkeypatch.setenv("SUDO_USER", author)
        (tmp_path / "acme.yaml").write_text(text)
        asked("policy", "apply", "acme.yaml")
    wrote = asked("why", "tokyo-1", "web", "tcp/443", "--json").document["statements"][0]
    assert (wrote["author"], wrote["version"]) == ("carol", 3)
    wrote = asked("why", "web", "tokyo-1/plc", "ssh", "--json").document["statements"][0]
    assert (wrote["author"], wrote["version"]) == ("dave", 4)


def test_an_old_author_is_looked_for_no_further_than_an_answer_may_take(
    asked: Kyoten, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudside.cli.authorship.READ_MAX_CHARS", 10)
    Path("acme.yaml").write_text(ACME + "# again\n")
    asked("policy", "apply", "acme.yaml")
    wrote = asked("why", "tokyo-1", "web", "ping", "--json").document["statements"][0]
    assert (wrote["version"], wrote["exact"]) == (2, False)


def test_why_answers_with_all_that_is_in_the_way(asked: Kyoten) -> None:
    no = asked("why", "osaka-1", "web", "tcp/443", "--json", status=1).document
    assert (no["allowed"], no["statements"]) == (False, [])
    assert [one["key"] for one in no["reasons"]] == ["rules.why-no-statement"]
    assert "{from: osaka-1, to: web, services: tcp/443}" in no["reasons"][0]["text"]
    assert [one["key"] for one in asked("why", "osaka-1", "web", "ssh", "--json", status=1).document["reasons"]] == [
        "rules.why-no-longer"
    ]
    assert asked("why", "tokyo-1", "kobe-1", "ping", status=1).out.startswith("NO")
    assert "tokyo-1" in asked("why", "tokio-1", "web", "ping", status=2).err
    assert "http" in asked("why", "tokyo-1", "web", "htp", status=2).err


def test_why_goes_on_behind_a_site_that_is_out_of_service(asked: Kyoten) -> None:
    asked("site", "phase", "tokyo-1", "retired")
    asked("site", "revoke", "osaka-1", "--yes")

    def keys(*question: str) -> list[str]:
        return [one["key"] for one in asked("why", *question, "--json", status=1).document["reasons"]]

    assert keys("tokyo-1", "web", "ping") == ["rules.why-site-retired"]
    assert keys("tokyo-1/plc", "web", "http") == ["rules.why-site-retired", "rules.why-other-services"]
    assert keys("osaka-1", "web", "http") == ["rules.why-site-revoked", "rules.why-no-statement"]


def test_reach_has_everything_that_may_be_opened(asked: Kyoten) -> None:
    rows = asked("reach", "tokyo-1", "--json").document["reach"]
    assert [(row["source"], row["destination"], row["service"]) for row in rows] == [
        ("tokyo-1", "web", "icmp/8/0"),
        ("tokyo-1", "web", "tcp/443"),
    ]
    shown = asked("reach", "tokyo-1/plc").out
    assert "icmp/8/0, tcp/443" in shown and "web" in shown
    assert [row["destination"] for row in asked("reach", "web", "--json").document["reach"]] == ["tokyo-1/plc"]
    assert (
        asked("reach", "10.255.0.10", "--json").document["reach"] == asked("reach", "web", "--json").document["reach"]
    )


def test_who_can_reach_has_everyone_of_every_tenant_for_an_operator(asked: Kyoten) -> None:
    def who(*arguments: str) -> list[tuple[str, str]]:
        rows = asked(*arguments, "--json").document["reach"]
        return [(row["source"], row["service"]) for row in rows]

    assert who("who-can-reach", "web") == [("kobe-1", "tcp/80"), ("tokyo-1", "icmp/8/0"), ("tokyo-1", "tcp/443")]
    assert who("who-can-reach", "web", "tcp/1-100") == [("kobe-1", "tcp/80")]
    assert who("--tenant", "acme", "who-can-reach", "web") == [("tokyo-1", "icmp/8/0"), ("tokyo-1", "tcp/443")]


def test_grants_are_named_where_they_let_something_pass(asked: Kyoten) -> None:
    def add(*arguments: str) -> str:
        return str(asked("grant", "add", *arguments, "--for", "2h", "--reason", "visit", "--json").document["grant"])

    visit = add("tokyo-1/plc", "web", "ssh")
    add("kobe-1", "web", "rdp")
    yes = asked("why", "tokyo-1/plc", "web", "ssh", "--json").document
    assert (yes["allowed"], yes["statements"], yes["reasons"]) == (True, [], [])
    assert [(one["grant"], one["service"]) for one in yes["grants"]] == [(visit, "tcp/22")]
    no = asked("why", "tokyo-1", "web", "ssh", "--json", status=1).document
    assert [one["key"] for one in no["reasons"]] == ["rules.why-other-services"]
    assert visit in asked("why", "tokyo-1/plc", "web", "ssh").out
    assert asked("why", "tokyo-1/plc", "web", "tcp/443", "--json").document["grants"] == []

    rows = asked("reach", "tokyo-1", "--json").document["grants"]
    assert [(one["source"], one["destination"], one["service"]) for one in rows] == [("tokyo-1/plc", "web", "tcp/22")]
    assert rows[0]["ends"].startswith("20")
    shown = asked("who-can-reach", "web", "ssh").out
    assert visit in shown and "kobe-1" not in shown and not shown.startswith("Nobody")
    everyone = asked("who-can-reach", "web", "--json").document["grants"]
    assert {one["source"] for one in everyone} == {"tokyo-1/plc", "kobe-1"}
    own = asked("--tenant", "acme", "who-can-reach", "web", "--json").document["grants"]
    assert {one["source"] for one in own} == {"tokyo-1/plc"}

    asked("grant", "end", visit)
    assert asked("reach", "tokyo-1", "--json").document["grants"] == []
    assert asked("why", "tokyo-1/plc", "web", "ssh", "--json", status=1).document["grants"] == []


def test_nothing_is_an_answer_too(asked: Kyoten) -> None:
    assert asked("reach", "osaka-1").out.startswith("osaka-1 may open nothing")
    assert asked("reach", "osaka-1", "--json").document == {"source": "osaka-1", "reach": [], "grants": []}
    assert asked("who-can-reach", "osaka-1", "ssh").out.startswith("Nobody may open ssh towards osaka-1")
    asked("site", "phase", "tokyo-1", "retired")
    assert "revoked or retired" in asked("reach", "tokyo-1").out


@pytest.mark.parametrize("verb", ["reach", "who-can-reach"])
def test_another_tenants_name_is_as_unknown_as_nobodys(asked: Kyoten, verb: str) -> None:
    foreign = asked("--tenant", "acme", verb, "kobe-1", "--json", status=2).error
    nobodys = asked("--tenant", "acme", verb, "kobe-7", "--json", status=2).error
    assert (foreign["key"], nobodys["key"]) == ("rules.unknown-end", "rules.unknown-end")
    assert foreign["text"].replace("kobe-1", "kobe-7") == nobodys["text"]
    assert asked("--tenant", "acme", "why", "tokyo-1", "kobe-1", "ping", "--json", status=2).error["key"] == (
        "rules.unknown-end"
    )
    address = next(row for row in asked("site", "list", "--json").document["sites"] if row["site"] == "kobe-1")
    inside = str(address["overlay"]).replace("0/24", "7")
    assert asked("--tenant", "acme", verb, inside, "--json", status=2).error["key"] == "rules.unknown-address"
    assert asked(verb, inside, status=0).status == 0


def test_a_wrong_name_gets_a_suggestion_and_a_wrong_service_too(asked: Kyoten) -> None:
    assert "tokyo-1" in asked("reach", "tokio-1", status=2).err
    both = asked("who-can-reach", "weeb", "htp", "--json", status=2).error["problems"]
    assert {one["key"] for one in both} == {"rules.unknown-end-similar", "rules.unknown-service-similar"}
