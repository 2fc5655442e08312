"""Advisories of Python packages, in OSV's form: who is affected, what mends it, what is told once."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from firmware.image import advisories
from firmware.image.errors import ImageError

INSTALLED = [("urllib3", "2.2.1"), ("Ruamel.Yaml", "0.17"), ("cryptography", "42.0.2")]


def advisory(identifier: str, name: str = "urllib3", **affected: Any) -> dict[str, Any]:
    """As GitHub's are (https://ossf.github.io/osv-schema/), shortened."""
    package = {"ecosystem": "PyPI", "name": name, "purl": f"pkg:pypi/{name}"}
    return {
        "schema_version": "1.4.0",
        "id": identifier,
        "aliases": [],
        "summary": "Proxy-Authorization is not stripped",
        "affected": [{"package": package, **affected}],
    }


def ranges(*events: dict[str, str], kind: str = "ECOSYSTEM") -> dict[str, Any]:
    return {"ranges": [{"type": kind, "events": list(events)}]}


def found(*documents: dict[str, Any]) -> list[str]:
    return [one.cve for one in advisories.matching(documents, INSTALLED)]


@pytest.mark.parametrize(
    ("events", "affected"),
    [
        (({"introduced": "0"}, {"fixed": "2.2.2"}), True),
        (({"introduced": "0"}, {"fixed": "2.2.1"}), False),
        (({"introduced": "2.2.1"},), True),
        (({"introduced": "2.2.2"},), False),
        (({"introduced": "0"}, {"last_affected": "2.2.1"}), True),
        (({"introduced": "0"}, {"last_affected": "2.2.0"}), False),
        # Two branches, mended in both: in any order.
        (({"introduced": "2.0.0"}, {"fixed": "2.2.2"}, {"introduced": "0"}, {"fixed": "1.26.19"}), True),
        (({"introduced": "0"}, {"fixed": "1.26.19"}, {"introduced": "2.3"}, {"fixed": "2.4"}), False),
    ],
)
def test_ranges(events: tuple[dict[str, str], ...], affected: bool) -> None:
    assert bool(found(advisory("GHSA-1", **ranges(*events)))) is affected


def test_versions_that_are_named_and_ranges_of_commits_that_are_not_ours() -> None:
    assert found(advisory("PYSEC-1", versions=["2.2.0", "2.2.1"])) == ["PYSEC-1"]
    assert found(advisory("PYSEC-2", versions=["2.2"])) == []
    assert found(advisory("PYSEC-3", **ranges({"introduced": "0"}, kind="GIT"))) == []


def test_a_vulnerability_of_several_names_is_told_once_by_its_cve() -> None:
    everything = ranges({"introduced": "2.0"}, {"fixed": "2.5"}, {"introduced": "0"}, {"fixed": "1.26"})
    one = advisory("GHSA-34jh", **everything) | {"aliases": ["CVE-2024-37891", "PYSEC-9"]}
    other = advisory("PYSEC-9", **everything) | {"aliases": ["CVE-2024-37891"]}
    known = one | {"database_specific": {"severity": "MODERATE"}}
    for documents in ((known, other), (other, known)):
        (only,) = advisories.matching(documents, INSTALLED)
        assert (only.cve, only.source, only.version, only.fixed_in) == ("CVE-2024-37891", "urllib3", "2.2.1", "2.5")
        assert (only.urgency, only.note) == ("moderate", "Proxy-Authorization is not stripped")


def test_what_is_withdrawn_or_of_others_is_not_told() -> None:
    all_of_it = ranges({"introduced": "0"})
    assert found(advisory("GHSA-1", **all_of_it) | {"withdrawn": "2024-01-01T00:00:00Z"}) == []
    assert found(advisory("GHSA-2", "requests", **all_of_it)) == []
    npm = advisory("GHSA-3", **all_of_it)
    npm["affected"][0]["package"]["ecosystem"] = "npm"
    assert found(npm) == []
    assert found(advisory("GHSA-4", "ruamel_yaml", **all_of_it)) == ["GHSA-4"], "names are compared as PyPI does"


def test_the_file_is_a_zip_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("GHSA-1.json", json.dumps(advisory("GHSA-1", **ranges({"introduced": "0"}))))
        archive.writestr("README", "not one")
    assert len(advisories.read(path)) == 1


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "all.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.json", "[]")
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError, match="no zip of advisories"):
        advisories.read(path)
    with pytest.raises(ImageError, match="no zip of advisories"):
        advisories.read(tmp_path / "none.zip")


_URLLIB3 = {"ecosystem": "PyPI", "name": "urllib3"}


@pytest.mark.parametrize("affected", ["all", [3], [{"package": 3}], [{"package": _URLLIB3, "ranges": 3}]])
def test_an_advisory_of_another_form_is_told(affected: object) -> None:
    damaged = advisory("GHSA-7") | {"affected": affected}
    with pytest.raises(ImageError, match="GHSA-7"):
        advisories.matching([damaged], INSTALLED)
