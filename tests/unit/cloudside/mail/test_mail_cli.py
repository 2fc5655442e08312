"""`kyoten mail`: tables for people, JSON for programs, errors that name the thing."""

import json

import pytest
from typer.testing import CliRunner

from cloudside.cli.mail import app
from cloudside.mail.model import Kind, NewMessage
from cloudside.mail.queue import Queue

NOW = 1_800_000_000.0


@pytest.fixture
async def arguments(tmp_path):
    configuration = tmp_path / "kyoten.toml"
    configuration.write_text(f'state_directory = "{tmp_path}"\n')
    queue = Queue(tmp_path / "mail", reserve_bytes=0)
    content = b"Subject: x\r\n\r\nbody\r\n"
    for number, subject in ((1, "[red]Fault 7"), (2, "故障")):
        await queue.accept(
            NewMessage(number, Kind.MAIL, "tokyo-1", "10.0.0.1", "p@x.test", ("a@x.test",), subject, content, NOW)
        )
    (attempt, *_) = await queue.claim(NOW, 1)
    await queue.delivered(attempt, NOW + 1, "250 OK")
    queue.close()
    return ["--config", str(configuration)]


def run(*words, language="C"):
    return CliRunner(env={"LC_ALL": language, "COLUMNS": "200"}).invoke(app, list(words))


def test_queue_for_people_and_programs(arguments):
    shown = run("queue", *arguments).output
    assert "tokyo-1" in shown and "queued 1" in shown and "delivered 1" in shown
    assert "配信待ち" in run("queue", *arguments, language="ja_JP.UTF-8").output
    document = json.loads(run("queue", *arguments, "--json").output)
    assert [entry["state"] for entry in document["waiting"]] == ["queued"]
    assert document["totals"] == {"delivered": 1, "queued": 1}


def test_trace_tells_the_story_and_shows_strangers_text_as_text(arguments):
    shown = run("trace", "0000000000000001", *arguments).output
    assert "[red]Fault 7" in shown and "250 OK" in shown
    stories = json.loads(run("trace", "tokyo-1", *arguments, "--json").output)
    assert sorted(story["entries"][0]["subject"] for story in stories) == ["[red]Fault 7", "故障"]


def test_nothing_found_and_no_queue_are_said_with_a_status(arguments, tmp_path):
    missing = run("trace", "nobody@x.test", *arguments)
    assert missing.exit_code == 2 and "nobody@x.test" in missing.stderr
    (tmp_path / "other.toml").write_text(f'state_directory = "{tmp_path / "other"}"\n')
    none = run("queue", "--config", str(tmp_path / "other.toml"), "--json")
    assert none.exit_code == 5 and json.loads(none.stderr)["error"] == "mail.no-queue"
