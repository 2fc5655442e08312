"""A modem by hand; ends with Ctrl-C. SIGUSR1: power off and on."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from lab.modem.emulator import Emulator
from lab.modem.profile import Profile, ScriptError, parse


def main() -> int:
    """Run until a signal; the answer is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.modem", description=__doc__)
    parser.add_argument("--script", type=Path, metavar="FILE", help="what the modem is like (TOML)")
    parser.add_argument("--link", type=Path, default=Path("/tmp/modem"), metavar="PATH", help="where it is")
    arguments = parser.parse_args()
    try:
        profile = parse(arguments.script.read_text()) if arguments.script else Profile()
    except (ScriptError, OSError) as error:
        sys.stderr.write(f"{arguments.script}: {error}\n")
        return 2
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Emulator(arguments.link, profile) as modem:
        signal.signal(signal.SIGUSR1, lambda *_: modem.reset())
        sys.stdout.write(f"a modem is at {arguments.link}\n")
        sys.stdout.flush()
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
