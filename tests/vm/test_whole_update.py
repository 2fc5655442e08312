"""The image in the place of a router: it enrols, serves its site, takes a release by itself, and keeps it."""

import json

import pytest

from lab.appliance import recording

Figures = dict[str, float]


@pytest.fixture(scope="module")
def figures() -> Figures:
    """Of a run whose every step is held against what it should be; test_power_cuts cuts its writes."""
    found = json.loads((recording.made() / recording.FIGURES).read_text())
    assert isinstance(found, dict)
    return found


def test_it_enrols_serves_updates_and_keeps_the_release(figures: Figures) -> None:
    """Three starts. A start after the commit, releases that cannot be kept, UEFI: `make bench`, parts ``update``,
    ``returns`` and ``uefi`` of firmware; how GRUB decides by either: test_boot_choice."""
    assert {"first_boot_to_tunnel_s", "update_s"} <= figures.keys()


def test_its_root_is_verified_and_its_memory_small(figures: Figures) -> None:
    assert figures["root_is_verity"] == 1
    assert 20 <= figures["rss_idle_mib"] <= 120


def test_nothing_of_it_answers_the_internet(figures: Figures) -> None:
    """The same scan finds the gateway's ports."""
    assert figures["answers_to_internet"] == 0


def test_it_takes_the_modules_that_are_for_it_and_gives_one_back(figures: Figures) -> None:
    """Published, noticed, judged, used as nobody, outliving the update; the steps are in lab/appliance/modules.py."""
    assert figures["modules_taken"] == 3
    assert "module_withdrawn_s" in figures


def test_its_ike_log_outlives_a_power_cut(figures: Figures) -> None:
    assert figures["ike_lines_of_before"] > 0
