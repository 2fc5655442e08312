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


# -- the gate ---------------------------------------------------------------------------------------------------------

OPEN = "tenant: acme\nallow: [{from: [tokyo-1, osaka-1], to: [tokyo-1, osaka-1, web], services: %s}]\n"


@pytest.fixture
def careful(world: Kyoten, tmp_path: Path) -> Kyoten:
    """Where more than two pairs need a yes."""
    with (tmp_path / "kyoten.toml").open("a") as stream:
        stream.write("[policy]\nacknowledge_above_pairs = 2\n")
    return world


def test_a_file_that_is_in_force_makes_no_new_version(world: Kyoten, policy: Path) -> None:
    assert world("policy", "apply", str(policy), "--json").document["version"] == 1
    again = world("policy", "apply", str(policy), "--json").document
    assert (again["version"], again["unchanged"]) == (1, True)
    assert len(world("policy", "history", "acme", "--json").document["policies"]) == 1


def test_a_plan_that_opens_many_pairs_passes_only_with_its_own_code(careful: Kyoten, policy: Path) -> None:
    policy.write_text(OPEN % "ssh")
    refused = careful("policy", "apply", str(policy), status=3).err
    assert "4 pair(s)" in refused and "osaka-1 → tokyo-1" in refused and "kyoten policy plan" in refused
    shown = careful("policy", "plan", str(policy)).out
    gate = careful("policy", "plan", str(policy), "--json").document["gate"]
    assert (gate["needs_acknowledgement"], gate["pairs"], gate["limit"]) == (True, 4, 2)
    assert gate["code"] in shown and gate["code"] not in refused
    assert careful("policy", "apply", str(policy), "--acknowledge", "aaaa-aaaa", "--json", status=3).error["key"] == (
        "cli.plan-is-another"
    )
    assert careful("policy", "history", "acme", "--json").document["policies"] == []
    careful("policy", "apply", str(policy), "--acknowledge", gate["code"].upper())
    careful("policy", "apply", str(policy), "--acknowledge", gate["code"], status=3)  # it was against no version
    assert len(careful("policy", "history", "acme", "--json").document["policies"]) == 1


def test_a_code_is_worth_nothing_once_the_world_changed(careful: Kyoten, policy: Path) -> None:
    policy.write_text(OPEN % "ssh")
    code = careful("policy", "plan", str(policy), "--json").document["gate"]["code"]
    policy.write_text(OPEN % "rdp")
    assert careful("policy", "apply", str(policy), "--acknowledge", code, "--json", status=3).error["key"] == (
        "cli.plan-is-another"
    )
    policy.write_text(OPEN % "ssh")
    careful("site", "phase", "osaka-1", "retired")
    careful("policy", "apply", str(policy), "--acknowledge", code, status=2)  # the site is unknown now
    assert careful("policy", "history", "acme", "--json").document["policies"] == []


def test_everything_open_needs_a_yes_however_few_it_concerns(world: Kyoten, policy: Path) -> None:
    policy.write_text(OPEN % "any")
    refused = world("policy", "apply", str(policy), "--json", status=3).error
    assert (refused["key"], refused["params"]["crossed"]) == ("cli.plan-needs-yes", "rules.gate-all-open")
    gate = world("policy", "plan", str(policy), "--json").document["gate"]
    assert [one["key"] for one in gate["crossed"]] == ["rules.gate-all-open"]
    world("policy", "apply", str(policy), "--acknowledge", gate["code"])


# -- rollback and diff ------------------------------------------------------------------------------------------------


def test_rolling_back_is_a_new_version_with_the_old_text(world: Kyoten, policy: Path) -> None:
    world("policy", "apply", str(policy))
    policy.write_text(GOOD.replace("tcp/443, ping", "tcp/80"))
    world("policy", "apply", str(policy))
    plan = world("policy", "rollback", "acme", "--plan", "--json").document
    assert ([row["service"] for row in plan["closed"]], plan["again"], plan["version"]) == (["tcp/80"], 1, None)
    done = world("policy", "rollback", "acme", "--json").document
    assert (done["version"], [row["service"] for row in done["opened"]]) == (3, ["icmp/8/0", "tcp/443"])
    assert world("policy", "show", "acme").out == GOOD
    assert [row["version"] for row in world("policy", "history", "acme", "--json").document["policies"]] == [3, 2, 1]
    world("policy", "rollback", "acme", "--to", "3", status=2)
    world("policy", "rollback", "acme", "--to", "9", status=2)
    world("policy", "rollback", "birch", status=2)
    assert world("--tenant", "birch", "policy", "rollback", "acme", "--json", status=2).error["key"] == (
        "registry.unknown-tenant"
    )


