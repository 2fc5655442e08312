"""Reads a finished tree and says what is in it, for the SBOM."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from firmware.image import debian, licences, sbom, software
from firmware.image.debian import Package
from firmware.image.licences import NO_ASSERTION
from firmware.image.sbom import Component
from firmware.image.software import PythonPackage


def components(root: Path, suite: str, python: Iterable[PythonPackage], version: str) -> list[Component]:
    """Everything that has a name and a version of its own. ``version``: the release's, which is our part's."""
    installed = debian.packages((root / debian.STATUS).read_text(encoding="utf-8"))
    found = [_debian(root, suite, package) for package in installed]
    for package in python:
        name = package.name.lower().replace("_", "-")
        known = NO_ASSERTION if not package.licence else _expression(package.licence)
        found.append(
            Component(package.name, package.version, f"pkg:pypi/{name}@{package.version}", known, sha256=package.sha256)
        )
        for listing in (root / software.SITE).glob(f"{package.name.lower()}-{package.version}.dist-info/sboms/*.json"):
            found += sbom.bundled(listing.read_text(encoding="utf-8"), found[-1].identifier)
    found.append(
        Component("kyoten-agent", version, f"pkg:generic/kyoten-agent@{version}", "Apache-2.0", "Organization: Kyoten")
    )
    return list({one.identifier: one for one in found}.values())


def _debian(root: Path, suite: str, package: Package) -> Component:
    place = root / "usr/share/doc" / package.name / "copyright"
    text = place.read_text(encoding="utf-8", errors="replace") if place.exists() else ""
    return Component(
        name=package.name,
        version=package.version,
        purl=f"pkg:deb/debian/{quote(package.name)}@{quote(package.version, safe='')}"
        f"?arch={package.architecture}&distro={suite}",
        licence=licences.declared(text),
        supplier="Organization: Debian",
        source=f"built from Debian source package {package.source} {package.source_version}",
    )


def _expression(text: str) -> str:
    """A wheel's licence: an SPDX expression if it is one, otherwise a reference to the words it uses."""
    parts = [part for word in text.split(" AND ") for part in word.split(" OR ")]
    if all(part.strip() in KNOWN for part in parts):
        return text
    return " AND ".join(sorted({licences.spdx(part.strip()) for part in parts}))


#: Expressions that Python's packages give and that are SPDX's own words.
KNOWN = frozenset(
    {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT-0", "GPL-2.0-or-later", "LGPL-2.1-or-later"}
)
