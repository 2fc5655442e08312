"""What is in an image, as an SPDX 2.3 document. Pure: lists to JSON.

Debian's packages as dpkg lists them after trimming, Python's as their wheels say, what a wheel says that it was
built with (PEP 770), and our own part. https://spdx.github.io/spdx-spec/v2.3/
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from firmware.image.licences import NO_ASSERTION, references

_NOT_AN_ID = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Component:
    """One thing in the image. ``purl``: its package URL. ``inside``: the id of the component that it is part of."""

    name: str
    version: str
    purl: str
    licence: str = NO_ASSERTION
    supplier: str = NO_ASSERTION
    source: str = ""
    sha256: str = ""
    inside: str = field(default="")

    @property
    def identifier(self) -> str:
        """Its SPDXID."""
        kind = self.purl.removeprefix("pkg:").partition("/")[0]
        return f"SPDXRef-{kind}-" + _NOT_AN_ID.sub("-", f"{self.name}-{self.version}").replace("_", "-")


@dataclass(frozen=True, slots=True)
class Subject:
    """The image that the document is about; ``sha256`` is slot.img's, ``epoch`` its time in seconds since 1970."""

    hardware: str
    version: str
    sha256: str
    epoch: int


def document(subject: Subject, components: Sequence[Component]) -> str:
    """The document; the same for the same arguments."""
    image = Component(
        f"kyoten-router-{subject.hardware}",
        subject.version,
        f"pkg:generic/kyoten-router-{subject.hardware}@{subject.version}",
        licence=NO_ASSERTION,
        supplier="Organization: Kyoten",
        sha256=subject.sha256,
    )
    ordered = sorted(components, key=lambda one: one.identifier)
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", image.identifier)]
    relations += [(one.inside or image.identifier, "CONTAINS", one.identifier) for one in ordered]
    made = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{image.name}-{image.version}",
        "documentNamespace": f"https://kyoten.example/spdx/{image.name}-{image.version}-{subject.sha256}",
        "creationInfo": {
            "created": datetime.fromtimestamp(subject.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: kyoten-image", "Organization: Kyoten"],
        },
        "packages": [_package(one) for one in (image, *ordered)],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
        "hasExtractedLicensingInfos": [
            {
                "licenseId": reference,
                "name": reference.removeprefix("LicenseRef-"),
                "extractedText": "See /usr/share/doc/<package>/copyright in the image.",
            }
            for reference in references(one.licence for one in ordered)
        ],
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _package(one: Component) -> dict[str, object]:
    made: dict[str, object] = {
        "SPDXID": one.identifier,
        "name": one.name,
        "versionInfo": one.version,
        "supplier": one.supplier,
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": one.licence,
        "copyrightText": NO_ASSERTION,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": one.purl}
        ],
    }
    if one.source:
        made["sourceInfo"] = one.source
    if one.sha256:
        made["checksums"] = [{"algorithm": "SHA256", "checksumValue": one.sha256}]
    return made


def bundled(cyclonedx: str, inside: str) -> list[Component]:
    """What a wheel says that it was built with (CycloneDX JSON). Nothing, when it cannot be read."""
    try:
        listed = json.loads(cyclonedx).get("components", [])
    except (ValueError, AttributeError):
        return []
    found = []
    for one in listed if isinstance(listed, list) else []:
        name, version, purl = (
            str(one.get(key, "")) if isinstance(one, dict) else "" for key in ("name", "version", "purl")
        )
        if name and version and purl.startswith("pkg:"):
            # A crate's own place on the builder's disk is of no use to anybody.
            found.append(Component(name, version, purl.partition("?")[0], inside=inside))
    return found
