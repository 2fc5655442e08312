"""Trusted metadata on a device's disk: exchanged whole, so that a power cut leaves the old or the new, never a mixture.

``<top>/generation-<n>/`` holds what python-tuf keeps (it replaces files without flushing them); ``<top>/current`` is a
symbolic link to the one that counts. Work is done on a copy, which is flushed and then pointed to by one rename.
"""

import filecmp
import shutil
from contextlib import suppress
from pathlib import Path

from firmware import durable

_CURRENT = "current"
_PREFIX = "generation-"


class TrustedDirectory:
    """One device's. All methods raise OSError: the disk is full, read-only, broken."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def current(self) -> Path | None:
        """The generation that counts; None: nothing is trusted yet but what came with the image."""
        link = self.top / _CURRENT
        if not link.is_symlink():
            return None
        target = self.top / link.readlink().name
        return target if target.is_dir() else None

    def begin(self) -> Path:
        """A copy to work on. What a power cut left over is removed first."""
        durable.make_directory(self.top, mode=0o700)
        current = self.current()
        for path in self.top.glob(f"{_PREFIX}*"):
            if path != current:
                shutil.rmtree(path)
        number = 0 if current is None else _number(current)
        copy = self.top / f"{_PREFIX}{number + 1}"
        if current is None:
            copy.mkdir(mode=0o700)
        else:
            shutil.copytree(current, copy, symlinks=True)
        return copy

    def commit(self, copy: Path) -> bool:
        """Let the copy count, unless it is the same as before. Whether it differed."""
        before = self.current()
        if before is not None and _same(before, copy):
            shutil.rmtree(copy)
            return False
        durable.flush_tree(copy)
        durable.flush_directory(self.top)
        link = self.top / f".{_CURRENT}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(copy.name)
        link.rename(self.top / _CURRENT)
        durable.flush_directory(self.top)
        if before is not None:
            with suppress(OSError):  # the next `begin` tries again
                shutil.rmtree(before)
        return True


def _number(path: Path) -> int:
    digits = path.name.removeprefix(_PREFIX)
    return int(digits) if digits.isdecimal() else 0


def _same(one: Path, other: Path) -> bool:
    def names(top: Path) -> set[Path]:
        return {path.relative_to(top) for path in top.rglob("*") if not path.is_dir()}

    if names(one) != names(other):
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names(one))
