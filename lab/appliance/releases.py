"""Releases for the lab's routers, in the very form that `kyoten firmware build` writes: the next one, and bad ones.

``python -m lab.appliance.releases [FAULT...]`` makes them beforehand. Each is kept for the state of the checkout that
it was made of, with a whole payload and a delta from what the factory's disk runs. Packing is quick and not small.
"""

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from firmware import compose
from firmware.compose import Identity
from firmware.fields import TIME_FORMAT
from firmware.image import build, bundle, places
from firmware.image.build import Name
from firmware.image.errors import ImageError
from firmware.release import Applicability, SlotFacts, parse_slot_facts
from lab.appliance import faults, image
from lab.appliance.faults import Fault
from lab.appliance.holders import publish, trust_root

__all__ = ["Fault", "publish", "release", "trust_root", "version"]

#: zstd's: a fifth larger than what is published, thirty times as fast.
_LEVEL = 3
_DAY_S = 86400
#: On the data partition, MiB; see `kyoten firmware build --disk-mib`.
_DISK_MIB = 256


def version(fault: Fault | None = None) -> str:
    """The version of a release: 0.2.0 is good, those after it are not."""
    return f"0.{_counter(fault)}.0"


def release(fault: Fault | None = None, say: build.Say = lambda _text: None) -> Path:
    """The directory of a release, out of the cache or made now. Raises ImageError, ReleaseError, RepositoryError."""
    with image.state() as place:
        code = places.digest([Path(faults.__file__), Path(__file__)])
        finished = place / f"release-{version(fault)}-{code}"
        if not finished.exists():
            before = _first(place, say)
            day = image.FACTORY.epoch + _counter(fault) * _DAY_S
            name = Name(image.HARDWARE, version(fault), _counter(fault), day)
            fresh = places.empty(place / "release.new")
            made = build.slot_image(
                name,
                fresh / "image",
                trust=image.trust(),
                say=lambda text: say(f"{name.version}: {text}"),
                change=lambda root: faults.put_into(root, fault),
            )
            _compose(name, made.image, made.facts, fresh, (before,), say)
            fresh.rename(finished)
        return finished


def _first(place: Path, say: build.Say) -> Path:
    """What the factory's disk runs, as the directory of a release."""
    finished = place / "release-factory"
    if not finished.exists():
        made = image.factory(place, say)
        fresh = places.empty(place / "release.new")
        facts = parse_slot_facts((made / "slot.json").read_bytes())
        _compose(image.FACTORY, made / "slot.img", facts, fresh, (), say)
        fresh.rename(finished)
    return finished


def _compose(name: Name, slot: Path, facts: SlotFacts, output: Path, earlier: tuple[Path, ...], say: build.Say) -> None:
    """Bundle and payloads; of the build only what a release directory has is left."""
    (output / "image").mkdir(exist_ok=True)
    packed = output / "image" / "router.raucb"
    signed_by = build.development_signing()
    bundle.make(slot, packed, hardware=name.hardware, version=name.version, signing=signed_by, epoch=name.epoch)
    identity = Identity(
        hardware=name.hardware,
        version=name.version,
        counter=name.counter,
        created=datetime.fromtimestamp(name.epoch, UTC).strftime(TIME_FORMAT),
        applicability=Applicability(0, (name.hardware,), _DISK_MIB, False),
        notes="",
    )
    compose.release(
        identity,
        bundle=packed,
        slot=slot,
        facts=facts,
        earlier=earlier,
        output=output,
        level=_LEVEL,
        say=lambda key, params: say(f"{name.version}: {key} {params or ''}"),
    )
    shutil.rmtree(output / "image")


def _counter(fault: Fault | None) -> int:
    return 2 if fault is None else 3 + list(Fault).index(fault)


if __name__ == "__main__":
    try:
        for word in sys.argv[1:] or [""]:
            print(release(Fault(word) if word else None, lambda text: print(text, file=sys.stderr)))  # noqa: T201
    except ImageError as error:
        sys.exit(f"releases: {error}")
