"""GRUB itself, in a virtual machine, decides as `bootstate.choose` says, with which power cuts are judged."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bare_disk
import pytest

from firmware import bootstate
from firmware.bootstate import Attempt, BootState, Trial
from firmware.layout import ATTEMPT_SECTOR, BOOTSTATE, STATE_BYTES, STATE_COPY_SECTORS, Slot
from lab.appliance.machine import Appliance, Firmware

TRIAL = Trial(Slot.B, "t-0123456789abcdef", 900)
#: Slots and why, in the order of the trying.
Tried = tuple[tuple[str, str], ...]
BLANK = bytes(STATE_BYTES)
END = "kyoten: no slot can be loaded"

_A = bootstate.render(BootState(7, Slot.A, None, frozenset({Slot.A})))
_A_BOTH = bootstate.render(BootState(8, Slot.A, None, frozenset(Slot)))
_B = bootstate.render(BootState(9, Slot.B, None, frozenset(Slot)))
_TRIAL = bootstate.render(BootState(10, Slot.A, TRIAL, frozenset({Slot.A})))
_TRIAL_OF_A = bootstate.render(BootState(11, Slot.B, replace(TRIAL, slot=Slot.A), frozenset({Slot.B})))


def _noted(trial_id: str = "", tries: int = 0) -> bytes:
    return bootstate.render_attempt(Attempt(trial_id, tries))


def _flipped(block: bytes, what: bytes) -> bytes:
    place = block.index(what)
    return block[:place] + bytes([block[place] ^ 1]) + block[place + 1 :]


CASES: dict[str, tuple[bytes, bytes, bytes]] = {
    "first": (_A, _B, _noted()),
    "second": (_B, _A, _noted()),
    "numbers, not texts": (_B, _TRIAL, _noted(TRIAL.id)),
    "equal numbers": (_A, bootstate.render(BootState(7, Slot.B)), _noted()),
    "one copy": (BLANK, _B, _noted()),
    "other copy": (_B, BLANK, _noted()),
    "newer one torn": (_A, _B[:80] + BLANK[80:], _noted()),
    "newer one flipped": (_A, _flipped(_B, b"B\ntrial="), _noted()),
    "newer one's number flipped": (_B, _flipped(_TRIAL, b"10\n"), _noted()),
    "no copy": (BLANK, b"\xff" * STATE_BYTES, _noted()),
    "trial": (_TRIAL, _A, _noted("before", 2)),
    "trial of A": (_A, _TRIAL_OF_A, _noted()),
    "trial begun": (_TRIAL, _A, _noted(TRIAL.id)),
    "trial, note damaged": (_TRIAL, _A, BLANK),
    "trial, note not GRUB's": (_TRIAL, _A, _flipped(_noted(), b"ok\n")),
    "one try": (_A, _A_BOTH, _noted("x", 1)),
    "three tries": (_A, _A_BOTH, _noted("x", 3)),
    "three tries, other not good": (_A, _A, _noted("x", 3)),
    "four tries": (_A, _A_BOTH, _flipped(_noted("x", 3), b"xxx\n")),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_disk.make(tmp_path_factory.mktemp("choice"))


@pytest.fixture
def machine(disk: Path, tmp_path: Path) -> Iterator[Appliance]:
    made = Appliance(tmp_path / "machine", disk, memory_mib=256)
    yield made
    made.power_cut()


def _tried(console: str) -> Tried:
    """Each once: UEFI's own console goes to the serial line, too."""
    found = re.findall(r"kyoten: slot ([AB]?) \((\w+)\)", console)
    return tuple(one for one, before in zip(found, [None, *found], strict=False) if one != before)


def _decide(machine: Appliance, copies: tuple[bytes, bytes], attempt: bytes) -> tuple[Tried, bytes]:
    """What GRUB tried, and its note afterwards."""
    for sector, data in zip((*STATE_COPY_SECTORS, ATTEMPT_SECTOR), (*copies, attempt), strict=True):
        bare_disk.put(machine.disk, BOOTSTATE, data, sector=sector)
    before = len(machine.console())
    machine.start()
    machine.wait_for(END, timeout_s=120, after=before)
    machine.power_cut()
    return _tried(machine.console()[before:]), bare_disk.get(
        machine.disk, BOOTSTATE, STATE_BYTES, sector=ATTEMPT_SECTOR
    )


def _agrees(machine: Appliance, first: bytes, second: bytes, attempt: bytes) -> None:
    wanted = bootstate.choose([first, second], attempt)
    tried, noted = _decide(machine, (first, second), attempt)
    assert tried == tuple((slot.value, why.value) for slot, why in wanted.order)
    if wanted.note is None:
        assert noted == attempt
    else:
        assert bootstate.parse_attempt(noted) == wanted.note


@pytest.mark.parametrize("name", CASES)
def test_grub_decides_as_we_say(machine: Appliance, name: str) -> None:
    _agrees(machine, *CASES[name])


@pytest.mark.parametrize("name", ["trial", "newer one torn"])
def test_grub_for_uefi_decides_so_too(disk: Path, tmp_path: Path, name: str) -> None:
    machine = Appliance(tmp_path / "machine", disk, memory_mib=256, firmware=Firmware.UEFI)
    try:
        _agrees(machine, *CASES[name])
    finally:
        machine.power_cut()
