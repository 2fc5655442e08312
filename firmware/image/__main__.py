"""`python -m firmware.image`: build the router's image."""

import argparse
import sys
import time
from pathlib import Path

from firmware.image import build, places
from firmware.image.build import Name
from firmware.image.errors import ImageError


def main() -> int:
    """Run the command; the answer is the exit status."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.work(arguments))
    except ImageError as error:
        sys.stderr.write(f"image: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m firmware.image")
    commands = parser.add_subparsers(required=True)
    slot = commands.add_parser("slot", help="slot.img and slot.json only")
    slot.set_defaults(work=_slot)
    _name_options(slot)
    return parser


def _name_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hardware", default="generic-x86-64")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--counter", type=int, default=1)
    parser.add_argument("--epoch", type=int, help="time of all files, in seconds since 1970; the last commit's")
    parser.add_argument("--output", type=Path, default=places.ROOT / "build" / "image")
    parser.add_argument("--fresh", action="store_true", help="with today's Debian packages, not the cached ones")


def _name(arguments: argparse.Namespace) -> Name:
    epoch = build.committed_at() if arguments.epoch is None else arguments.epoch
    return Name(arguments.hardware, arguments.version, arguments.counter, epoch)


def _slot(arguments: argparse.Namespace) -> int:
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"image: {time.monotonic() - began:6.1f} s  {text}\n")
        sys.stdout.flush()

    made = build.slot_image(_name(arguments), arguments.output, say=say, fresh=arguments.fresh)
    say(f"{made.image}: {made.facts.image_size / (1 << 20):.1f} MiB, root hash {made.facts.root_hash}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
