"""dpkg's status as objects, and a package's files taken out of a tree without its scripts. The first half is pure."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("var/lib/dpkg/status")


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package. ``source`` and ``source_version``: what Debian's security tracker knows it by."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    description: str


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a control file, in order."""
    return [part.strip("\n") for part in text.split("\n\n") if part.strip()]


def fields(paragraph: str) -> dict[str, str]:
    """The one-line fields and the first lines of others. deb822(5)."""
    found = {}
    for line in paragraph.splitlines():
        if line[:1] not in (" ", "\t"):
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def packages(status: str) -> list[Package]:
    """All that are installed, by name."""
    found = []
    for paragraph in paragraphs(status):
        words = fields(paragraph)
        if words.get("Status", "install ok installed") != "install ok installed":
            continue
        name, version = words["Package"], words["Version"]
        source, _, bracketed = words.get("Source", name).partition(" ")
        found.append(
            Package(
                name=name,
                version=version,
                architecture=words["Architecture"],
                source=source,
                source_version=bracketed.strip("() ") or version,
                description=words.get("Description", ""),
            )
        )
    return sorted(found, key=lambda package: package.name)


def without(status: str, names: Iterable[str]) -> str:
    """The status without these packages."""
    gone = set(names)
    kept = [paragraph for paragraph in paragraphs(status) if fields(paragraph)["Package"] not in gone]
    return "".join(f"{paragraph}\n\n" for paragraph in kept)


def take_out(root: Path, names: Iterable[str]) -> list[str]:
    """Delete files that belong to these packages only, and forget the packages; the names that were there.

    No script runs: these are the programs that scripts would need, and nothing will be installed any more.
    """
    info = root / "var/lib/dpkg/info"
    status = root / STATUS
    installed = {package.name for package in packages(status.read_text(encoding="utf-8"))}
    gone = [name for name in dict.fromkeys(names) if name in installed]
    kept_files: set[str] = set()
    gone_files: set[str] = set()
    for listing in info.glob("*.list"):
        name = listing.name.removesuffix(".list").partition(":")[0]
        target = gone_files if name in gone else kept_files
        target.update(_real(root, line) for line in listing.read_text(encoding="utf-8").splitlines())
    for path in sorted(gone_files - kept_files, reverse=True):
        place = root / path
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            place.unlink()
        elif not any(place.iterdir()):
            place.rmdir()
    status.write_text(without(status.read_text(encoding="utf-8"), gone), encoding="utf-8")
    return gone


def _real(root: Path, line: str) -> str:
    """Where a path of a list leads: /bin is usr/bin, but a link at the very end is itself."""
    path = line.strip().lstrip("/")
    head, _, tail = path.rpartition("/")
    if not head:
        return tail
    real = os.path.realpath(root / head)
    return f"{os.path.relpath(real, os.path.realpath(root))}/{tail}"
