"""What people read: both languages have the same keys and parameters; the command says what is wrong and what to do."""

import re
import string
from pathlib import Path

import polib
import pytest

from router_agent import cli, messages
from router_agent.problems import EVENT_KEPT_S, Problem, ProblemBoard

ROOT = Path(__file__).parents[3]


def cloud_texts(language: str) -> dict[str, str]:
    path = ROOT / "cloudside" / "messages" / "locale" / language / "agent.po"
    return {entry.msgid: entry.msgstr for entry in polib.pofile(str(path))}


def parameters(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("texts", [messages.catalogue, cloud_texts])
def test_both_languages_have_the_same_keys_and_parameters(texts: object) -> None:
    english, japanese = texts("en"), texts("ja")  # type: ignore[operator]
    assert set(english) == set(japanese)
    assert [key for key in english if parameters(english[key]) != parameters(japanese[key])] == []
    assert [key for key in japanese if japanese[key] == english[key]] == []


def test_every_key_that_the_agent_reports_has_a_text_and_every_text_is_reported() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "router_agent").rglob("*.py"))
    used = set(re.findall(r'"(agent\.[a-z-]+)"', sources)) - {"agent.log", "agent.lock", "agent.alive"}
    assert used == set(cloud_texts("en"))


def test_every_key_of_the_command_has_a_text() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "router_agent").rglob("*.py"))
    used = set(re.findall(r'"(agent-cli\.[a-z-]*[a-z])"', sources)) - {"agent-cli.po"}
    assert used - set(messages.catalogue("en")) == set()


def test_the_language_is_the_terminals() -> None:
    assert messages.preferred_language({"LANG": "ja_JP.UTF-8"}) == "ja"
    assert messages.preferred_language({"LC_ALL": "C", "LANG": "ja_JP.UTF-8"}) == "en"
    assert messages.text("agent-cli.unheard-of", {"a": 1}) == "agent-cli.unheard-of a=1"


def test_a_bundle_that_is_none_is_told_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle").write_bytes(b"junk")
    assert cli.main(["install", str(tmp_path / "bundle"), "--state", str(tmp_path / "state")]) == cli.EXIT_INPUT
    assert "tar archive" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
    assert cli.main(["install", str(tmp_path / "none"), "--state", str(tmp_path)]) == cli.EXIT_INPUT


def test_status_without_an_agent_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--runtime", str(tmp_path)]) == cli.EXIT_CONFIGURATION
    assert str(tmp_path) in capsys.readouterr().err


def test_standing_problems_stay_and_events_fade() -> None:
    board = ProblemBoard()
    standing, event = Problem("agent.no-uplink"), Problem("agent.firewall-repaired")
    assert board.set("tunnel", standing)
    assert not board.set("tunnel", standing), "no news"
    board.note("firewall", event, now=0)
    assert board.current(now=1) == (standing, event)
    assert board.current(now=EVENT_KEPT_S + 1) == (standing,)
    assert board.set("tunnel")
    assert board.current(now=EVENT_KEPT_S + 1) == ()
