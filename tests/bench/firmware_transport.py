"""What an update costs on the way: ``python -m tests.bench.firmware_transport PART``. The last line is JSON.

line   a payload over 384/64 kbit/s with 1 % loss, dropped and with a new address every DROP_EVERY_S; in a lab box
prepare  get the packages that `delta` compares with into the cache; a lab box has no way to the archive
delta  deltas between real images that differ by one package (libssl3, the archive's oldest to its newest) and by the
       kernel (the archive's oldest to its newest); how long and in how much memory a router puts them together
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from firmware import delta_make
from firmware.image import build, initrd, places, slot, squashfs, tree
from firmware.image.build import Built, Name
from firmware.layout import BOOT_SUMS, INITRD, KERNEL
from lab.bad_line import BadLine
from tests.bench.parts import Figures

HARDWARE = "generic-x86-64"
EPOCH = 1_790_000_000
PACKAGE = "libssl3"
PAYLOAD_BYTES = 8 << 20
#: Bad lines drop every ten minutes; here they do so thirteen times as often.
DROP_EVERY_S = 45.0
_MIB = 1 << 20


def measure_line() -> Figures:
    """The bad line."""
    line = BadLine("bench", random.Random(1).randbytes(PAYLOAD_BYTES))
    try:
        line.shape()
        began = time.monotonic()
        line.start()
        drops, next_drop = 0, began + DROP_EVERY_S
        while "finished" not in (line.said() or [{}])[-1]:
            time.sleep(0.2)
            if time.monotonic() > next_drop:
                line.drop()
                time.sleep(3)
                line.new_address()
                drops, next_drop = drops + 1, time.monotonic() + DROP_EVERY_S
            if time.monotonic() - began > 1800:
                raise SystemExit("the payload did not come within half an hour")
        took_s = time.monotonic() - began
        if line.fetched() != line.content:
            raise SystemExit("the payload is not what was sent")
        # The router's own count: what its fetcher read. The line's count has TLS, HTTP and what came twice as well.
        travelled = int(str(next(one["travelled"] for one in reversed(line.said()) if "travelled" in one)))
        return {
            "redownloaded_pct": line.excess_pct(),
            "redownloaded_body_pct": 100.0 * (travelled / PAYLOAD_BYTES - 1),
            "line_drops": drops,
            "line_seconds": took_s,
            "line_use_pct": 100.0 * PAYLOAD_BYTES * 8 / 384_000 / took_s,
        }
    finally:
        line.close()


def measure_delta() -> Figures:
    """Real images."""
    with tempfile.TemporaryDirectory(prefix="kyoten-delta-", dir="/var/tmp") as name:
        place = Path(name)
        new = build.release(
            Name(HARDWARE, "2.0.0", 2, EPOCH), place / "new", signed_by=build.development_signing(), say=_say
        )
        _say("the full payload")
        delta_make.make_full(new.bundle, place / "full.zst")
        full = (place / "full.zst").stat().st_size
        figures: Figures = {"full_mib": full / _MIB, "bundle_mib": new.bundle.stat().st_size / _MIB}
        for what, change in (("package", _other_package), ("kernel", _other_kernel)):
            _say(f"an image with another {what}")
            old = _variant(new, place / what, change)
            _say(f"the delta: {what}")
            began = time.monotonic()
            made = delta_make.make_delta(old, new.bundle, place / "delta", slot=new.slot.facts)
            size = (place / "delta").stat().st_size
            seconds, mib = _apply(old, place / "delta", place / "out")
            figures |= {
                f"delta_pct_of_full_{what}": 100.0 * size / full,
                f"delta_{what}_mib": size / _MIB,
                f"delta_{what}_make_s": time.monotonic() - began - seconds,
                f"delta_{what}_apply_s": seconds,
                f"delta_{what}_apply_mib": mib,
                f"delta_{what}_declared_mib": made.memory_mib,
            }
            shutil.rmtree(place / what)
        return figures


def _variant(new: Built, place: Path, change: Callable[[Path, Path], None]) -> Path:
    """The slot image of the release before: the same tree but for ``change``, its name and its salt."""
    place.mkdir()
    root = place / "root"
    tree.copy(new.slot.root, root)
    change(root, place)
    named = root / build.RELEASE_FILE
    named.write_text(named.read_text().replace("2.0.0", "1.0.0").replace('"counter": 2', '"counter": 1'))
    described = root / "usr/lib/os-release"
    described.write_text(described.read_text().replace("2.0.0", "1.0.0"))
    squashfs.make(root, place / "root.squashfs", epoch=EPOCH - 1_000_000)
    slot.make(place / "root.squashfs", place / "slot.img", salt=slot.salt(HARDWARE, "1.0.0", 1), version="1.0.0")
    # Routers run what came in a bundle, but the slot's bytes are the image's.
    return place / "slot.img"


def prepare() -> Figures:
    """Get both packages."""
    return {"packages": len([_fetched(package) for package in (_older_package(), _older_kernel())])}


def _older_package() -> str:
    """The archive's oldest version of the package; the newest is in the image."""
    listed = subprocess.run(["apt-cache", "madison", PACKAGE], capture_output=True, text=True, check=True).stdout
    versions = [line.split("|")[1].strip() for line in listed.splitlines()]
    if len(set(versions)) < 2:
        raise SystemExit(f"the archive has one version of {PACKAGE} only: nothing to compare")
    return f"{PACKAGE}={versions[-1]}"


