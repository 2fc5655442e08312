"""The image that is started: built from this checkout, once for each state of it. ``python -m lab.appliance.image``."""

import sys
from pathlib import Path

from firmware.image import build, disk, places
from firmware.image.build import Name, Trust
from firmware.image.errors import ImageError

_HARDWARE, _VERSION, _COUNTER = "generic-x86-64", "0.1.0", 1
_SOURCES = ("router_agent", "firmware", "linux", "images/router", "setup.cfg", "constraints.txt")


def factory_disk(say: build.Say = lambda _text: None) -> Path:
    """A disk as it leaves the factory. Takes a minute where Debian's packages are in the cache. Raises ImageError."""
    wanted = places.digest(places.ROOT / name for name in _SOURCES)
    place = places.CACHE / "tests"
    image, stamp = place / "disk.img", place / "stamp"
    if image.exists() and stamp.exists() and stamp.read_text() == wanted:
        return image
    stamp.unlink(missing_ok=True)
    name = Name(_HARDWARE, _VERSION, _COUNTER, build.BASE_EPOCH)
    trust = Trust(build.development_signing().authority, None)
    made = build.slot_image(name, place, trust=trust, say=say)
    disk.make(made.image, image, identity="tests", epoch=name.epoch)
    stamp.write_text(wanted)
    return image


if __name__ == "__main__":
    try:
        found = factory_disk(lambda text: print(f"image: {text}", file=sys.stderr))  # noqa: T201
    except ImageError as error:
        sys.exit(f"image: {error}")
    sys.stdout.write(f"{found}\n")
