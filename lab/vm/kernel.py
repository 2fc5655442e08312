"""Debian's kernel, fetched by the machine's own apt and unpacked into the cache.

It is not installed: a kernel package brings an initial RAM disk of its own and looks for a boot loader, and this
machine shall boot as before. The cloud flavour would be smaller, but has no PPP, no USB and no watchdog.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.vm import cache
from lab.vm.cache import VmError

PACKAGE = "linux-image-amd64"

#: What the machine needs to reach its root; everything else is loaded from there when it is asked for.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "9p", "9pnet_virtio", "overlay", "squashfs")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted. ``boot_modules`` in the order in which they go in."""

    version: str
    image: Path
    modules_disk: Path
    boot_modules: tuple[Path, ...]


def ensure(place: Path) -> Kernel:
    """The kernel in the cache, fetched if there is none (70 MB). The cache is locked by the caller. Raises VmError."""
    directory = place / "kernel"
    complete = directory / "order"
    if not complete.exists():
        _fetch(cache.empty(directory))
    version, *names = complete.read_text().split()
    return Kernel(
        version,
        image=directory / "vmlinuz",
        modules_disk=directory / "modules.squashfs",
        boot_modules=tuple(directory / name for name in names),
    )


def _fetch(directory: Path) -> None:
    depends = cache.run(["apt-cache", "depends", PACKAGE])
    real = next((line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line), None)
    if real is None:
        raise VmError(f"apt does not know {PACKAGE}: run `apt-get update`, or check the machine's apt sources")
    version = real.removeprefix("linux-image-")
    unpacked = directory / "unpacked"
    # root's download directory is closed to apt's own user; that is a warning of apt, not a fault.
    cache.run(["apt-get", "-qq", "download", real], directory=directory)
    (package,) = directory.glob("*.deb")
    cache.run(["dpkg-deb", "-x", str(package), str(unpacked)])
    package.unlink()
    cache.run(["depmod", "-b", str(unpacked), version])
    names = []
    for path in _load_order(unpacked, version):
        shutil.copy(path, directory / path.name)
        names.append(path.name)
    cache.make_disk(unpacked / "lib" / "modules", directory / "modules.squashfs")
    shutil.copy(unpacked / "boot" / f"vmlinuz-{version}", directory / "vmlinuz")
    shutil.rmtree(unpacked)
    (directory / "order").write_text("\n".join([version, *names, ""]))


def _load_order(root: Path, version: str) -> list[Path]:
    found: dict[Path, None] = {}
    for module in BOOT_MODULES:
        shown = cache.run(["modprobe", "-d", str(root), "-S", version, "--show-depends", module])
        found |= {Path(line.split()[1]): None for line in shown.splitlines() if line.startswith("insmod ")}
    return list(found)


if __name__ == "__main__":
    try:
        with cache.locked() as cache_place:
            sys.stdout.write(f"setup: kernel {ensure(cache_place).version} is ready\n")
    except VmError as error:
        sys.exit(f"setup: {error}")
