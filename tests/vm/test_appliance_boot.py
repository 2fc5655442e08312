"""The image, started in a virtual machine in the place of a router: enrolled, serving, and back from bad releases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab.appliance.image import factory_disk

BINARIES = Path(sys.executable).parent
#: The machine is emulated, and other tests run beside it.
TIMEOUT_S = 2400.0


@pytest.fixture(scope="module")
def image() -> Path:
    return factory_disk()


def proven(image: Path, directory: Path, *steps: str) -> dict[str, float]:
    """Run steps of the proof in a box; their figures."""
    argv = [str(BINARIES / "kyoten-lab"), "box", "--", sys.executable, "-m", "lab.appliance.proof"]
    ended = subprocess.run(
        [*argv, str(image), str(directory), *steps], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert isinstance(figures, dict)
    return figures


def test_it_enrols_serves_and_comes_back(image: Path, tmp_path: Path) -> None:
    """Three starts, the second of a release that does not mount. Other bad releases and UEFI: `make bench`, parts
    ``returns`` and ``uefi`` of firmware; how GRUB decides by either: test_boot_choice."""
    figures = proven(image, tmp_path, "first-start", "serves", "verity", "memory", "broken-release")
    assert figures["rss_idle_mib"] <= 120
    assert figures["root_is_verity"] == 1
    assert {"first_boot_to_tunnel_s", "broken_to_tunnel_s"} <= figures.keys()
