"""`kyoten mail`: tables for people, JSON for programs, errors as everywhere, and each tenant its own mail only."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudside.mail.model import Kind, NewMessage
from cloudside.mail.store.queue import Queue

NOW = 1_800_000_000.0
Kyoten = Callable[..., Any]
CONTENT = b"Subject: x\r\n\r\nbody\r\n"
#: Message number, site, subject: the first is delivered, the others wait.
MAILS = ((1, "tokyo-1", "[red]Fault 7"), (2, "tokyo-1", "故障\x1b[2J"), (3, "kobe-1", "birch only"))


@pytest.fixture
def mailed(world: Kyoten, tmp_path: Path) -> Kyoten:
    async def fill() -> None:
        queue = Queue(tmp_path / "state" / "mail", reserve_bytes=0)
        for number, site, subject in MAILS:
            await queue.accept(
                NewMessage(number, Kind.MAIL, site, "10.0.0.1", "p@x.test", ("a@x.test",), subject, CONTENT, NOW)
            )
        (attempt, *_) = await queue.claim(NOW, 1)
        await queue.delivered(attempt, NOW + 1, "250 OK")
        queue.close()

    asyncio.run(fill())
    return world


def test_queue_for_people_and_programs(mailed: Kyoten, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = mailed("mail", "queue").out
    assert "tokyo-1" in shown and "queued 2" in shown and "delivered 1" in shown
    assert "\x1b" not in shown
    for words in (("--json", "mail", "queue"), ("mail", "queue", "--json")):
        document = mailed(*words).document
        assert [entry["state"] for entry in document["waiting"]] == ["queued", "queued"]
        assert document["totals"] == {"delivered": 1, "queued": 2}
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    assert "配信待ち" in mailed("mail", "queue").out


def test_trace_tells_the_story_and_shows_strangers_text_as_text(mailed: Kyoten) -> None:
    shown = mailed("mail", "trace", "0000000000000001").out
    assert "[red]Fault 7" in shown and "250 OK" in shown
    stories = mailed("mail", "trace", "tokyo-1", "--json").document
    assert sorted(story["entries"][0]["subject"] for story in stories) == ["[red]Fault 7", "故障\x1b[2J"]


def test_a_tenant_sees_its_own_mail_only(mailed: Kyoten) -> None:
    document = mailed("--tenant", "birch", "mail", "queue", "--json").document
    assert [entry["origin"] for entry in document["waiting"]] == ["kobe-1"]
    assert document["totals"] == {}
    (story,) = mailed("--tenant", "birch", "mail", "trace", "a@x.test", "--json").document
    assert story["entries"][0]["origin"] == "kobe-1"
    for theirs in ("tokyo-1", "0000000000000001", "nobody@x.test"):
        error = mailed("--tenant", "birch", "mail", "trace", theirs, "--json", status=2).error
        assert (error["key"], error["params"]) == ("mail.nothing-found", {"what": theirs})


def test_nothing_found_and_no_queue_are_said_as_every_error(mailed: Kyoten, world: Kyoten, tmp_path: Path) -> None:
    assert mailed("mail", "trace", "nobody@x.test", status=2).err.startswith("error: No message matches nobody@x.test")
    (tmp_path / "state" / "mail").rename(tmp_path / "away")
    assert world("mail", "queue", "--json", status=5).error["key"] == "mail.no-queue"
