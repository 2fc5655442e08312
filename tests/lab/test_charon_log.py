"""charon's log does not grow without end: it is set aside and charon goes on in a new file, its state untouched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import box
from lab.network import wait_until
from linux import charon_process
from linux.charon import Charon
from linux.charon_process import CharonProcess, socket_path, strongswan_conf
from linux.dataplane import Dataplane

CONNECTION = {"version": "2", "local": {"auth": "psk"}, "remote": {"auth": "psk"}}


@pytest.fixture
def directory() -> Iterator[Path]:
    place = box.directory() / "charon-log"
    process = CharonProcess(place, strongswan_conf(place, Dataplane.USERLAND, {}))
    process.ensure()
    yield place
    process.stop()


def test_a_log_past_its_size_is_set_aside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = CharonProcess(directory, "")
    charon = Charon(socket_path(directory))
    charon.load_connection("kept", CONNECTION)
    assert not process.set_log_aside(), "far from full"
    monkeypatch.setattr(charon_process, "LOG_MAX_BYTES", 10)
    pid = process.pid
    assert process.set_log_aside()
    charon.reopen_log()
    charon.load_connection("after", CONNECTION)
    log = directory / "charon.log"
    wait_until("the new log is written to", lambda: log.exists() and "after" in log.read_text(), timeout_s=5)
    assert "kept" in (directory / "charon.log.1").read_text()
    assert (process.pid, charon.connection_names()) == (pid, ("kept", "after"))
    charon.close()
