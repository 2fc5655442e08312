"""Somebody comes to a new router with a USB stick: ``python -m lab.appliance.stick IMAGE DIRECTORY`` in a box.

The router is on and waits. The first stick has half a ticket, which is refused and stays where it is; the second has
the whole one: the router enrols through the Internet, its tunnel comes up, and the ticket is gone from the stick. It
is a router of the site from then on, also after a power cut. The last line is JSON.
"""

import sys
import time
from pathlib import Path

from lab.appliance import disks, proof
from lab.appliance.proof import SITE, Scene
from lab.network import LabError, wait_until

_TICKET = f"{SITE}.ticket"
_WAITS, _REFUSED, _TAKEN = "This router is not enrolled", f"{_TICKET} on /dev/sda1", f"This router is now {SITE}"


def waits(scene: Scene) -> None:
    """Nobody has told it who it is: it says what it wants."""
    scene.machine.start()
    scene.figures["asks_for_ticket_s"] = round(scene.machine.wait_for(_WAITS, timeout_s=proof.CONSOLE_S), 1)
    scene.say(f"not enrolled, and says so {scene.figures['asks_for_ticket_s']:.1f} s after power-on")


def refuses(scene: Scene) -> None:
    """Half a ticket is told on the console, and nothing is done with it."""
    whole = _ticket(scene)
    stick = disks.make_stick(scene.disk.with_name("half.img"), {_TICKET: whole[: len(whole) // 2]})
    console = len(scene.machine.console())
    scene.machine.plug_in(stick)
    scene.machine.wait_for(_REFUSED, timeout_s=proof.CONSOLE_S, after=console)
    said = next(line for line in scene.machine.console()[console:].splitlines() if _REFUSED in line)
    scene.machine.pull_out()
    if disks.files_on_stick(stick) != {_TICKET}:
        raise LabError(f"the stick with half a ticket has {disks.files_on_stick(stick)}")
    scene.say(f"half a ticket: {said.strip()}")


def enrols(scene: Scene) -> None:
    """A whole one makes it a router of the site, and is erased."""
    stick = disks.make_stick(scene.disk.with_name("whole.img"), {_TICKET: _ticket(scene), "photo.jpg": b"not ours"})
    before, begun, console = proof.tunnel(scene.world), time.monotonic(), len(scene.machine.console())
    scene.machine.plug_in(stick)
    scene.machine.wait_for(_TAKEN, timeout_s=proof.TUNNEL_S, after=console)
    wait_until("the tunnel", lambda: proof.tunnel(scene.world) > before, timeout_s=proof.TUNNEL_S)
    scene.figures["stick_to_tunnel_s"] = round(time.monotonic() - begun, 1)
    scene.machine.pull_out()
    if disks.files_on_stick(stick) != {"photo.jpg"}:
        raise LabError(f"the stick has {disks.files_on_stick(stick)} afterwards")
    scene.say(f"a ticket on a stick: tunnel {scene.figures['stick_to_tunnel_s']:.1f} s after it was plugged in")


def _ticket(scene: Scene) -> bytes:
    path = scene.disk.with_name(f"new-{_TICKET}")
    path.unlink(missing_ok=True)
    scene.world.kyoten("site", "ticket", SITE, "--output", str(path))
    return path.read_bytes()


def built(image: Path, place: Path) -> Scene:
    """A cloud, and a router that nobody has told anything, off, with a socket for a stick."""
    scene = proof.build(image, place, bundle=False)
    scene.machine = scene.machine.with_usb()
    return scene


STEPS = (waits, refuses, enrols, proof.serves, proof.second_start, proof.serves)


def main(argv: list[str]) -> int:
    """See the module."""
    image, place = map(Path, argv)
    place.mkdir(parents=True, exist_ok=True)
    return proof.run(built(image, place), STEPS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
