"""Known vulnerabilities: versions compared as dpkg does it, the tracker's entries judged, what is not seen is said."""

import json
import subprocess

import pytest

from firmware.image import cves
from firmware.image.debian import Package
from firmware.image.errors import ImageError


def package(name: str, version: str, source: str = "") -> Package:
    return Package(name, version, "amd64", source or name, version, "")


VERSIONS = (
    "1.0", "1.0-1", "1.0-1+b1", "1.0~rc1-1", "1.0+deb12u1", "1.0-10", "1.0-9", "1:0.9", "0:1.0-1", "1.0a", "1.0.1",
    "2.06-13+deb12u2", "2.06-13", "1.0-1~bpo12+1", "09", "9", "1.2.13.dfsg-1", "1.2.13-1", "1-2-3", "1~~", "1~",
)  # fmt: skip


def test_versions_are_compared_as_dpkg_compares_them() -> None:
    pairs = [(one, other) for one in VERSIONS for other in VERSIONS if VERSIONS.index(one) <= VERSIONS.index(other)]
    script = "".join(f"dpkg --compare-versions '{one}' lt '{other}'; echo $?\n" for one, other in pairs)
    shown = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True).stdout.split()
    wrong = [pair for pair, status in zip(pairs, shown, strict=True) if cves.older(*pair) is not (status == "0")]
    assert not wrong


def entry(**state: str) -> dict[str, object]:
    return {"releases": {"bookworm": state, "trixie": {"status": "open", "urgency": "high"}}}


TRACKER = {
    "openssl": {
        "CVE-1": entry(status="resolved", fixed_version="3.0.17-1~deb12u2", urgency="not yet assigned"),
        "CVE-2": entry(status="open", urgency="unimportant", nodsa="Minor issue"),
        "CVE-3": entry(status="resolved", fixed_version="0", urgency="high"),
        "CVE-4": {"releases": {"trixie": {"status": "open", "urgency": "high"}}},
        "CVE-5": entry(status="open", urgency="medium"),
        "CVE-6": entry(status="undetermined", urgency="not yet assigned"),
        "CVE-7": {"releases": None},
        "CVE-8": "damaged",
    },
    "other": {"CVE-9": entry(status="open", urgency="high")},
}


def test_open_and_unmended_ones_are_found_the_worst_first() -> None:
    installed = [package("libssl3", "3.0.17-1~deb12u1", "openssl"), package("openssl", "3.0.17-1~deb12u1")]
    found = cves.matching(TRACKER, installed, "bookworm")
    assert [one.cve for one in found] == ["CVE-5", "CVE-1", "CVE-6", "CVE-2"]
    assert (found[1].fixed_in, found[3].note, found[2].note) == ("3.0.17-1~deb12u2", "Minor issue", "undetermined")


def test_a_mended_version_has_none_of_the_mended_ones() -> None:
    found = cves.matching(TRACKER, [package("libssl3", "3.0.17-1~deb12u2", "openssl")], "bookworm")
    assert "CVE-1" not in [one.cve for one in found]


def test_a_newer_version_is_told_with_its_archive_and_without_the_mirror() -> None:
    shown = (
        "  bash | 5.2.15-2+b13 | http://mirror.example/debian bookworm/main amd64 Packages\n"
        "  bash | 5.2.15-3~deb12u1 | http://mirror.example/debian-security bookworm-security/main amd64 Packages\n"
        "  bash | 5.2.15-3 | http://mirror.example/debian bookworm/main Sources\n"
        "  dash | 0.5.12-2 | http://mirror.example/debian bookworm/main amd64 Packages\n"
        "nonsense\n"
    )
    found = cves.newer(shown, [package("bash", "5.2.15-2+b13"), package("dash", "0.5.12-2")])
    assert found == [cves.Newer("bash", "5.2.15-2+b13", "5.2.15-3~deb12u1", "bookworm-security/main")]


def test_the_report_says_what_it_could_not_see() -> None:
    installed = [package("openssl", "3.0.17-1~deb12u1")]
    python = [("tuf", "6.0.0")]
    blind = json.loads(cves.report("bookworm", installed, python, tracker=None, of_python=None, upgrades=[]))
    assert (blind["tracker"], blind["advisories"], len(blind["not_seen"])) == (False, False, 2)
    assert "tuf 6.0.0" in blind["not_seen"][1]
    finding = cves.Finding("CVE-1", "tuf", "6.0.0", "6.0.1", "high", "")
    seen = json.loads(cves.report("bookworm", installed, python, tracker=TRACKER, of_python=[finding], upgrades=[]))
    assert (len(seen["findings"]), seen["not_seen"], seen["packages"]) == (5, [], 2)


@pytest.mark.parametrize("text", ["", "[]", '{"openssl": 3}', "<html>"])
def test_another_file_than_the_trackers_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="security tracker's file"):
        cves.read_tracker(text)
