"""The mobile line with a pppd at both ends: the tests in inside/, in a virtual machine, whose kernel has PPP."""

import sys
from pathlib import Path

from lab.vm import machine

INSIDE = Path(__file__).with_name("inside")
TIMEOUT_S = 400.0


def test_ppp() -> None:
    argv = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(INSIDE), "-p", "no:cacheprovider",
            "-q", "--durations=0", str(INSIDE / "test_ppp.py")]  # fmt: skip
    ended = machine.run(argv, timeout_s=TIMEOUT_S, environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    shown = ended.stdout.decode(errors="replace") + ended.stderr.decode(errors="replace")
    print(shown)  # noqa: T201 - what pytest shows when this fails
    assert ended.status == 0, shown[-6000:]
    assert "8 passed" in shown
