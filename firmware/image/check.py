"""What has to hold for every tree before it is packed. All that is wrong is told at once."""

import re
import stat
from pathlib import Path

from firmware.image import programs, software, tree
from firmware.image.errors import ImageError

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_FILE = re.compile(r"^File: (.+)$")
_SECRET = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")


def tree_holds(root: Path) -> None:
    """Raises ImageError with everything that is wrong."""
    problems = [*_modes(root), *_accounts(root), *_secrets(root), *_libraries(root)]
    if problems:
        raise ImageError("the tree may not be shipped: " + "; ".join(problems))


def agent_starts(root: Path) -> None:
    """Import every module of the agent with the tree's own Python. Raises ImageError: one cannot be imported."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"sys.path.insert(1, '/{software.SITE}')\n"
        "for name in ('router_agent', 'firmware', 'linux'):\n"
        "    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, name + '.'):\n"
        "        found.name.endswith('__main__') or importlib.import_module(found.name)\n"
    )
    programs.run(["chroot", root, "python3", "-sE", "-"], stdin=code.encode())


def _modes(root: Path) -> list[str]:
    problems = []
    for path in tree.walk(root):
        mode, shown = path.lstat().st_mode, path.relative_to(root)
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            problems.append(f"/{shown} lifts whoever runs it")
        if not stat.S_ISLNK(mode) and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            problems.append(f"/{shown} can be written by everybody")
    return problems


def _accounts(root: Path) -> list[str]:
    """Nobody has a password, nobody but root is root."""
    problems = []
    for line in (root / "etc/shadow").read_text().splitlines():
        name, secret = line.split(":")[:2]
        if secret not in ("*", "!", "!*", "!!"):
            problems.append(f"{name} has a password or needs none")
    for line in (root / "etc/passwd").read_text().splitlines():
        name, field, number = line.split(":")[:3]
        if field != "x" or (number == "0") is not (name == "root"):
            problems.append(f"{name} has no shadow entry, or is root by another name")
    return problems


def _secrets(root: Path) -> list[str]:
    """What each machine makes for itself: keys, its number."""
    problems = [f"/{path.relative_to(root)} is in the image" for path in sorted(root.glob("etc/ssh/ssh_host_*"))]
    if (root / "etc/machine-id").read_bytes():
        problems.append("/etc/machine-id is not empty")
    for path in tree.walk(root / "etc"):
        if path.is_file() and not path.is_symlink() and _SECRET.search(path.read_bytes()):
            problems.append(f"/{path.relative_to(root)} holds a private key")
    return problems


def _libraries(root: Path) -> list[str]:
    """Every program and library finds what it was linked with; packages were taken out without asking them."""
    here = {path.name for place in (root / "usr", root / "etc") for path in place.rglob("*.so*")}
    programs_found = [path for path in tree.walk(root / "usr") if _is_elf(path) and path.suffix != ".ko"]
    problems = []
    file = ""
    for line in programs.run(["readelf", "-d", *programs_found]).splitlines():
        if match := _FILE.match(line):
            file = match[1]
        elif (match := _NEEDED.search(line)) and match[1] not in here:
            problems.append(f"/{Path(file).relative_to(root)} needs {match[1]}")
    return problems


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"
