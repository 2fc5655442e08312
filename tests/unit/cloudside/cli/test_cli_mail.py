"""`kyoten mail` that reads: for people and programs, errors as everywhere, each tenant its own mail only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mailed_queue import fill

from cloudside.cli import mail
from cloudside.messages import LANGUAGES, catalogue

Kyoten = Callable[..., Any]
ACME, BIRCH = ("--tenant", "acme"), ("--tenant", "birch")


@pytest.fixture
def mailed(world: Kyoten, tmp_path: Path) -> Kyoten:
    fill(tmp_path / "state" / "mail")
    return world


def numbers(entries: Any) -> list[int]:
    return sorted({int(entry["message"], 16) for entry in entries})


def test_queue_for_people_and_programs(mailed: Kyoten, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = mailed("mail", "queue").out
    assert "tokyo-1" in shown and "queued 4" in shown and "delivered 1" in shown and "held 1" in shown
    assert "\x1b" not in shown
    for words in (("--json", "mail", "queue"), ("mail", "queue", "--json")):
        document = mailed(*words).document
        assert [entry["state"] for entry in document["waiting"]] == ["queued", "queued", "queued", "held", "queued"]
        assert document["totals"] == {"delivered": 1, "queued": 4, "held": 1}
        assert document["more"] is False
    document = mailed("mail", "queue", "--json", "--most", "2").document
    assert (len(document["waiting"]), document["more"]) == (2, True)
    assert "first 2" in mailed("mail", "queue", "--most", "2").out
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    assert "配信待ち" in mailed("mail", "queue").out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), [2, 3, 4, 5]),
        (("tokyo-1",), [2]),
        (("--site", "tokyo-1", "--site", "osaka-1"), [2, 4]),
        (("tokyo-1", "kobe-1"), [2, 3]),
        (("server/web",), [5]),
        (("--device", "plc-2"), [2]),
        (("--device", "10.1.0.9"), [3]),
        (("--tenant", "acme"), [2, 4]),
        (("--tenant", "acme", "--site", "kobe-1"), []),
        (("B@X.test",), [2]),
        (("--address", "p@x.test"), [2, 3, 4, 5]),
        (("--state", "held"), [4]),
        (("--state", "DELIVERED", "--state", "held"), [1, 4]),
        (("--since", "2027-01-15 10:00"), [3, 4, 5]),
        (("--until", "2027-01-15 10:00"), [2]),
        (("--since", "2027-01-15 09:00", "--until", "2027-01-15T11:00"), [2, 3]),
        (("0000000000000002", "0000000000000003"), [2, 3]),
        (("0000000000000002", "kobe-1"), []),
    ],
)
def test_all_that_is_given_must_fit(mailed: Kyoten, words: tuple[str, ...], found: list[int]) -> None:
    assert numbers(mailed("mail", "queue", *words, "--json").document["waiting"]) == found


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("--state", "lost"), "cli.bad-mail-state"),
        (("--since", "yesterday"), "cli.bad-moment-or-ago"),
        (("a@x.test", "b@x.test"), "cli.mail-one-address"),
        (("a@x.test", "--address", "b@x.test"), "cli.mail-one-address"),
        (("--tenant", "acmee"), "registry.unknown-tenant"),
    ],
)
def test_what_cannot_be_read_is_said(mailed: Kyoten, words: tuple[str, ...], key: str) -> None:
    for command in ("queue", "trace"):
        assert mailed("mail", command, *words, "--json", status=2).error["key"] == key


def test_trace_tells_the_story_and_shows_strangers_text_as_text(mailed: Kyoten) -> None:
    shown = mailed("mail", "trace", "0000000000000001").out
    assert "[red]Fault 7" in shown and "250 OK" in shown
    stories = mailed("mail", "trace", "tokyo-1", "--json").document
    assert [story["entries"][0]["subject"] for story in stories] == ["故障\x1b[2J", "[red]Fault 7"]
    assert mailed("mail", "trace", "--json", status=2).error["key"] == "cli.mail-what"


def test_show_tells_where_each_recipient_stands(mailed: Kyoten) -> None:
    document = mailed("mail", "show", "0000000000000002", "--json").document
    assert (document["site"], document["tenant"], document["device"]) == ("tokyo-1", "acme", "plc-2")
    assert [entry["recipient"] for entry in document["recipients"]] == ["a@x.test", "b@x.test"]
    shown = mailed("mail", "show", "0000000000000001").out
    assert "ses-id-1" in shown and "[red]Fault 7" in shown
    assert mailed("mail", "show", "12", "--json", status=2).error["key"] == "cli.bad-message-id"
    assert mailed("mail", "show", "00000000000000ff", "--json", status=2).error["key"] == "mail.nothing-found"


def test_a_tenant_sees_its_own_mail_only(mailed: Kyoten) -> None:
    document = mailed(*BIRCH, "mail", "queue", "--json").document
    assert [entry["origin"] for entry in document["waiting"]] == ["kobe-1"]
    assert document["totals"] == {}
    (story,) = mailed(*BIRCH, "mail", "trace", "a@x.test", "--json").document
    assert story["entries"][0]["origin"] == "kobe-1"
    for theirs in ("tokyo-1", "server/web", "0000000000000001", "nobody@x.test"):
        error = mailed(*BIRCH, "mail", "trace", theirs, "--json", status=2).error
        assert (error["key"], error["params"]) == ("mail.nothing-found", {"what": theirs})
    for message in ("0000000000000001", "0000000000000005", "00000000000000ff"):
        assert mailed(*BIRCH, "mail", "show", message, "--json", status=2).error["key"] == "mail.nothing-found"
    assert mailed(*BIRCH, "mail", "queue", "--tenant", "acme", "--json", status=2).error["key"] == (
        "registry.unknown-tenant"
    )
    assert numbers(mailed(*ACME, "mail", "queue", "--json").document["waiting"]) == [2, 4]


def test_nothing_found_is_said_as_every_error(mailed: Kyoten) -> None:
    assert mailed("mail", "trace", "nobody@x.test", status=2).err.startswith("error: No message matches nobody@x.test")


def test_no_queue_is_said_as_every_error(world: Kyoten) -> None:
    assert world("mail", "queue", "--json", status=5).error["key"] == "mail.no-queue"


def test_every_column_has_a_heading() -> None:
    columns = {*mail._COLUMNS, *mail._RECIPIENT_COLUMNS, *mail._STORY_COLUMNS}
    for language in LANGUAGES:
        assert {f"mail.column-{name}" for name in columns} - catalogue(language).keys() == set()
