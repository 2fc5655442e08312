"""A whole build, in order: recipe, base tree, our files, initial RAM disk, slot image, and what describes it."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firmware.image import check, initrd, places, recipe, slot, software, squashfs, tree
from firmware.image.errors import ImageError
from firmware.image.recipe import Recipe
from firmware.image.software import PythonPackage
from firmware.layout import BOOT_SUMS, INITRD, KERNEL
from firmware.release import SlotFacts

#: On the router: which release runs. JSON with hardware, version, counter, created (seconds since 1970).
RELEASE_FILE = Path("usr/lib/kyoten/release.json")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Name:
    """What is built: ``counter`` orders releases; ``epoch`` is the time of every file in it, in seconds since 1970."""

    hardware: str
    version: str
    counter: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A built slot image, where it lies, and what is in it."""

    image: Path
    facts: SlotFacts
    recipe: Recipe
    python: tuple[PythonPackage, ...]


def committed_at() -> int:
    """When this checkout's last commit was made: the time of files unless one is given. Raises ImageError."""
    shown = subprocess.run(
        ["git", "-C", str(places.ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if shown.returncode != 0:
        raise ImageError("this is no git checkout: give the time of the release with --epoch")
    return int(shown.stdout)


def slot_image(name: Name, output: Path, *, say: Say, fresh: bool = False) -> Slot:
    """Build ``slot.img`` and ``slot.json`` in ``output``; ``root`` beside them is the tree. Raises ImageError."""
    wanted = recipe.parse((places.ROUTER / "recipe.toml").read_text(), name.hardware)
    pinned = recipe.constraints((places.ROOT / "constraints.txt").read_text())
    output.mkdir(parents=True, exist_ok=True)
    with places.locked() as cache:
        say("Debian's packages")
        base = tree.base(wanted, cache, epoch=BASE_EPOCH, fresh=fresh)
        wheels = software.fetch(wanted, pinned, cache)
        root = output / "root"
        tree.copy(base, root)
    say("the agent")
    python = software.unpack(wheels, root)
    software.install_agent(root, name.version)
    boot = places.ROUTER / "boot"
    for source in (places.ROUTER / "root", boot / "root"):
        if source.exists():
            tree.overlay(root, source)
    tree.settle(root, wanted.masked, tree.units(places.ROUTER / "units", boot / "units"))
    _name(root, name)
    software.compile_all(root)
    say("the initial RAM disk")
    if (boot / "initrd" / "init").exists():
        (root / INITRD).write_bytes(initrd.build(root, boot / "initrd"))
    _sums(root)
    check.tree_holds(root)
    check.agent_starts(root)
    say("the slot image")
    packed = output / "root.squashfs"
    squashfs.make(root, packed, epoch=name.epoch)
    image = output / "slot.img"
    facts = slot.make(packed, image, salt=slot.salt(name.hardware, name.version, name.counter), version=name.version)
    (output / "slot.json").write_text(slot.facts_text(facts))
    return Slot(image, facts, wanted, tuple(python))


#: The base tree is the same for all releases, so its times are, too: 2026-01-01. The squashfs has the release's.
BASE_EPOCH = 1767225600


def _name(root: Path, name: Name) -> None:
    document = {"hardware": name.hardware, "version": name.version, "counter": name.counter, "created": name.epoch}
    place = root / RELEASE_FILE
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(document, sort_keys=True) + "\n")
    release = root / "usr/lib/os-release"
    release.write_text(f"{release.read_text()}IMAGE_ID=kyoten-{name.hardware}\nIMAGE_VERSION={name.version}\n")


def _sums(root: Path) -> None:
    """GRUB holds kernel and RAM disk against these before it starts them."""
    place = root / BOOT_SUMS
    files = [file for file in (KERNEL, INITRD) if (root / file).exists()]
    lines = (f"{hashlib.sha256((root / file).read_bytes()).hexdigest()}  {Path(file).name}\n" for file in files)
    place.write_text("".join(lines))
