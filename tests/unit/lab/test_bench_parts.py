"""A benchmark of hours goes on where it was ended, keeps what was measured when a part fails, and mixes no states."""

import json
import sys
from pathlib import Path

import pytest

from tests.bench import parts

BARS: parts.Bars = {"speed": (10, True), "size": (5, False)}
PARTS: parts.Parts = {"fast": ("a_module", 1), "small": ("another", "two")}


class Bench:
    """A benchmark whose parts are not processes; ``found`` is what they answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.found: dict[str, parts.Figures | str] = {"a_module": {"speed": 11}, "another": {"size": 4.56789}}
        self.state = "one"
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(parts, "KEPT", directory / "bench")
        monkeypatch.setattr(parts, "_state", lambda: self.state)
        monkeypatch.setattr(parts, "part", self._part)

    def _part(self, module: str, *arguments: object) -> parts.Figures:
        self.ran.append((module, *map(str, arguments)))
        found = self.found[module]
        if isinstance(found, str):
            raise SystemExit(found)
        return found

    def run(self, *words: str) -> int:
        """With these words of the command line."""
        self.ran.clear()
        self._monkeypatch.setattr(sys, "argv", ["bench", *words])
        return parts.measure("bench thing", BARS, PARTS)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def last_line(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_all_parts_end_in_one_line(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run() == 0
    assert bench.ran == [("a_module", "1"), ("another", "two")]
    assert last_line(capsys) == {"speed": 11, "size": 4.5679}


def test_one_that_fails_does_not_end_the_others_and_is_all_that_a_second_run_measures(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.found["a_module"] = "a_module ended with 3"
    assert bench.run() == 1
    said = capsys.readouterr()
    assert "parts that failed: fast" in said.out and "ended with 3" in said.err
    assert json.loads(said.out.splitlines()[-1]) == {"size": 4.5679}
    bench.found["a_module"] = {"speed": 12}
    assert bench.run("--resume") == 0
    assert bench.ran == [("a_module", "1")]
    assert last_line(capsys) == {"speed": 12, "size": 4.5679}
    assert bench.run("--resume") == 0
    assert bench.ran == []


def test_figures_of_another_state_are_measured_again(bench: Bench) -> None:
    bench.run()
    bench.state = "two"
    bench.run("--resume")
    assert len(bench.ran) == len(PARTS)


def test_parts_that_were_run_by_themselves_count(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("--only", "small") == 0
    assert last_line(capsys) == {"size": 4.5679}
    bench.run("--resume")
    assert bench.ran == [("a_module", "1")]


def test_a_run_without_the_word_begins_anew(bench: Bench) -> None:
    bench.run()
    bench.run()
    assert len(bench.ran) == len(PARTS)


def test_a_missed_bar_and_a_wrong_name_are_told(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.found["another"] = {"size": 6}
    assert bench.run() == 1
    assert "bars missed: size" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.run("--only", "other")
    assert "other" in capsys.readouterr().err
