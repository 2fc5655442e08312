"""A whole build, in order: recipe, base tree, our files, initial RAM disk, slot image, and what describes it."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware.image import (
    advisories,
    bundle,
    check,
    contents,
    cves,
    debian,
    disk,
    initrd,
    places,
    recipe,
    sbom,
    signing,
    slot,
    software,
    squashfs,
    tree,
)
from firmware.image.errors import ImageError
from firmware.image.recipe import Recipe
from firmware.image.sbom import Subject
from firmware.image.signing import Signing
from firmware.image.software import PythonPackage
from firmware.layout import BOOT_SUMS, DISK_MIN_MIB, INITRD, KERNEL
from firmware.release import SlotFacts

#: On the router: which release runs. JSON with hardware, version, counter, created (seconds since 1970).
RELEASE_FILE = Path("usr/lib/kyoten/release.json")

#: On the router: RAUC's authority and TUF's root.
TRUST = Path("usr/lib/kyoten/trust")

Say = Callable[[str], None]
Change = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Name:
    """What is built: ``counter`` orders releases; ``epoch`` is the time of every file in it, in seconds since 1970."""

    hardware: str
    version: str
    counter: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the router believes: PEM of the authority of bundles, and TUF's root metadata (None: it takes no releases
    from a repository until it has one)."""

    authority: Path
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A built slot image, where it lies, its tree, and what is in it."""

    image: Path
    facts: SlotFacts
    root: Path
    recipe: Recipe
    python: tuple[PythonPackage, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """Files of known vulnerabilities that a person has fetched: Debian's security tracker's, PyPI's advisories."""

    tracker: Path | None = None
    advisories: Path | None = None


NOTHING_KNOWN = Known()


@dataclass(frozen=True, slots=True)
class Built:
    """A whole release: the slot image, its bundle, and the papers beside them."""

    slot: Slot
    bundle: Path
    sbom: Path
    cves: Path


