"""Who charon's process is: the one that was started, whatever it is called yet, or the one of the pid file."""

import os
import time
from pathlib import Path

import pytest

from linux import charon_process
from linux.charon_process import CharonProcess


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs, and has another name than charon: as every program has for a moment after its exec was told to have
    worked (fs/exec.c: files are closed before the name is set)."""
    path = tmp_path / "charon-systemd"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    monkeypatch.setattr(charon_process, "PROGRAM", path)
    return path


def _named(pid: int, name: str) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_one_that_was_started_is_there_whatever_its_name_is(tmp_path: Path, program: Path) -> None:
    process = CharonProcess(tmp_path / "run", "")
    assert process.begin()
    assert process.pid is not None
    _named(process.pid, "sleep")
    assert process.pid is not None
    assert not process.begin(), "it runs"
    # Another one only knows the pid file: that pid may be another program's by now.
    assert CharonProcess(tmp_path / "run", "").pid is None
    process.kill()
    assert process.pid is None


def test_one_that_has_ended_is_not_there(tmp_path: Path, program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 3\n")
    process = CharonProcess(tmp_path / "run", "")
    process.begin()
    deadline = time.monotonic() + 10
    while process.pid is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is None
    assert CharonProcess(tmp_path / "nowhere", "").pid is None
    (tmp_path / "run" / "charon.pid").write_text(str(os.getpid()))
    assert CharonProcess(tmp_path / "run", "").pid is None
