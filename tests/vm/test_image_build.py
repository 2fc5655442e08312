"""The image as `make image` builds it, looked into from outside: what may be shipped, and that it is the same twice."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from firmware import slotblock
from firmware.image import build, places, signing
from firmware.image.build import BASE_EPOCH, Built, Name, Trust
from firmware.image.signing import Signing

NAME = Name("generic-x86-64", "0.1.0", 7, BASE_EPOCH)
#: What an image may weigh on the line, in bytes: 110 MiB. Here packed as quickly as zstd can, so it is less in truth.
TRAVELS_MAX_BYTES = 110 << 20


@dataclass(frozen=True, slots=True)
class Image:
    built: Built
    signed_by: Signing
    output: Path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Built once, from the cache of Debian's packages if it is there. The tests change nothing in it."""
    output = tmp_path_factory.mktemp("image")
    signed_by = build.development_signing()
    return Image(build.release(NAME, output, signed_by=signed_by, say=print), signed_by, output)


def _said(*argv: str | Path) -> str:
    return subprocess.run([*map(str, argv)], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def listing(image: Image) -> list[list[str]]:
    """mode, owner, size, date, time, path of all that is in the slot image."""
    shown = _said("unsquashfs", "-lln", "-no-progress", image.built.slot.image)
    found = [line.split(maxsplit=5) for line in shown.splitlines() if line[:1] in "-dlcbps"]
    assert len(found) > 3000, "the listing has another form than this test knows"
    return found


def _content(image: Image, path: str) -> str:
    return _said("unsquashfs", "-cat", image.built.slot.image, path)


def test_the_hash_tree_holds_and_one_flipped_bit_is_found(image: Image, tmp_path: Path) -> None:
    slot = image.built.slot.image
    facts = json.loads((image.output / "slot.json").read_text())
    assert facts["image_size"] == slot.stat().st_size
    assert facts["image_sha256"] == places.sha256(slot)
    options = [
        f"--data-blocks={facts['data_blocks']}", f"--hash-offset={facts['data_blocks'] * 4096}", "--no-superblock",
        f"--salt={facts['salt']}",
    ]  # fmt: skip
    _said("veritysetup", "verify", slot, slot, facts["root_hash"], *options)
    damaged = tmp_path / "slot.img"
    _said("cp", "--reflink=auto", slot, damaged)
    with damaged.open("r+b") as stream:
        stream.seek(facts["data_blocks"] * 2048)
        (byte,) = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(subprocess.CalledProcessError):
        _said("veritysetup", "verify", damaged, damaged, facts["root_hash"], *options)


def test_the_slot_block_says_what_the_papers_say(image: Image) -> None:
    facts = image.built.slot.facts
    block = slotblock.parse(image.built.slot.image.read_bytes()[-slotblock.BLOCK_BYTES :])
    assert (block.root_hash, block.salt, block.data_blocks) == (facts.root_hash, facts.salt, facts.data_blocks)


def test_no_program_lifts_whoever_runs_it(listing: list[list[str]]) -> None:
    assert [entry[-1] for entry in listing if entry[0][0] == "-" and set(entry[0]) & set("sS")] == []


def test_everything_is_roots_but_for_a_few_groups(listing: list[list[str]]) -> None:
    assert {entry[1].partition("/")[0] for entry in listing} == {"0"}


def test_nobody_has_a_password_and_no_machine_an_identity(image: Image, listing: list[list[str]]) -> None:
    secrets = {line.split(":")[1] for line in _content(image, "etc/shadow").splitlines()}
    assert secrets <= {"*", "!", "!*"}
    paths = [entry[-1].removeprefix("squashfs-root") for entry in listing]
    assert [path for path in paths if "ssh_host" in path] == []
    assert _content(image, "etc/machine-id") == ""


def test_only_our_units_start_and_no_console_asks_for_a_name(image: Image, listing: list[list[str]]) -> None:
    links = [entry[-1] for entry in listing if entry[0][0] == "l" and "/etc/systemd/system/" in entry[-1]]
    masked = {link.split(" -> ")[0].rpartition("/")[2] for link in links if link.endswith("-> /dev/null")}
    started = {link.split(" -> ")[0].rpartition("/")[2] for link in links if ".wants/" in link}
    assert {"getty@.service", "serial-getty@.service", "ssh.service", "emergency.service", "rescue.service"} <= masked
    ours = {name for name in started if name.startswith("kyoten-")}
    assert {"kyoten-agent.service", "kyoten-provision.service"} <= ours
    # An instance is masked by its template.
    others = {name for name in started - ours if re.sub("@.*[.]", "@.", name) not in masked}
    assert others <= {"remote-fs.target", "tmp.mount", "systemd-pstore.service"}


def test_the_router_trusts_the_authority_it_was_given(image: Image) -> None:
    assert _content(image, "usr/lib/kyoten/trust/rauc.pem") == image.signed_by.authority.read_text()
    assert "compatible=kyoten-generic-x86-64\n" in _content(image, "etc/rauc/system.conf")
    assert json.loads(_content(image, "usr/lib/kyoten/release.json"))["counter"] == NAME.counter


def test_the_bundle_is_taken_by_who_trusts_its_signer_only(image: Image, tmp_path: Path) -> None:
    _said("rauc", f"--keyring={image.signed_by.authority}", "info", image.built.bundle)
    stranger = signing.development(tmp_path / "stranger")
    with pytest.raises(subprocess.CalledProcessError):
        _said("rauc", f"--keyring={stranger.authority}", "info", image.built.bundle)


def test_it_is_small_enough_for_a_mobile_line(image: Image) -> None:
    packed = subprocess.run(["zstd", "-3", "-c", "-T2", image.built.bundle], capture_output=True, check=True).stdout
    assert len(packed) < TRAVELS_MAX_BYTES


def test_the_sbom_has_every_package_that_is_in_the_image(image: Image) -> None:
    made = json.loads(image.built.sbom.read_text())
    named = {(package["name"], package["versionInfo"]) for package in made["packages"]}
    status = _content(image, "var/lib/dpkg/status")
    paragraphs = [dict(line.split(": ", 1) for line in part.splitlines() if line[:1].isalpha() and ": " in line)
                  for part in status.split("\n\n") if part.strip()]  # fmt: skip
    installed = {(words["Package"], words["Version"]) for words in paragraphs}
    assert len(installed) > 100
    assert installed <= named
    python = {path.name for path in (image.built.slot.root / "usr/lib/kyoten/site").glob("*.dist-info")}
    listed = {f"{name.lower().replace('-', '_')}-{version}.dist-info" for name, version in named}
    others = {name.lower() for name in python if not name.startswith("kyoten-")}
    assert others <= listed
    assert {"kyoten-agent", "openssl"} <= {name for name, _version in named}
    report = json.loads(image.built.cves.read_text())
    assert report["packages"] == len(installed) + len(others)
    assert any("Python packages" in one for one in report["not_seen"])


def test_built_again_it_is_the_same(image: Image, tmp_path: Path) -> None:
    again = build.slot_image(NAME, tmp_path, trust=Trust(image.signed_by.authority), say=print)
    assert again.facts == image.built.slot.facts
