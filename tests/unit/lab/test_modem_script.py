"""The lab's modem by script: what a script may say, and that it runs by hand."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.modem.profile import ScriptError, parse
from lab.network import wait_until
from router_agent.modem.at import AtChannel, ModemLostError, ModemSilentError, SerialPort

SCRIPT = """
sim = "pin"
pin = "4711"
csq = 99

[[faults]]
on = "AT+CSQ"
times = 2
unsolicited = ['+CREG: 1', 'RING']
"""


def test_a_script_is_read() -> None:
    profile = parse(SCRIPT)
    assert (profile.sim, profile.csq, profile.registration) == ("pin", 99, 1)
    assert [(fault.on, fault.times, fault.unsolicited) for fault in profile.faults] == [
        ("AT+CSQ", 2, ["+CREG: 1", "RING"])
    ]


@pytest.mark.parametrize(
    "text", ["=", "colour = 1", "csq = 'x'", "csq = true", "faults = 3", "faults = [3]", "[[faults]]\nwhen = 1"]
)
def test_a_script_that_is_none_says_why(text: str) -> None:
    with pytest.raises(ScriptError):
        parse(text)


def asks_for_pin(link: Path) -> bool:
    try:
        port = SerialPort(str(link))
    except ModemLostError:
        return False
    try:
        return AtChannel(port, str(link)).ask("AT+CPIN?").lines == ("+CPIN: SIM PIN",)
    except (ModemLostError, ModemSilentError):
        return False
    finally:
        port.close()


def test_it_runs_by_hand(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SCRIPT)
    link = tmp_path / "modem"
    argv = [sys.executable, "-m", "lab.modem", "--script", str(tmp_path / "script"), "--link", str(link)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().decode() == f"a modem is at {link}\n"
        port = SerialPort(str(link))
        at = AtChannel(port, str(link))
        assert at.ask("AT+CPIN?").lines == ("+CPIN: SIM PIN",)
        assert at.ask('AT+CPIN="4711"').ok
        assert at.ask("AT+CSQ").lines == ("+CSQ: 99,99",)
        port.close()
        process.send_signal(signal.SIGUSR1)
        wait_until("the SIM is locked again", lambda: asks_for_pin(link), timeout_s=10)
    finally:
        process.terminate()
        assert process.wait(5) == 0
        process.stdout.close()  # type: ignore[union-attr]
