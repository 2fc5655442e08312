"""`python -m firmware.image`: build the router's image.

build          everything: slot image, bundle, disk, what is inside, known vulnerabilities; `make image`
slot           slot.img and slot.json only
disk           a disk of a slot image that was built before
cves           the list of vulnerabilities again, for a tree that was built before
reproducible   build the slot image twice, from Debian's packages on, and hold the two against each other
"""

import argparse
import sys
import time
from pathlib import Path

from firmware.image import build, compare, debian, disk, foreign, places, recipe, software
from firmware.image.build import Name, Trust
from firmware.image.errors import ImageError
from firmware.image.signing import Signing
from firmware.layout import DISK_MIN_MIB

MIB = 1 << 20


def main() -> int:
    """Run the command; the answer is the exit status."""
    arguments = _parser().parse_args()
    try:
        if hasattr(arguments, "hardware"):
            wanted = build.recipe_of(arguments.hardware)
            if foreign.needed(wanted.architecture):
                return foreign.again(wanted.architecture, places.CACHE)
        return int(arguments.work(arguments, _teller()))
    except (ImageError, OSError) as error:
        sys.stderr.write(f"image: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firmware.image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for word, work in (("build", _build), ("slot", _slot), ("reproducible", _reproducible)):
        command = commands.add_parser(word)
        command.set_defaults(work=work)
        command.add_argument("--hardware", default="generic-x86-64")
        command.add_argument("--version", default="0.1.0")
        command.add_argument("--counter", type=int, default=1)
        command.add_argument("--epoch", type=int, help="time of all files, in seconds since 1970; the last commit's")
        command.add_argument("--output", type=Path, default=places.ROOT / "build" / "image")
        command.add_argument("--fresh", action="store_true", help="with today's Debian packages, not the cached ones")
        command.add_argument("--authority", type=Path, help="PEM: whose bundles the router takes; for development")
        command.add_argument("--trust-root", type=Path, help="TUF's root metadata, for the router")
    command = commands.choices["build"]
    command.add_argument("--key", type=Path, help="PEM: signs the bundle; with --certificate and --authority")
    command.add_argument("--certificate", type=Path)
    _add_known(command)
    command.add_argument("--disk-mib", type=int, default=DISK_MIN_MIB)
    command = commands.add_parser("disk")
    command.set_defaults(work=_disk)
    command.add_argument("slot", type=Path)
    command.add_argument("disk", type=Path)
    command.add_argument("--hardware", dest="of", default="generic-x86-64")
    command.add_argument("--identity", default="development")
    command.add_argument("--disk-mib", type=int, default=DISK_MIN_MIB)
    command = commands.add_parser("cves")
    command.set_defaults(work=_cves)
    command.add_argument("root", type=Path)
    _add_known(command)
    return parser


def _add_known(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tracker", type=Path, help="security-tracker.debian.org/tracker/data/json, fetched before")
    command.add_argument("--advisories", type=Path, help="OSV's PyPI/all.zip, fetched before, for Python packages")


def _teller() -> build.Say:
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"image: {time.monotonic() - began:6.1f} s  {text}\n")
        sys.stdout.flush()

    return say


def _name(arguments: argparse.Namespace) -> Name:
    epoch = build.committed_at() if arguments.epoch is None else arguments.epoch
    return Name(arguments.hardware, arguments.version, arguments.counter, epoch)


def _signing(arguments: argparse.Namespace) -> Signing:
    given = (arguments.key, arguments.certificate, arguments.authority)
    if not any(given):
        return build.development_signing()
    if not all(given):
        raise ImageError("--key, --certificate and --authority belong together")
    return Signing(*given)


def _trust(arguments: argparse.Namespace) -> Trust:
    return Trust(arguments.authority or build.development_signing().authority, arguments.trust_root)


def _build(arguments: argparse.Namespace, say: build.Say) -> int:
    name, output = _name(arguments), arguments.output
    built = build.release(
        name,
        output,
        signed_by=_signing(arguments),
        say=say,
        trust_root=arguments.trust_root,
        known=build.Known(arguments.tracker, arguments.advisories),
        fresh=arguments.fresh,
    )
    say("the disk")
    image = build.factory_disk(built, name, output, disk_mib=arguments.disk_mib)
    say(f"{built.slot.image}: {built.slot.facts.image_size / MIB:.1f} MiB, root hash {built.slot.facts.root_hash}")
    for path in (built.bundle, image, built.sbom, built.cves):
        say(str(path))
    return 0


def _slot(arguments: argparse.Namespace, say: build.Say) -> int:
    made = build.slot_image(_name(arguments), arguments.output, trust=_trust(arguments), say=say, fresh=arguments.fresh)
    say(f"{made.image}: {made.facts.image_size / MIB:.1f} MiB, root hash {made.facts.root_hash}")
    return 0


def _disk(arguments: argparse.Namespace, say: build.Say) -> int:
    disk.make(
        arguments.slot,
        arguments.disk,
        wanted=build.recipe_of(arguments.of),
        identity=arguments.identity,
        epoch=build.BASE_EPOCH,
        disk_mib=arguments.disk_mib,
    )
    say(str(arguments.disk))
    return 0


def _cves(arguments: argparse.Namespace, _say: build.Say) -> int:
    packages = debian.packages((arguments.root / debian.STATUS).read_text(encoding="utf-8"))
    python = software.installed(arguments.root)
    known = build.Known(arguments.tracker, arguments.advisories)
    sys.stdout.write(build.vulnerabilities(recipe.suite(places.RECIPE.read_text()), packages, python, known))
    return 0


def _reproducible(arguments: argparse.Namespace, say: build.Say) -> int:
    name, trust = _name(arguments), _trust(arguments)
    made = [
        build.slot_image(name, arguments.output / word, trust=trust, say=say, fresh=True) for word in ("one", "other")
    ]
    one, other = (slot.facts.image_sha256 for slot in made)
    if one == other:
        say(f"reproducible: {one}")
        return 0
    say(f"NOT reproducible: {one} {other}")
    for line in compare.differences(made[0].root, made[1].root):
        say(line)
    return 1


if __name__ == "__main__":
    sys.exit(main())
