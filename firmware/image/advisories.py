"""Known vulnerabilities of Python packages, out of the advisories that PyPI's are collected in (OSV).

The file is https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, fetched by a person: a zip of one JSON
document an advisory (https://ossf.github.io/osv-schema/). An advisory names the versions that it is about one by one,
or by ranges, or both; a version is affected if either has it. Pure, but for reading the file.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from firmware.image.cves import NOT_JUDGED, URGENCIES, Finding, by_urgency
from firmware.image.errors import ImageError

#: Larger is no advisory, in octets.
_DOCUMENT_MAX_BYTES = 4 << 20

Advisory = Mapping[str, Any]
#: (name, version) of a distribution.
Distribution = tuple[str, str]


def read(path: Path) -> list[Advisory]:
    """The advisories of the file. Raises ImageError: it is something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [json.loads(archive.read(one)) for one in archive.infolist() if _is_document(one)]
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError) as error:
        raise ImageError(f"{path}: no zip of advisories (OSV, PyPI/all.zip): {error}") from None
    if not found or not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in found):
        raise ImageError(f"{path}: no zip of advisories (OSV, PyPI/all.zip): documents without an id")
    return found


def matching(advisories: Iterable[Advisory], installed: Sequence[Distribution]) -> list[Finding]:
    """What they say of these distributions. What is the same vulnerability under several names is told once, with what
    each knows of it. Raises ImageError: an advisory of another form."""
    versions = {_normalized(name): (name, version) for name, version in installed}
    found: dict[tuple[str, str], Finding] = {}
    for advisory in advisories:
        try:
            for made in _of_advisory(advisory, versions):
                before = found.get((made.source, made.cve))
                found[made.source, made.cve] = made if before is None else _merged(before, made)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise ImageError(f"the advisory {str(advisory.get('id'))[:40]} has another form: {error}") from None
    return sorted(found.values(), key=by_urgency)


def _of_advisory(advisory: Advisory, versions: Mapping[str, Distribution]) -> Iterator[Finding]:
    if advisory.get("withdrawn"):
        return
    for affected in advisory.get("affected") or ():
        package = affected.get("package") or {}
        known = versions.get(_normalized(str(package.get("name", ""))))
        if package.get("ecosystem") == "PyPI" and known is not None and _affects(affected, known[1]):
            yield _finding(advisory, affected, *known)


def _merged(one: Finding, other: Finding) -> Finding:
    urgency = min((one.urgency, other.urgency), key=lambda word: (word == NOT_JUDGED, URGENCIES.get(word, 2)))
    return replace(one, urgency=urgency, fixed_in=one.fixed_in or other.fixed_in, note=one.note or other.note)


def _finding(advisory: Advisory, affected: Advisory, name: str, version: str) -> Finding:
    names = [str(advisory["id"]), *map(str, advisory.get("aliases") or ())]
    cve = next((one for one in names if one.startswith("CVE-")), names[0])
    mended = [fixed for fixed in _fixed(affected) if _key(fixed) > _key(version)]
    urgency = str((advisory.get("database_specific") or {}).get("severity") or NOT_JUDGED).lower()
    fixed_in = min(mended, key=_key, default="")
    return Finding(cve, name, version, fixed_in, urgency, str(advisory.get("summary") or "")[:200])


def _affects(affected: Advisory, version: str) -> bool:
    if any(_key(str(one)) == _key(version) for one in affected.get("versions") or ()):
        return True
    return any(
        _in_range(one.get("events") or (), version)
        for one in affected.get("ranges") or ()
        if one.get("type") == "ECOSYSTEM"
    )


def _in_range(events: Iterable[Mapping[str, str]], version: str) -> bool:
    """By the schema's own algorithm: events in the order of their versions, the last one that has happened counts."""
    within, own = False, _key(version)
    for at, kind in sorted((_key(str(at)), kind) for event in events for kind, at in event.items()):
        if kind == "introduced" and own >= at:
            within = True
        elif (kind == "fixed" and own >= at) or (kind == "last_affected" and own > at):
            within = False
    return within


def _fixed(affected: Advisory) -> Iterator[str]:
    for one in affected.get("ranges") or ():
        if one.get("type") == "ECOSYSTEM":
            yield from (str(event["fixed"]) for event in one.get("events") or () if "fixed" in event)


def _key(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def _normalized(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_document(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith(".json") and entry.file_size <= _DOCUMENT_MAX_BYTES
