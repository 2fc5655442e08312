"""What an image is made of, as data: kernel modules, dpkg's status, the initial RAM disk, SBOM, licences, disk."""

import json
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from firmware import layout
from firmware.image import bundle, debian, disk, initrd, kernel_modules, licences, sbom, slot, tree
from firmware.image.errors import ImageError
from firmware.image.initrd import Entry
from firmware.image.sbom import Component, Subject

MODULES = """\
kernel/drivers/net/igb.ko: kernel/drivers/i2c/i2c-algo-bit.ko kernel/drivers/i2c/i2c-core.ko
kernel/drivers/i2c/i2c-algo-bit.ko: kernel/drivers/i2c/i2c-core.ko
kernel/drivers/i2c/i2c-core.ko:
kernel/net/xfrm/xfrm_user.ko:
kernel/net/xfrm/xfrm-algo.ko:
kernel/sound/snd.ko:
"""


def test_a_module_is_kept_with_all_that_it_needs_and_nothing_else() -> None:
    known = kernel_modules.dependencies(MODULES)
    kept = kernel_modules.select(known, ["igb", "net/xfrm/", "no-such", "xfrm_algo"])
    assert {kernel_modules.name_of(path) for path in kept.paths} == {
        "igb", "i2c_algo_bit", "i2c_core", "xfrm_user", "xfrm_algo"
    }  # fmt: skip
    assert kept.unknown == ("no-such",)


def test_what_a_module_needs_is_loaded_before_it_and_once() -> None:
    order = kernel_modules.load_order(kernel_modules.dependencies(MODULES), ["igb", "i2c-core", "xfrm_user"])
    assert [kernel_modules.name_of(path) for path in order] == ["i2c_core", "i2c_algo_bit", "igb", "xfrm_user"]


STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.2.13.dfsg-1)
Version: 1:1.2.13.dfsg-1+b1
Description: compression library
 more
 words

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: base
Status: install ok installed
Architecture: all
Version: 12.4
"""


def test_dpkgs_status_is_read_with_sources_and_their_versions() -> None:
    base, zlib = debian.packages(STATUS)
    assert (base.name, base.source, base.source_version) == ("base", "base", "12.4")
    assert (zlib.version, zlib.source, zlib.source_version) == ("1:1.2.13.dfsg-1+b1", "zlib", "1:1.2.13.dfsg-1")
    assert [one.name for one in debian.packages(debian.without(STATUS, ["zlib1g"]))] == ["base"]


def test_a_package_is_taken_out_but_for_what_others_own_too(tmp_path: Path) -> None:
    for name in ("usr/bin/tool", "usr/share/both/file", "usr/share/own/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "bin").symlink_to("usr/bin")
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / debian.STATUS).write_text(STATUS)
    (info / "zlib1g:amd64.list").write_text(
        "/.\n/bin/tool\n/usr/share/both/file\n/usr/share/own\n/usr/share/own/file\n"
    )
    (info / "base.list").write_text("/.\n/usr/share/both/file\n")
    assert debian.take_out(tmp_path, ["zlib1g", "never-there"]) == ["zlib1g"]
    assert not (tmp_path / "usr/bin/tool").exists()
    assert not (tmp_path / "usr/share/own").exists()
    assert (tmp_path / "usr/share/both/file").exists()
    assert [one.name for one in debian.packages((tmp_path / debian.STATUS).read_text())] == ["base"]


def test_the_ram_disk_is_a_cpio_that_cpio_reads(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static of lab/debian-packages-vm.txt reads the archive"
    packed = initrd.pack(
        {
            "init": Entry(stat.S_IFREG | 0o755, b"#!/bin/sh\n"),
            "bin": Entry(stat.S_IFLNK | 0o777, b"usr/bin"),
            "usr/bin/deep/file": Entry(stat.S_IFREG | 0o644, b"abc"),
        }
    )
    (tmp_path / "packed").write_bytes(packed)
    place = tmp_path / "unpacked"
    place.mkdir()
    subprocess.run([busybox, "cpio", "-i", "-d"], input=packed, cwd=place, check=True, capture_output=True)
    assert (place / "usr/bin/deep/file").read_bytes() == b"abc"
    assert (place / "init").stat().st_mode & 0o777 == 0o755
    assert (place / "bin").readlink() == Path("usr/bin")
    assert len(packed) % 512 == 0


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("Format: x\nLicense: GPL-2+\nLicense: Expat\n", "GPL-2.0-or-later AND MIT"),
        ("Format: x\nLicense: LGPL-2.1 or BSD-3-clause\n", "BSD-3-Clause AND LGPL-2.1-only"),
        ("Format: x\nLicense: GPL-2+ with OpenSSL exception\n", "LicenseRef-GPL-2-with-OpenSSL-exception"),
        ("Format: x\nLicense: My_Own (thing)\n", "LicenseRef-My-Own-thing"),
        ("Format: x\nUpstream-Name: none\n", "NOASSERTION"),
        ("This is free software under the GPL.\nLicense: GPL-2+\n", "NOASSERTION"),
    ],
)
def test_licences_are_read_where_they_are_written_for_machines(text: str, expression: str) -> None:
    assert licences.declared(text) == expression


SUBJECT = Subject("generic-x86-64", "1.2.0", "ab" * 32, 1_767_225_600)


def test_the_sbom_names_everything_once_and_says_what_is_in_what() -> None:
    wheel = Component("cryptography", "50.0.2", "pkg:pypi/cryptography@50.0.2", "Apache-2.0", sha256="cd" * 32)
    inner = sbom.bundled(
        json.dumps(
            {"components": [{"name": "openssl", "version": "4.0.3", "purl": "pkg:generic/openssl@4.0.3?x=y"}, 7, {}]}
        ),
        wheel.identifier,
    )
    bash = Component("bash", "5.2.15-2+b13", "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64", "LicenseRef-odd")
    text = sbom.document(SUBJECT, [wheel, *inner, bash])
    made = json.loads(text)
    assert text == sbom.document(SUBJECT, [bash, *inner, wheel]), "the order of what is given must not matter"
    assert (made["spdxVersion"], made["creationInfo"]["created"]) == ("SPDX-2.3", "2026-01-01T00:00:00Z")
    ids = [package["SPDXID"] for package in made["packages"]]
    assert len(set(ids)) == len(ids) == 4
    assert [one["licenseId"] for one in made["hasExtractedLicensingInfos"]] == ["LicenseRef-odd"]
    contains = {(one["spdxElementId"], one["relatedSpdxElement"]) for one in made["relationships"]}
    assert (wheel.identifier, inner[0].identifier) in contains
    assert (ids[0], bash.identifier) in contains
    assert inner[0].purl == "pkg:generic/openssl@4.0.3"
    for package in made["packages"]:
        assert all(character.isalnum() or character in ".-" for character in package["SPDXID"].removeprefix("SPDXRef-"))


def test_a_wheels_own_list_that_cannot_be_read_costs_nothing() -> None:
    assert [sbom.bundled(text, "SPDXRef-x") for text in ("", "[]", '{"components": 3}', "{}")] == [[], [], [], []]


def test_a_unit_is_enabled_where_it_says_and_only_if_it_is_there(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/systemd/system"
    place.mkdir(parents=True)
    (place / "line@.service").write_text("[Install]\nWantedBy=multi-user.target\n")
    (place / "mute.service").write_text("[Service]\n")
    tree.enable(tmp_path, "line@wan0.service")
    link = tmp_path / "etc/systemd/system/multi-user.target.wants/line@wan0.service"
    assert link.readlink() == Path("/usr/lib/systemd/system/line@.service")
    for name, word in (("mute.service", "no .Install. section"), ("none.service", "not in the tree")):
        with pytest.raises(ImageError, match=word):
            tree.enable(tmp_path, name)


def test_our_files_are_readable_by_all_and_run_only_if_they_run_here(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "usr").mkdir(parents=True)
    (source / "usr/run").write_text("#!/bin/sh\n")
    (source / "usr/run").chmod(0o700)
    (source / "usr/read").write_text("x")
    (source / "usr/read").chmod(0o600)
    (source / "usr/link").symlink_to("/usr/run")
    tree.overlay(root, source)
    assert (root / "usr/run").stat().st_mode & 0o777 == 0o755
    assert (root / "usr/read").stat().st_mode & 0o777 == 0o644
    assert (root / "usr/link").readlink() == Path("/usr/run")


def test_a_releases_salt_is_its_own_and_always_the_same() -> None:
    assert slot.salt("box", "1", 1) == slot.salt("box", "1", 1)
    assert (
        len({slot.salt("box", "1", 1), slot.salt("box", "1", 2), slot.salt("bow", "1", 1), slot.salt("box", "2", 1)})
        == 4
    )


def test_rauc_is_told_the_format_and_whom_the_bundle_is_for() -> None:
    text = bundle.manifest("box", "1.0", "slot.img")
    assert "compatible=kyoten-box\n" in text
    assert "format=verity\n" in text
    assert "filename=slot.img\n" in text


def test_the_partition_table_is_the_layouts_and_the_same_for_the_same_release() -> None:
    lines = disk.table(4096, "box 1 1").splitlines()
    assert lines == disk.table(4096, "box 1 1").splitlines() != disk.table(4096, "box 2 2").splitlines()
    partitions = {int(line.split(" : ")[0]): line for line in lines if " : " in line}
    assert set(partitions) == {partition.number for partition in layout.PARTITIONS}
    for partition in layout.PARTITIONS:
        assert f"start={layout.offset_mib(partition) * 2048}," in partitions[partition.number]
        assert f'name="{partition.name}"' in partitions[partition.number]
    with pytest.raises(ValueError, match="too small"):
        disk.table(1024, "box 1 1")


def test_a_list_with_headings_keeps_their_order_and_its_own() -> None:
    text = "# why\n[watchdog]\ni6300esb  # a card\n\n[disks]\nnvme\nahci\n"
    assert initrd.sections(text, "amd64") == {"watchdog": ("i6300esb",), "disks": ("nvme", "ahci")}
    with pytest.raises(ImageError, match="under no heading"):
        initrd.sections("nvme\n[disks]\n", "amd64")


def test_a_heading_may_be_for_one_architecture() -> None:
    text = "[disks]\nnvme\n[disks amd64]\nata_piix\n[disks arm64]\nmmc\n[root amd64]\nsha256-ssse3\n[disks]\nahci\n"
    assert initrd.sections(text, "amd64") == {"disks": ("nvme", "ata_piix", "ahci"), "root": ("sha256-ssse3",)}
    assert initrd.sections(text, "arm64") == {"disks": ("nvme", "mmc", "ahci"), "root": ()}


def test_a_bundle_holds_the_slot_of_its_own_build_only(tmp_path: Path) -> None:
    """As mksquashfs packs it: in pieces of 128 KiB without those that are zeros, the last one among others."""
    piece = 128 * 1024
    dice = random.Random(5)
    pieces = [dice.randbytes(piece), bytes(piece), dice.randbytes(piece), dice.randbytes(piece), dice.randbytes(5000)]
    slot, packed = tmp_path / "slot.img", tmp_path / "router.raucb"
    slot.write_bytes(b"".join(pieces))
    packed.write_bytes(b"hsqs" + b"".join((pieces[0], pieces[2], pieces[3])) + b"between" + pieces[4] + b"signature")
    assert bundle.holds(packed, slot)
    for number in (0, 2, 3, 4):
        other = [*pieces[:number], bytes([pieces[number][0] ^ 1]) + pieces[number][1:], *pieces[number + 1 :]]
        slot.write_bytes(b"".join(other))
        assert not bundle.holds(packed, slot), number
    slot.write_bytes(b"".join((pieces[0], pieces[1], pieces[3], pieces[2], pieces[4])))
    assert not bundle.holds(packed, slot), "in another order"
