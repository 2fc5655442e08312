"""The image that is started: built from this checkout, once for each state of it. ``python -m lab.appliance.image``."""

import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.image import build, disk, places
from firmware.image.build import Name, Trust
from firmware.image.errors import ImageError
from lab.appliance import holders

HARDWARE = "generic-x86-64"
_VERSION, _COUNTER = "0.1.0", 1
_SOURCES = ("router_agent", "firmware", "linux", "images/router", "setup.cfg", "constraints.txt")
#: What was made of other states of the checkout goes so many seconds after it was asked for: a run may take an hour.
_KEPT_S = 3 * 3600

#: What leaves the factory.
FACTORY = Name(HARDWARE, _VERSION, _COUNTER, build.BASE_EPOCH)


def factory_disk(say: build.Say = lambda _text: None) -> Path:
    """A disk as it leaves the factory. Takes a minute where Debian's packages are in the cache. Raises ImageError."""
    with state() as place:
        return _disk(place, say)


def factory(place: Path, say: build.Say) -> Path:
    """The directory of the factory's disk, with ``slot.img`` and ``slot.json`` beside it. ``place``: of `state`."""
    return _disk(place, say).parent


def trust() -> Trust:
    """Whom the lab's routers believe. Raises ImageError."""
    return Trust(build.development_signing().authority, holders.trust_root())


@contextmanager
def state() -> Iterator[Path]:
    """What is kept of this state of the checkout; held alone, so that a thing is built once. Raises ImageError."""
    believed = trust()
    roots = [believed.authority, *([] if believed.root is None else [believed.root])]
    digest = places.digest([*(places.ROOT / name for name in _SOURCES), *roots])
    whole = places.CACHE / "tests"
    whole.mkdir(exist_ok=True)
    with (whole / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = whole / f"state-{digest}"
        place.mkdir(exist_ok=True)
        place.touch()
        for other in whole.glob("state-*"):
            if other.stat().st_mtime < place.stat().st_mtime - _KEPT_S:
                shutil.rmtree(other)
        yield place


def _disk(place: Path, say: build.Say) -> Path:
    finished = place / "factory"
    if not finished.exists():
        fresh = places.empty(place / "factory.new")
        made = build.slot_image(FACTORY, fresh, trust=trust(), say=say)
        disk.make(made.image, fresh / "disk.img", wanted=made.recipe, identity="tests", epoch=FACTORY.epoch)
        shutil.rmtree(made.root)
        fresh.rename(finished)
    return finished / "disk.img"


if __name__ == "__main__":
    try:
        found = factory_disk(lambda text: print(f"image: {text}", file=sys.stderr))  # noqa: T201
    except ImageError as error:
        sys.exit(f"image: {error}")
    sys.stdout.write(f"{found}\n")