def committed_at() -> int:
    """When this checkout's last commit was made: the time of files unless one is given. Raises ImageError."""
    shown = subprocess.run(
        ["git", "-C", str(places.ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if shown.returncode != 0:
        raise ImageError("this is no git checkout: give the time of the release with --epoch")
    return int(shown.stdout)


def development_signing() -> Signing:
    """The signing of this machine's development images. Raises ImageError without root."""
    with places.locked() as cache:
        return signing.development(cache / "development-signing")


def release(
    name: Name,
    output: Path,
    *,
    signed_by: Signing,
    say: Say,
    trust_root: Path | None = None,
    known: Known = NOTHING_KNOWN,
    fresh: bool = False,
) -> Built:
    """Build everything of a release in ``output``. Raises ImageError."""
    made = slot_image(name, output, trust=Trust(signed_by.authority, trust_root), say=say, fresh=fresh)
    say("the bundle")
    built = Built(made, output / "router.raucb", output / "sbom.spdx.json", output / "cves.json")
    bundle.make(
        made.image, built.bundle, hardware=name.hardware, version=name.version, signing=signed_by, epoch=name.epoch
    )
    say("what is inside")
    installed = debian.packages((made.root / debian.STATUS).read_text(encoding="utf-8"))
    parts = contents.components(made.root, made.recipe.suite, made.python, name.version)
    subject = Subject(name.hardware, name.version, made.facts.image_sha256, name.epoch)
    built.sbom.write_text(sbom.document(subject, parts), encoding="utf-8")
    report = vulnerabilities(
        made.recipe.suite, installed, [(package.name, package.version) for package in made.python], known
    )
    built.cves.write_text(report, encoding="utf-8")
    return built


def vulnerabilities(
    suite: str, installed: Sequence[debian.Package], python: Sequence[advisories.Distribution], known: Known
) -> str:
    """cves.json of an image with these packages. Raises ImageError: a file that was given is something else."""
    tracker = None if known.tracker is None else cves.read_tracker(known.tracker.read_text(encoding="utf-8"))
    of_python = None if known.advisories is None else advisories.matching(advisories.read(known.advisories), python)
    upgrades = cves.known_to_apt(installed)
    return cves.report(suite, installed, python, tracker=tracker, of_python=of_python, upgrades=upgrades)


def factory_disk(built: Built, name: Name, output: Path, *, disk_mib: int = DISK_MIN_MIB) -> Path:
    """The disk that a router is made with, beside the bundle. Raises ImageError."""
    image = output / "disk.img"
    identity = f"{name.hardware} {name.version} {name.counter}"
    disk.make(built.slot.image, image, wanted=built.slot.recipe, identity=identity, epoch=name.epoch, disk_mib=disk_mib)
    return image


def recipe_of(hardware: str) -> Recipe:
    """The checkout's recipe for one kind of hardware. Raises RecipeError."""
    return recipe.parse(places.RECIPE.read_text(), hardware)


def slot_image(
    name: Name, output: Path, *, trust: Trust, say: Say, fresh: bool = False, change: Change = lambda _root: None
) -> Slot:
    """Build ``slot.img`` and ``slot.json`` in ``output``; ``root`` beside them is the tree. Raises ImageError.

    ``change``: what the lab does to the tree before byte code, RAM disk and sums are made of it.
    """
    wanted = recipe_of(name.hardware)
    pinned = recipe.constraints((places.ROOT / "constraints.txt").read_text())
    output.mkdir(parents=True, exist_ok=True)
    root = output / "root"
    with places.locked() as cache:
        say("Debian's packages")
        base = tree.base(wanted, cache, epoch=BASE_EPOCH, fresh=fresh)
        wheels = software.fetch(wanted, pinned, cache)
        tree.copy(base, root)
    say("the agent")
    python = software.unpack(wheels, root)
    software.install_agent(root, name.version)
    boot = places.ROUTER / "boot"
    for source in (places.ROUTER / "root", boot / "root"):
        tree.overlay(root, source)
    tree.settle(root, wanted.masked, tree.units(places.ROUTER / "units", boot / "units"))
    _name(root, name, trust)
    change(root)
    software.compile_all(root)
    say("the initial RAM disk")
    (root / INITRD).write_bytes(initrd.build(root, boot / "initrd", wanted.architecture))
    _sums(root)
    check.tree_holds(root)
    check.agent_starts(root)
    say("the slot image")
    packed = output / "root.squashfs"
    squashfs.make(root, packed, epoch=name.epoch)
    image = output / "slot.img"
    facts = slot.make(packed, image, salt=slot.salt(name.hardware, name.version, name.counter), version=name.version)
    slot.verify(image, facts)
    (output / "slot.json").write_text(slot.facts_text(facts))
    return Slot(image, facts, root, wanted, tuple(python))


#: The base tree is the same for all releases, so its times are, too: 2026-01-01. The squashfs has the release's.
BASE_EPOCH = 1767225600


def _name(root: Path, name: Name, trust: Trust) -> None:
    """Who this is, and whom it believes."""
    document = {"hardware": name.hardware, "version": name.version, "counter": name.counter, "created": name.epoch}
    (root / RELEASE_FILE).write_text(json.dumps(document, sort_keys=True) + "\n")
    described = root / "usr/lib/os-release"
    described.write_text(f"{described.read_text()}IMAGE_ID=kyoten-{name.hardware}\nIMAGE_VERSION={name.version}\n")
    place = root / TRUST
    place.mkdir()
    (place / "rauc.pem").write_bytes(trust.authority.read_bytes())
    if trust.root is not None:
        (place / "root.json").write_bytes(trust.root.read_bytes())
    configuration = root / "etc/rauc/system.conf"
    configuration.write_text(configuration.read_text().replace("@COMPATIBLE@", bundle.compatible(name.hardware)))


def _sums(root: Path) -> None:
    """GRUB holds kernel and RAM disk against these before it starts them."""
    lines = (f"{places.sha256(root / file)}  {Path(file).name}\n" for file in (KERNEL, INITRD))
    (root / BOOT_SUMS).write_text("".join(lines))
