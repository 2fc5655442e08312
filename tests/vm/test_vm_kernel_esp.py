"""The product on a kernel that does ESP: the tests in inside/, in a virtual machine."""

import sys
from pathlib import Path

import prepared

from lab.vm import machine

INSIDE = Path(__file__).with_name("inside")
TIMEOUT_S = 900.0


def test_kernel_esp(tmp_path: Path) -> None:
    prepared.prepare(tmp_path)
    # Few plug-ins: emulated, importing one takes as long as a test.
    argv = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(INSIDE), "-p", "no:cacheprovider",
            "-q", "--durations=0", str(INSIDE / "test_kernel_esp.py")]  # fmt: skip
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "KYOTEN_VM_PREPARED": str(tmp_path)}
    ended = machine.run(argv, timeout_s=TIMEOUT_S, environment=environment)
    shown = ended.stdout.decode(errors="replace") + ended.stderr.decode(errors="replace")
    print(shown)  # noqa: T201 - what pytest shows when this fails
    assert ended.status == 0, shown[-6000:]
    assert "7 passed" in shown
