"""The supervisor: starts again what ends, ends what is left, kills what does not end. With real processes."""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest
import structlog

from cloudside import logging as our_logging
from cloudside import serve
from cloudside.cli import main


def _argv(program: str) -> list[str]:
    return [sys.executable, "-c", program]


async def _until(condition: object, within_s: float = 10) -> None:
    assert callable(condition)
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_one_that_ends_is_started_again_and_others_stay(tmp_path: Path) -> None:
    once = f"open({str(tmp_path / 'starts')!r}, 'a').write('x')"
    stays = f"import os, time; open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    stop = asyncio.Event()
    task = asyncio.create_task(serve.supervise({"once": _argv(once), "stays": _argv(stays)}, stop, first_delay_s=0.01))
    starts, pids = tmp_path / "starts", tmp_path / "pids"
    await _until(lambda: starts.exists() and len(starts.read_text()) >= 3 and pids.exists() and pids.read_text())
    stop.set()
    async with asyncio.timeout(10):
        await task
    (pid,) = pids.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(60)"
    )
    stop = asyncio.Event()
    task = asyncio.create_task(serve.supervise({"deaf": _argv(deaf)}, stop, end_s=0.2))
    await _until(lambda: (tmp_path / "ready").exists())
    stop.set()
    started = time.monotonic()
    async with asyncio.timeout(10):
        await task
    assert time.monotonic() - started < 5


def test_logs_are_json_and_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        our_logging.configure(json_lines=True)
        structlog.get_logger().info("login", site="tokyo-1", smtp_password="hunter2", device_id="ab" * 32)
        logging.getLogger("library").warning("something %s", "foreign")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        structlog.reset_defaults()
        root.handlers[:] = before
        root.setLevel(level)
    assert (lines[0]["event"], lines[0]["site"]) == ("login", "tokyo-1")
    assert (lines[0]["smtp_password"], lines[0]["device_id"]) == ("***", "***")
    assert lines[1]["event"] == "something foreign"


def test_without_an_installation_serve_says_so_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kyoten.toml"
    path.write_text(f'state_directory = "{tmp_path}"\n[gateway]\npublic_addresses = ["203.0.113.2"]\n')
    assert main.run(["--config", str(path), "serve"]) == 4
    assert "kyoten init" in capsys.readouterr().err
