"""The units of the router's image: what they start is in the tree, and what has to be enabled is."""

import re
import stat
from pathlib import Path

import pytest

from firmware.image.recipe import lines

ROUTER = Path(__file__).parents[3] / "images/router"
ROOTS = (ROUTER / "root", ROUTER / "boot/root")
UNITS = {
    path.name: path.read_text(encoding="utf-8")
    for root in ROOTS
    for path in (root / "usr/lib/systemd/system").iterdir()
    if path.suffix in (".service", ".timer")
}
ENABLED = {unit for file in (ROUTER / "units", ROUTER / "boot/units") for unit in lines(file.read_text())}


def test_every_program_of_ours_that_a_unit_starts_is_there_and_can_be_run() -> None:
    named = {
        word for text in UNITS.values() for word in re.findall(r"^Exec\w+=(/usr/lib/kyoten/[\w-]+)", text, re.MULTILINE)
    }
    assert {"/usr/lib/kyoten/console", "/usr/lib/kyoten/data-can-grow"} <= named
    for program in named:
        (found,) = (root / program[1:] for root in ROOTS if (root / program[1:]).exists())
        assert found.stat().st_mode & stat.S_IXUSR, program
        assert found.read_bytes().startswith(b"#!/bin/sh\n"), program


def test_every_module_that_a_unit_starts_is_one() -> None:
    named = {module for text in UNITS.values() for module in re.findall(r"-m (router_agent[\w.]+)", text)}
    assert "router_agent.growth.grow" in named
    for module in named:
        assert (Path(__file__).parents[3] / f"{module.replace('.', '/')}.py").exists(), module


def test_the_console_starts_by_itself_and_the_growth_after_a_good_start_only() -> None:
    assert "kyoten-console.service" in ENABLED
    assert "WantedBy=" in UNITS["kyoten-console.service"]
    assert "kyoten-data-growth.service" not in ENABLED
    assert "OnSuccess=kyoten-data-growth.service" in UNITS["kyoten-booted-ok.service"]


def test_the_agent_has_the_clock() -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", UNITS["kyoten-agent.service"], re.MULTILINE)
    assert "--sets-clock" in command.split()


@pytest.mark.parametrize("unit", sorted(ENABLED))
def test_what_is_enabled_is_ours_or_debians(unit: str) -> None:
    template = re.sub("@.*[.]", "@.", unit)
    assert template in UNITS or (ROUTER / "root/usr/lib/systemd/system" / template).exists()
