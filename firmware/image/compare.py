"""What differs between two trees: for whoever has to find out why two builds are not the same."""

import stat
from pathlib import Path

from firmware.image import tree

#: A list of hundreds says no more than one of these many.
_MOST = 50


def differences(one: Path, other: Path) -> list[str]:
    """One line for each path that is not the same in both; times do not count, the squashfs has its own."""
    here = {str(path.relative_to(one)) for path in tree.walk(one)}
    there = {str(path.relative_to(other)) for path in tree.walk(other)}
    found = [f"/{name}: only in one of them" for name in sorted(here ^ there)]
    found += [f"/{name}: {what}" for name in sorted(here & there) if (what := _differs(one / name, other / name))]
    return found[:_MOST]


def _differs(one: Path, other: Path) -> str:
    mine, its = one.lstat(), other.lstat()
    if mine.st_mode != its.st_mode:
        return "mode"
    if (mine.st_uid, mine.st_gid) != (its.st_uid, its.st_gid):
        return "owner"
    if stat.S_ISLNK(mine.st_mode):
        return "" if one.readlink() == other.readlink() else "leads elsewhere"
    if stat.S_ISREG(mine.st_mode) and one.read_bytes() != other.read_bytes():
        return "content"
    return ""
