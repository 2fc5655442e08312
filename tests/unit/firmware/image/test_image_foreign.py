"""Another processor's programs are told by how their files begin, and only those; its disk starts by UEFI."""

import platform
from contextlib import nullcontext
from pathlib import Path

import pytest

from firmware.image import bootloader, foreign, places, tree
from firmware.image.recipe import ARCHITECTURES

#: e_machine of elf(5).
MACHINES = {"amd64": 62, "arm64": 183}


def header(machine: int, kind: int) -> bytes:
    """The first 20 octets of an ELF file of 64 bits."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + kind.to_bytes(2, "little") + machine.to_bytes(2, "little")


def taken(line: str, begins: bytes) -> bool:
    """As the kernel looks at it: every bit that the mask names is the magic's."""
    _, _name, _kind, _offset, magic, mask, _program, _flags = line.split(":")
    pattern, bits = (word.encode().decode("unicode_escape").encode("latin-1") for word in (magic, mask))
    assert len(pattern) == len(bits) == len(begins)
    return all((mine ^ its) & bit == 0 for mine, its, bit in zip(pattern, begins, bits, strict=True))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_emulator_gets_that_machines_programs_and_no_others(architecture: str) -> None:
    line = foreign.registration(architecture, Path("/emulator"))
    for name, machine in MACHINES.items():
        # Programs at a fixed place and position-independent ones (ET_EXEC, ET_DYN).
        assert [taken(line, header(machine, kind)) for kind in (2, 3)] == [name == architecture] * 2
    assert not taken(line, header(MACHINES[architecture], 1)), "an object file is no program"


def test_this_machines_own_programs_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own = next(name for name, machine in ARCHITECTURES.items() if machine == platform.machine())
    assert not foreign.needed(own)
    other = next(name for name in ARCHITECTURES if name != own)
    monkeypatch.setattr(foreign, "_TABLE", Path("/nonexistent"))
    assert foreign.needed(other)
    monkeypatch.setenv("KYOTEN_IMAGE_EMULATES", other)
    assert not foreign.needed(other)


def test_every_architecture_has_a_way_to_start_from_a_disk_that_nobody_told_the_firmware_about() -> None:
    """UEFI 2.10, table 3-2: the names of removable media's boot files."""
    assert {name: variant.efi_name for name, variant in bootloader.VARIANTS.items()} == {
        "amd64": "BOOTX64.EFI",
        "arm64": "BOOTAA64.EFI",
    }
    assert bootloader.VARIANTS.keys() == ARCHITECTURES.keys()


def test_parts_of_the_boot_loader_come_from_the_cache_once_they_were_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[tuple[str, ...]] = []

    def extract(target: Path, suite: str, architecture: str, packages: tuple[str, ...]) -> None:
        fetched.append((suite, architecture, *packages))
        (target / here.relative_to("/")).mkdir(parents=True)

    here = tmp_path / "here"
    monkeypatch.setattr(tree, "extract", extract)
    monkeypatch.setattr(bootloader, "GRUB_DIRECTORY", here)
    monkeypatch.setattr(places, "locked", lambda: nullcontext(tmp_path))
    found = [bootloader.grub_parts("arm64", "bookworm") for _ in range(2)]
    assert fetched == [("bookworm", "arm64", "grub-efi-arm64-bin")]
    assert found[0] == found[1] and found[0].is_dir()
    # A machine that starts both ways needs both ways' parts.
    (here / "x86_64-efi").mkdir(parents=True)
    bootloader.grub_parts("amd64", "bookworm")
    assert fetched[1:] == [("bookworm", "amd64", "grub-pc-bin", "grub-efi-amd64-bin")]
    (here / "i386-pc").mkdir()
    assert bootloader.grub_parts("amd64", "bookworm") == here
    assert len(fetched) == 2
