"""The power fails somewhere in an update of the image: the router comes back, with its settings, and goes on."""

from pathlib import Path

import pytest

from lab.appliance import cuts, recording

CUTS = 60


@pytest.fixture(scope="module")
def recorded() -> Path:
    return recording.made()


def test_a_power_cut_anywhere_in_an_update_strands_nobody(recorded: Path, tmp_path: Path) -> None:
    """Judged only. Sixty boots that hold the judge against the machine: `make bench NAME=firmware`, part ``cuts``."""
    said: list[str] = []
    figures = cuts.measure(recorded, cuts=CUTS, booted=0, jobs=1, say=said.append, results=tmp_path / "cuts.jsonl")
    assert figures["power_cuts"] == CUTS
    assert (figures["bricked"], figures["settings_lost"], figures["power_cuts_wrong"]) == (0, 0, 0), said
    phases = figures["phases"]
    assert isinstance(phases, dict)
    for wanted in ("installing, then", "trial, then trial on B as trial", "then committed on B as primary"):
        assert any(wanted in phase for phase in phases), phases
    assert figures["lying_disk_faults"]
