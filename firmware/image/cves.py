"""Known vulnerabilities in an image. Two ways to know, each said with what it cannot see. The judging half is pure.

With the security tracker's data (https://security-tracker.debian.org/tracker/data/json, a file of 40 MB that somebody
has fetched): every Debian package by its source's name and version. Without it: packages of which apt knows a newer
version, which says that something was mended, not what is still open. Python packages: `advisories`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

from firmware.image import programs
from firmware.image.debian import Package
from firmware.image.errors import ImageError


@dataclass(frozen=True, slots=True)
class Finding:
    """One vulnerability of one source package in the image. ``fixed_in``: the mending version, "" if none."""

    cve: str
    source: str
    version: str
    fixed_in: str
    urgency: str
    note: str


@dataclass(frozen=True, slots=True)
class Newer:
    """A package of which apt knows a newer version, and from where (``archive``)."""

    package: str
    version: str
    newest: str
    archive: str


def matching(tracker: Mapping[str, object], packages: Iterable[Package], suite: str) -> list[Finding]:
    """What the tracker says of these packages in this release of Debian, the worst first."""
    found = []
    for source, version in sorted({(package.source, package.source_version) for package in packages}):
        entries = tracker.get(source)
        for cve, entry in entries.items() if isinstance(entries, dict) else ():
            finding = _finding(cve, entry, source, version, suite)
            if finding is not None:
                found.append(finding)
    return sorted(found, key=by_urgency)


NOT_JUDGED = "not yet assigned"
#: The tracker's words and the advisories', worst first; what nobody has judged yet may be bad.
URGENCIES = {
    "critical": -1, "high": 0, "medium": 1, "moderate": 1, NOT_JUDGED: 2, "low": 3, "end-of-life": 4, "unimportant": 5,
}  # fmt: skip


def by_urgency(one: Finding) -> tuple[int, str, str]:
    """The worst first."""
    return URGENCIES.get(one.urgency, URGENCIES[NOT_JUDGED]), one.source, one.cve


def _finding(cve: str, entry: object, source: str, version: str, suite: str) -> Finding | None:
    releases = entry.get("releases") if isinstance(entry, dict) else None
    state = releases.get(suite) if isinstance(releases, dict) else None
    if not isinstance(state, dict):
        return None
    fixed = str(state.get("fixed_version", ""))
    status = state.get("status")
    # "0": this release never had it.
    if status == "resolved" and (not fixed or fixed == "0" or not older(version, fixed)):
        return None
    if status not in ("open", "undetermined", "resolved"):
        return None
    note = str(state.get("nodsa_reason") or state.get("nodsa") or ("" if status != "undetermined" else status))
    return Finding(cve, source, version, fixed if status == "resolved" else "", str(state.get("urgency", "")), note)


def older(one: str, other: str) -> bool:
    """Whether Debian's version ``one`` is before ``other`` (Debian policy 5.6.12)."""
    return _compare(one, other) < 0


def _compare(one: str, other: str) -> int:
    (epoch, upstream, revision), (its_epoch, its_upstream, its_revision) = _parts(one), _parts(other)
    if epoch != its_epoch:
        return epoch - its_epoch
    return _compare_part(upstream, its_upstream) or _compare_part(revision, its_revision)


def _parts(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch) if epoch.isdigit() else 0, upstream if dash else rest, revision if dash else ""


_PIECES = re.compile(r"(\D*)(\d*)")


def _compare_part(one: str, other: str) -> int:
    for (words, number), (its_words, its_number) in zip_longest(
        _PIECES.findall(one), _PIECES.findall(other), fillvalue=("", "")
    ):
        for mine, its in zip_longest(words, its_words, fillvalue=""):
            if mine != its:
                return _order(mine) - _order(its)
        difference = int(number or 0) - int(its_number or 0)
        if difference:
            return difference
    return 0


def _order(character: str) -> int:
    """A tilde comes before the end, letters before everything else."""
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isalpha() else ord(character) + 256


def newer(madison: str, packages: Iterable[Package]) -> list[Newer]:
    """Out of what ``apt-cache madison`` has written: one line is ``package | version | archive``."""
    versions = {package.name: package.version for package in packages}
    best: dict[str, tuple[str, str]] = {}
    for line in madison.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) != 3 or words[0] not in versions or not words[2].endswith("Packages"):
            continue
        name, version = words[0], words[1]
        # The mirror's address is this machine's matter; the archive's name is what counts.
        archive = next((word for word in words[2].split() if "/" in word and "://" not in word), "")
        if older(versions[name], version) and (name not in best or older(best[name][0], version)):
            best[name] = (version, archive)
    return [Newer(name, versions[name], version, archive) for name, (version, archive) in sorted(best.items())]


def known_to_apt(packages: Sequence[Package]) -> list[Newer]:
    """Ask this machine's apt, as fresh as its last update. Raises ImageError."""
    return newer(programs.run(["apt-cache", "madison", *(package.name for package in packages)]), packages)


def read_tracker(text: str) -> Mapping[str, object]:
    """The tracker's file. Raises ImageError: it is something else."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ImageError(f"the security tracker's file is not JSON: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(value, dict) for value in document.values()):
        raise ImageError("the security tracker's file is not what data/json gives: an object of source packages")
    return document


def report(
    suite: str,
    packages: Sequence[Package],
    python: Sequence[tuple[str, str]],
    *,
    tracker: Mapping[str, object] | None,
    of_python: Sequence[Finding] | None,
    upgrades: Sequence[Newer],
) -> str:
    """cves.json: what is known, and what could not be known this time. ``python``: name and version of its packages;
    ``of_python``: what advisories say of them, None: none were given. Pure."""
    findings = [] if tracker is None else matching(tracker, packages, suite)
    unseen = []
    if tracker is None:
        unseen.append("open vulnerabilities without a mended version: no security tracker's file was given")
    if of_python is None:
        told = ", ".join(f"{name} {version}" for name, version in sorted(python))
        unseen.append(f"Python packages, no file of advisories was given: {told}")
    made = {
        "suite": suite,
        "packages": len(packages) + len(python),
        "tracker": tracker is not None,
        "advisories": of_python is not None,
        "findings": [asdict(one) for one in sorted((*findings, *(of_python or ())), key=by_urgency)],
        "newer_versions": [asdict(one) for one in upgrades],
        "not_seen": unseen,
    }
    return json.dumps(made, indent=1) + "\n"
