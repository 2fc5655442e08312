"""What the router's image is: ``python -m tests.bench.firmware_image PART``. The last line is JSON.

prepare       what the parts need of Debian's archive, which a lab box has no way to: packages for ``delta`` of
              firmware_transport, the lab's disk, and two builds from the archive's packages on
reproducible  reproducible    1: those two builds gave the same bytes
release       image_mib       a release by `kyoten firmware build`, as it travels whole; ``build_s`` and a delta, too
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from firmware.image import build, compare, places
from firmware.image.build import Name
from lab.appliance import image, releases
from lab.appliance.image import FACTORY
from tests.bench import firmware_transport
from tests.bench.parts import Figures

BINARIES = Path(sys.executable).parent
_MIB = 1 << 20
_KEPT = "bench-reproducible.json"
_SOURCES = ("router_agent", "firmware", "linux", "images/router", "setup.cfg", "constraints.txt")


def prepare() -> Figures:
    """Everything that needs the archive."""
    figures = firmware_transport.prepare()
    image.factory_disk(_say)
    kept = places.CACHE / _KEPT
    state = _state()
    if not kept.exists() or json.loads(kept.read_text())["state"] != state:
        kept.write_text(json.dumps({"state": state, **_twice()}) + "\n")
    return figures


def reproducible() -> Figures:
    """What `prepare` found for this state of the checkout."""
    kept = places.CACHE / _KEPT
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.pop("state", "") != _state():
        raise SystemExit("outside of the box run first: python -m tests.bench.firmware_image prepare")
    return dict(found)


def release() -> Figures:
    """Two releases as an operator makes them, the second with a delta from the first."""
    with tempfile.TemporaryDirectory(prefix="kyoten-release-", dir="/var/tmp") as name:
        place = Path(name)
        figures: Figures = {}
        for counter, earlier in ((1, ()), (2, ("--from", str(place / "1")))):
            began = time.monotonic()
            shown = _kyoten(
                "build", "--hardware", image.HARDWARE, "--version", f"1.{counter}", "--counter", str(counter),
                "--signing", str(_signing(place)), "--root", str(releases.trust_root()), *earlier,
                "--epoch", str(FACTORY.epoch + counter), "--output", str(place / str(counter)), "--json",
            )  # fmt: skip
            figures[f"build_{'delta_' * (counter - 1)}s"] = round(time.monotonic() - began, 1)
        made = json.loads(shown)
        (delta,) = made["deltas"]
        return {
            "image_mib": made["full_bytes"] / _MIB,
            "same_but_version_delta_kib": delta["bytes"] / 1024,
            **figures,
        }


def _twice() -> Figures:
    """Two builds from Debian's packages on."""
    with tempfile.TemporaryDirectory(prefix="kyoten-twice-", dir="/var/tmp") as name:
        began = time.monotonic()
        words = ("one", "other")
        what = Name(image.HARDWARE, "1.0", 1, build.BASE_EPOCH)
        made = [build.slot_image(what, Path(name) / word, trust=image.trust(), say=_say, fresh=True) for word in words]
        same = made[0].facts == made[1].facts
        if not same:
            for line in compare.differences(made[0].root, made[1].root):
                _say(line)
        return {"reproducible": int(same), "reproducible_s": round(time.monotonic() - began, 1)}


def _signing(place: Path) -> Path:
    """The development signing as the directory that `--signing` takes."""
    found = build.development_signing()
    target = place / "signing"
    target.mkdir(mode=0o700, exist_ok=True)
    for path in (found.key, found.certificate, found.authority):
        shutil.copy(path, target / path.name)
    return target


def _kyoten(*words: str) -> str:
    argv = [str(BINARIES / "kyoten"), "firmware", *words]
    ended = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"LC_ALL": "C.UTF-8"})
    if ended.returncode != 0:
        raise SystemExit(f"kyoten firmware {words[0]} ended with {ended.returncode}")
    return ended.stdout


def _state() -> str:
    return places.digest(places.ROOT / name for name in _SOURCES)


def _say(text: str) -> None:
    sys.stderr.write(f"    {text}\n")


def main() -> int:
    """Measure; the last line is one JSON object."""
    figures = {"prepare": prepare, "reproducible": reproducible, "release": release}[sys.argv[1]]()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
