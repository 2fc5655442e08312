"""pppd's options, and a pppd that is a script: adopted, ended, its end understood, no secret in argv."""

import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from router_agent.modem import ppp
from router_agent.modem.ppp import Ended, Login, PppProcess


def test_secrets_are_quoted_and_cannot_add_options(tmp_path: Path) -> None:
    text = ppp.options("wwan0", Login('so"ra', "back\\slash #1"), tmp_path / "log")
    assert 'user "so\\"ra"\n' in text
    assert 'password "back\\\\slash #1"\n' in text
    assert "nodefaultroute\n" in text
    assert "ifname wwan0\n" in text
    with pytest.raises(ValueError, match="line end"):
        ppp.options("wwan0", Login("a\nconnect /bin/sh", ""), tmp_path / "log")


@pytest.fixture
def pppd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "pppd"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(ppp, "PROGRAM", program)
    return program


def gone(process: PppProcess) -> bool:
    deadline = time.monotonic() + 5
    while process.pid is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.pid is None


def test_the_next_agent_finds_the_call_of_the_one_before(tmp_path: Path, pppd: Path) -> None:
    # What is run keeps its argv, as pppd does.
    pppd.write_text("#!/usr/bin/python3 -S\nimport time\ntime.sleep(60)\n")
    directory = tmp_path / "run"
    first = PppProcess(directory, "wwan0")
    first.start("/dev/null", Login("sora", "s3cr3t"))
    second = PppProcess(directory, "wwan0")
    for _ in range(100):  # its argv is there a moment after it was begun
        if second.pid is not None:
            break
        time.sleep(0.02)
    assert second.pid == first.pid is not None
    command = Path(f"/proc/{first.pid}/cmdline").read_bytes()
    assert b"s3cr3t" not in command
    assert (directory / "pppd.options").stat().st_mode & 0o777 == 0o600
    second.hang_up()
    assert gone(first)
    assert first.ended().total_bytes is None
    assert PppProcess(directory, "wwan0").pid is None


def test_a_pid_that_is_another_programs_now_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "pppd.pid").write_text("1")
    assert PppProcess(tmp_path, "wwan0").pid is None


@pytest.mark.parametrize(
    ("status", "reason"), [(19, "login-refused"), (16, "no-carrier"), (4, "no-ppp-in-kernel"), (77, "status 77")]
)
def test_why_it_ended_and_what_it_carried(tmp_path: Path, pppd: Path, status: int, reason: str) -> None:
    words = "Connect time 1.0 minutes.\\nSent 1234 bytes, received 56789 bytes."
    pppd.write_text(
        f'#!/bin/sh\nlog=$(sed -n "s/^logfile //p" "$4")\n'
        f'printf "primary   DNS address 100.64.0.53\\n{words}\\n" > "$log"\nexit {status}\n'
    )
    process = PppProcess(tmp_path / "run", "wwan0")
    process.start("/dev/null", Login())
    assert gone(process)
    assert process.dns() == (IPv4Address("100.64.0.53"),)
    assert process.ended() == Ended(reason, 1234 + 56789)


def test_the_log_of_the_call_before_stays_and_does_not_count(tmp_path: Path, pppd: Path) -> None:
    pppd.write_text(
        '#!/bin/sh\nlog=$(sed -n "s/^logfile //p" "$4")\n'
        'case $(grep -c "^kyoten: a call at 20" "$log") in\n'
        '1) printf "primary   DNS address 100.64.0.53\\nSent 1 bytes, received 2 bytes.\\n" >> "$log";;\n'
        "esac\nexit 16\n"
    )
    process = PppProcess(tmp_path / "run", "wwan0")
    for addresses, carried in (((IPv4Address("100.64.0.53"),), 3), ((), None)):
        process.start("/dev/null", Login())
        assert gone(process)
        assert process.dns() == addresses
        assert process.ended() == Ended("no-carrier", carried)
    assert "Sent 1 bytes" in (tmp_path / "run" / "pppd.log").read_text()
