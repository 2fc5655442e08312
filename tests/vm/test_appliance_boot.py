"""The image, started in a virtual machine in the place of a router: enrolled, serving, and back from bad releases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from firmware.layout import ROOT_DEVICE_NAME
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
    steps = ("first-start", "serves", "verity", "memory", "rotten-kernel", "broken-release")
    figures = proven(image, tmp_path, *steps)
    assert figures["rss_idle_mib"] <= 120
    assert figures["root_is_verity"] == 1
    # GRUB tells a rotten kernel before it starts it, so that is one start; the other one takes two.
    assert {"first_boot_to_tunnel_s", "rotten_to_tunnel_s", "broken_to_tunnel_s"} <= figures.keys()


def test_a_release_that_nobody_keeps_ends_at_its_deadline(image: Path, tmp_path: Path) -> None:
    figures = proven(image, tmp_path, "first-start", "uncommitted-release")
    assert figures["unkept_to_tunnel_s"] > 0


def test_it_starts_by_uefi_too(image: Path, tmp_path: Path) -> None:
    assert proven(image, tmp_path, "uefi", "first-start")["first_boot_to_tunnel_s"] > 0


def test_the_root_has_the_name_that_the_proof_looks_for() -> None:
    assert ROOT_DEVICE_NAME in Path("images/router/boot/initrd/init").read_text()