def test_rolling_back_passes_the_checks_and_the_gate(careful: Kyoten, policy: Path) -> None:
    policy.write_text(OPEN % "ssh")
    code = careful("policy", "plan", str(policy), "--json").document["gate"]["code"]
    careful("policy", "apply", str(policy), "--acknowledge", code)
    policy.write_text(GOOD)
    careful("policy", "apply", str(policy))
    refused = careful("policy", "rollback", "acme", status=3).err
    assert "kyoten policy rollback acme --to 1 --plan" in refused
    code = careful("policy", "rollback", "acme", "--plan", "--json").document["gate"]["code"]
    careful("policy", "rollback", "acme", "--acknowledge", code)
    careful("site", "phase", "osaka-1", "retired")
    careful("policy", "apply", str(policy))
    assert "osaka-1" in careful("policy", "rollback", "acme", status=2).err


def test_a_difference_between_versions_or_with_a_file_is_behaviour(world: Kyoten, policy: Path) -> None:
    world("policy", "apply", str(policy))
    policy.write_text("# another text, the same behaviour\n" + GOOD)
    world("policy", "apply", str(policy))
    policy.write_text(GOOD.replace("tcp/443, ping", "tcp/80"))

    def changed(*arguments: str) -> tuple[list[str], list[str]]:
        shown = world("policy", "diff", "acme", *arguments, "--json").document
        return [row["service"] for row in shown["opened"]], [row["service"] for row in shown["closed"]]

    assert changed() == ([], [])
    assert changed("--from", "0", "--to", "1") == (["icmp/8/0", "tcp/443"], [])
    assert changed("--from", "2", "--file", str(policy)) == (["tcp/80"], ["icmp/8/0", "tcp/443"])
    assert changed("--file", str(policy)) == (["tcp/80"], ["icmp/8/0", "tcp/443"])
    assert "Open in 1, not in - (+)" in world("policy", "diff", "acme", "--from", "0", "--to", "1").out
    world("policy", "diff", "acme", "--to", "7", status=2)
    world("policy", "diff", "acme", "--to", "1", "--file", str(policy), status=2)
    world("policy", "diff", "birch", "--file", str(policy), status=2)
    world("site", "phase", "tokyo-1", "retired")
    told = world("policy", "diff", "acme", "--from", "0", "--to", "2", "--json").document
    assert told["opened"] == [] and "tokyo-1" in told["problems"][0]


def test_what_opens_at_another_time_is_told_and_counted(careful: Kyoten, policy: Path) -> None:
    later = "{from: [tokyo-1, osaka-1], to: web, services: ssh, valid: {from: 2099-01-01, zone: UTC}}"
    policy.write_text(GOOD + f"  - {later}\n")
    plan = careful("policy", "plan", str(policy), "--json").document
    assert plan["later"] == [{"source": "osaka-1", "destination": "web"}]
    assert plan["gate"]["pairs"] == 2
    assert "1 more pair(s)" in careful("policy", "plan", str(policy)).out


def test_a_policy_that_breaks_its_own_expectations_is_refused(world: Kyoten, policy: Path) -> None:
    policy.write_text(GOOD + "expect:\n  - tokyo-1 can reach web https\n  - osaka-1 can reach web https\n")
    for verb in ("check", "plan", "apply"):
        told = world("policy", verb, str(policy), "--json", status=2).error["problems"]
        assert {(one["params"]["kind"], one["params"]["line"]) for one in told} >= {("rules.expectation-blocked", 9)}
    assert world("policy", "history", "acme", "--json").document["policies"] == []
    policy.write_text(GOOD + "expect:\n  - tokyo-1 can reach web https\n  - osaka-1 cannot reach web https\n")
    world("policy", "apply", str(policy))


def test_a_check_gives_advice_about_what_says_nothing(world: Kyoten, policy: Path) -> None:
    assert world("policy", "check", str(policy), "--json").document["advice"] == []
    policy.write_text(GOOD + "groups: {unused: [tokyo-1]}\n")
    shown = world("policy", "check", str(policy))
    assert shown.out.startswith("advice: acme.yaml:7:") and "is good" in shown.out
    advice = world("policy", "check", str(policy), "--json").document["advice"]
    assert [one["place"].split(":")[1] for one in advice] == ["7"]
