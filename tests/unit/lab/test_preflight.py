"""What the machine lacks is said in sentences that name the remedy."""

import os
import shutil
from pathlib import Path

import pytest

from lab import box, preflight
from lab.box import BoxError


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert preflight.missing() == ["root is needed (namespaces, iptables): run this as root"]
    with pytest.raises(BoxError, match="root is needed"):
        box.run(["true"])


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "ipset" else f"/sbin/{program}")
    assert preflight.missing() == ["the program ipset is missing: install Debian's ipset"]


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: program)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2**20))
    (sentence,) = preflight.missing()
    assert "1 MiB free" in sentence


def test_every_program_comes_from_a_listed_package() -> None:
    listed = Path(preflight.__file__).with_name("debian-packages.txt").read_text(encoding="utf-8")
    packages = {line.strip() for line in listed.splitlines() if line.strip() and not line.startswith("#")}
    assert set(preflight.PROGRAMS.values()) <= packages
