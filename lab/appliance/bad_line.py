"""A whole update over a bad line: ``python -m lab.appliance.bad_line DIRECTORY [MINUTES]`` in a box.

384 kbit/s to the router and 64 from it, one packet in a hundred lost, and every ten minutes the line is gone for twenty
seconds and comes back with another address, whatever the update is doing. The release has no delta: all of the image
travels. Half an hour and more; the last line is JSON.

bad_line_update_s       from the offer to the commit       bad_line_drops   how often the line was another one
bad_line_excess_pct     what the router fetched for it, by its own count, beyond the payload
bad_line_wire_pct       what the line carried to the router meanwhile, beyond the payload: IPsec, TLS, acknowledgements,
                        heartbeats, IKE, what came twice
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cloudside.registry import releases as registry
from cloudside.registry.callers import OPERATOR
from firmware.compose import RELEASE_DOCUMENT
from firmware.release import Release, parse, render
from lab.appliance import cabling, proof, releases, update
from lab.appliance.image import factory_disk
from lab.appliance.proof import SITE, Scene
from lab.bad_line import DOWN_KBIT, LOSS, UP_KBIT, lose, send_packets, slow
from lab.ground import far_end
from lab.network import LabError, address

EVERY_S, GONE_S = 600.0, 20.0
#: Half of it, and the router asks whether its address still counts.
LEASE_S = 60
#: The payload alone takes 25 minutes.
UPDATE_S = 7200.0
HEARTBEAT_S = 10
#: Addresses of lines that are another one (RFC 2544).
_BLOCKS = IPv4Network("198.18.0.0/16")


@dataclass(slots=True)
class BadLine:
    """The line of the scene's router, from `spoil` on."""

    scene: Scene
    drops: int = 0
    _far_end: str = field(init=False)

    def __post_init__(self) -> None:
        self._far_end = far_end(self.scene.world.ground.sites[SITE].router)

    def spoil(self) -> None:
        """Slow and lossy from now on, both ways."""
        internet, place = self.scene.world.ground.internet, self.scene.world.ground.sites[SITE].router
        for host, interface, kbit in ((internet, self._far_end, DOWN_KBIT), (place, "wan0", UP_KBIT)):
            send_packets(host, interface)
            slow(host, interface, kbit)
        for way in ("-i", "-o"):
            lose(internet, LOSS, way, self._far_end)

    def change(self) -> None:
        """It is gone, and nobody is told; then it is back, and is another one."""
        internet, site = self.scene.world.ground.internet, self.scene.world.ground.sites[SITE]
        internet.ip("link", "set", self._far_end, "down")
        time.sleep(GONE_S)
        self.drops += 1
        first = _BLOCKS.network_address + 4 * self.drops + 1
        internet.ip("addr", "flush", "dev", self._far_end)
        internet.ip("link", "set", self._far_end, "up")
        address(internet, self._far_end, f"{first}/30")
        cabling.serve_address(internet, site, IPv4Address(int(first) + 1), lease_s=LEASE_S)
        self.scene.say(f"the line was gone for {GONE_S:.0f} s and gives {first + 1} now")

    def carried(self) -> int:
        """Octets that it has carried to the router, behind all losses."""
        shown = self.scene.world.ground.internet.run(["ip", "-j", "-s", "link", "show", self._far_end]).stdout
        return int(json.loads(shown)[0]["stats64"]["tx"]["bytes"])


def whole_image(release: Path, target: Path) -> tuple[Path, Release]:
    """The same release without its deltas."""
    without = replace(parse((release / RELEASE_DOCUMENT).read_bytes()), deltas=())
    target.mkdir(exist_ok=True)
    shutil.copy(release / without.full.name, target)
    (target / RELEASE_DOCUMENT).write_bytes(render(without))
    return target, without


def measure(directory: Path, *, every_s: float = EVERY_S) -> proof.Figures:
    """All of it; the figures. Raises LabError: the release was not kept."""
    image = factory_disk(proof.say)
    directory.mkdir(parents=True, exist_ok=True)
    place, release = whole_image(releases.release(say=proof.say), directory / "release")
    with update.built(image, directory, lease_s=LEASE_S) as scene:
        update.prepare(scene, heartbeat_s=HEARTBEAT_S)
        line = BadLine(scene)
        line.spoil()
        carried, begun = line.carried(), time.monotonic()
        version = update.offer(scene, place)
        fetched = _follow(scene, line, begun, every_s)
        after = update.seen(scene)
        if after is None or (after.stage, after.version, after.slot) != ("committed", version, "B"):
            raise LabError(f"the update ended with {after}")
        size = release.full.size
        if fetched < size or not line.drops:
            raise LabError(f"{fetched} of {size} octets were counted, and {line.drops} drops: nothing is shown by that")
        scene.figures |= {
            "bad_line_update_s": round(time.monotonic() - begun, 1),
            "bad_line_drops": line.drops,
            "bad_line_payload_mib": round(size / (1 << 20), 1),
            "bad_line_excess_pct": round(100 * (fetched / size - 1), 2),
            "bad_line_wire_pct": round(100 * ((line.carried() - carried) / size - 1), 2),
        }
        proof.serves(scene)
    return scene.figures


def _follow(scene: Scene, line: BadLine, begun: float, every_s: float) -> int:
    """Until it is over, changing the line; the octets that the router says it has fetched for it."""
    fetched, last, change_at = 0, "", begun + every_s
    while last not in ("committed", "returned", "refused"):
        if not scene.machine.running or time.monotonic() - begun > UPDATE_S:
            raise LabError(f"the update stands at {last}; the console ends with:\n{scene.machine.console()[-3000:]}")
        if time.monotonic() >= change_at:
            line.change()
            change_at += every_s
        with scene.world.reading() as session:
            row = registry.state(session, OPERATOR, SITE)
        if row is not None:
            if row.bytes_fetched < fetched:
                raise LabError(f"the router counts {row.bytes_fetched} octets after {fetched}")
            fetched = row.bytes_fetched
            if row.stage != last:
                scene.say(f"{time.monotonic() - begun:6.0f} s  {row.stage} {row.version} {fetched >> 20} MiB")
                last = row.stage
        time.sleep(2)
    return fetched


def main(argv: list[str]) -> int:
    """See the module."""
    directory, *minutes = argv
    every_s = float(minutes[0]) * 60 if minutes else EVERY_S
    sys.stdout.write(json.dumps(measure(Path(directory), every_s=every_s)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