def _older_kernel() -> str:
    """The archive's oldest kernel; the newest is in the image."""
    wanted = r"^linux-image-6\.1\.0-[0-9]+-amd64$"
    listed = subprocess.run(["apt-cache", "search", "--names-only", wanted], capture_output=True, text=True, check=True)
    names = sorted({line.split()[0] for line in listed.stdout.splitlines()}, key=lambda one: int(one.split("-")[3]))
    if len(names) < 2:
        raise SystemExit("the archive has one kernel only: nothing to compare")
    return names[0]


def _other_package(root: Path, place: Path) -> None:
    """The older version of the package in the place of the newest."""
    content = _unpacked(_older_package(), place)
    changed = 0
    for path in sorted((content / "usr/lib").rglob("*")):
        target = root / path.relative_to(content)
        if path.is_file() and target.is_file():
            changed += path.read_bytes() != target.read_bytes()
            shutil.copyfile(path, target)
    if not changed:
        raise SystemExit(f"{PACKAGE} is the same in both: nothing to compare")
    shutil.rmtree(content)


def _other_kernel(root: Path, place: Path) -> None:
    """Another kernel: its image, the same choice of its modules, a RAM disk with them."""
    content = _unpacked(_older_kernel(), place)
    (source,) = (content / "lib/modules").iterdir()
    old, fresh = root / "usr/lib/modules" / tree.kernel_version(root), root / "usr/lib/modules" / source.name
    if old == fresh:
        raise SystemExit(f"the image has {source.name} itself: nothing to compare")
    old.rename(fresh)
    for path in sorted(fresh.rglob("*.ko")):
        known = source / path.relative_to(fresh)
        if known.exists():
            shutil.copyfile(known, path)
        else:
            path.unlink()
    for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (fresh / index).exists():
            shutil.copyfile(source / index, fresh / index)
    subprocess.run(["depmod", "-b", root, source.name], check=True)
    shutil.copyfile(content / "boot" / f"vmlinuz-{source.name}", root / KERNEL)
    (root / INITRD).write_bytes(initrd.build(root, places.ROUTER / "boot" / "initrd", "amd64"))
    sums = (f"{places.sha256(root / file)}  {Path(file).name}\n" for file in (KERNEL, INITRD))
    (root / BOOT_SUMS).write_text("".join(sums))
    shutil.rmtree(content)


def _fetched(package: str) -> Path:
    """A package of the archive, out of the cache or fetched now."""
    with places.locked() as cache:
        place = cache / "older" / package.replace("=", "_").replace(":", "_")
        if not place.exists():
            fresh = place.with_name(f"{place.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            argv = ["apt-get", "download", "-q", package]
            if subprocess.run(argv, cwd=fresh, check=False, stdout=sys.stderr).returncode != 0:
                raise SystemExit(f"{package} is not to be had here; outside of the box run: {sys.argv[0]} prepare")
            fresh.rename(place)
    (deb,) = place.iterdir()
    return deb


def _unpacked(package: str, place: Path) -> Path:
    """A package of the archive, unpacked."""
    subprocess.run(["dpkg-deb", "-x", _fetched(package), place / "content"], check=True)
    return place / "content"


_APPLY = """
import resource, sys, time
from pathlib import Path
from firmware import delta
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
delta.apply(*map(Path, sys.argv[1:]))
own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(time.monotonic() - began, (own - before + child) / 1024)
"""


def _apply(old: Path, packed: Path, output: Path) -> tuple[float, float]:
    """Seconds, and MiB of memory in all besides Python's own."""
    argv = [sys.executable, "-c", _APPLY, str(old), str(packed), str(output)]
    seconds, mib = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    output.unlink()
    return float(seconds), float(mib)


def _say(text: str) -> None:
    sys.stderr.write(f"    {text}\n")


def main() -> int:
    """Measure; the last line is one JSON object."""
    figures = {"line": measure_line, "prepare": prepare, "delta": measure_delta}[sys.argv[1]]()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
