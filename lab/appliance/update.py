"""A whole update of the image, from a published release to a slot that is kept, with nothing in it but the product.

``python -m lab.appliance.update DIRECTORY [--record]`` in a box: modules are published, and the router in its virtual
machine takes them by itself; the cloud publishes the lab's next release and starts a rollout; the router fetches,
installs, restarts into it, and keeps it, and its modules. ``--record`` keeps what
`cuts` needs in DIRECTORY: ``start.img``, the disk of the enrolled router while it was off, and ``writes.log``, every
write and flush since, up to the commit. Without it the router is started once more afterwards. The last line is JSON.
`python -m lab.appliance.releases` makes image and release beforehand: a box has no way to Debian's archive.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloudside.registry import releases as registry
from cloudside.registry.callers import OPERATOR
from firmware.layout import Slot
from lab.appliance import cabling, disks, modules, proof, releases
from lab.appliance.image import factory_disk
from lab.appliance.proof import DEVICE, SITE, Scene
from lab.network import LabError, wait_until

START, LOG = "start.img", "writes.log"

#: What the site is told before: short, and the machine is emulated.
HEALTH_S, REACH_S = 30, 600
#: It has nothing to do with updates, and must outlive them. The router's processor is emulated: a heartbeat each
#: second, as the world has it, would be its only work.
HEARTBEAT_S = 5
#: Longest times, in seconds, on a machine that does other things too.
UPDATE_S = 2400.0
SETTINGS_S = 300.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the cloud knows of the router's firmware: its last word."""

    version: str
    slot: str
    stage: str
    problem: str


def prepare(scene: Scene, *, reach_s: int = REACH_S, heartbeat_s: int = HEARTBEAT_S) -> None:
    """The router enrols, and is told what it must care for in a trial, which has so long until all is well."""
    proof.first_start(scene)
    proof.serves(scene)
    proof.verity(scene)
    proof.closed(scene)
    plc = scene.world.ground.sites[SITE].plan.controllers[DEVICE]
    pace = f"heartbeat.interval_s={heartbeat_s}"
    wanted = (f"update.health_s={HEALTH_S}", f"update.reach_s={reach_s}", f"lan.essential={plc}", pace)
    scene.world.kyoten("site", "set", SITE, *wanted, "--timeout", str(SETTINGS_S), timeout_s=SETTINGS_S + 30)
    scene.say("its settings are in force")


def record(scene: Scene, directory: Path) -> None:
    """Switch it off, keep its disk, and log every write from here on."""
    cut = _power_cut(scene)
    disks.copy(scene.disk, directory / START)
    (directory / LOG).unlink(missing_ok=True)
    scene.machine = scene.machine.recording(directory / LOG)
    took = proof.start(scene)
    scene.say(f"recording; its tunnel is up again after {took:.1f} s")
    remembers(scene, cut)


def offer(scene: Scene, release: Path) -> str:
    """Publish a release directory and start its rollout to the site; the version."""
    releases.publish(scene.world.config, release)
    version = str(json.loads((release / "release.json").read_text())["version"])
    words = ("rollout", "start", version, "--site", SITE, "--ring", "100%:1m", "--yes")
    scene.world.kyoten(*words, timeout_s=120)
    scene.say(f"{version} is offered")
    return version


def seen(scene: Scene) -> Seen | None:
    """What the router said last; None: nothing yet."""
    with scene.world.reading() as session:
        row = registry.state(session, OPERATOR, SITE)
        if row is None:
            return None
        problem = "" if row.problem is None else str(row.problem.get("key"))
        return Seen(row.version, row.slot, row.stage, problem)


def follow(scene: Scene, *, until: frozenset[str], timeout_s: float = UPDATE_S) -> Seen:
    """Watch the update until it stands in one of these stages; says each stage and when. Raises LabError."""
    begun, last = time.monotonic(), seen(scene)
    while True:
        now = seen(scene)
        if now is not None and now != last:
            scene.say(f"{time.monotonic() - begun:6.1f} s  {now.stage} {now.version} {now.slot} {now.problem}")
            last = now
            if now.stage in until:
                return now
        if not scene.machine.running or time.monotonic() - begun > timeout_s:
            raise LabError(f"the update stands at {last}; the console ends with:\n{scene.machine.console()[-3000:]}")
        time.sleep(1)


def whole(scene: Scene, release: Path) -> None:
    """From the offer to the commit, and a start afterwards."""
    begun, console = time.monotonic(), len(scene.machine.console())
    version = offer(scene, release)
    after = follow(scene, until=frozenset({"committed", "returned", "refused"}))
    if (after.stage, after.version, after.slot) != ("committed", version, "B"):
        raise LabError(f"the update ended with {after}")
    scene.figures["update_s"] = round(time.monotonic() - begun, 1)
    scene.machine.wait_for("slot B (trial)", timeout_s=1, after=console)
    proof.serves(scene)
    wait_until("all sites have it", lambda: _rollout_state(scene) in ("soaking", "finished"), timeout_s=120, every_s=1)
    scene.say(f"updated to {version} and kept {scene.figures['update_s']:.1f} s after the offer")


def kept(scene: Scene) -> None:
    """After a power cut the new slot starts as the one that counts, and serves."""
    cut = _power_cut(scene)
    if disks.boot_state(scene.disk).primary is not Slot.B:
        raise LabError("the boot state does not name slot B")
    console = len(scene.machine.console())
    scene.figures["updated_boot_to_tunnel_s"] = proof.start(scene)
    scene.machine.wait_for("slot B (primary)", timeout_s=1, after=console)
    proof.serves(scene)
    remembers(scene, cut)


def remembers(scene: Scene, cut: datetime) -> None:
    """What IKE did before a power cut is in the log that the cloud pulls."""
    found = scene.world.kyoten("logs", SITE, "--unit", "ike", "--since", "6h", timeout_s=SETTINGS_S).stdout
    before = [
        line for line in found.splitlines() if line.startswith("ike| ") and line[5:24] < f"{cut:%Y-%m-%dT%H:%M:%S}"
    ]
    if not any("established" in line for line in before):
        raise LabError(f"IKE's log has {len(before)} lines of before the power cut, and no tunnel among them")
    scene.figures["ike_lines_of_before"] = len(before)
    scene.say(f"IKE's log has {len(before)} lines of before the power cut")


def measure(directory: Path, *, recorded: bool = False) -> proof.Figures:
    """All of it, once; the figures. Raises LabError: something is not as it should be."""
    image, release = factory_disk(), releases.release()
    with built(image, directory) as scene:
        modules.publish(scene)
        prepare(scene)
        arrived = modules.arrive(scene)
        proof.memory(scene)
        if recorded:
            record(scene, directory)
        whole(scene, release)
        modules.stay(scene, arrived)
        if not recorded:
            kept(scene)
    return scene.figures


def _power_cut(scene: Scene) -> datetime:
    """When it was. Modules took their minutes before: the kernel has written what the first tunnel's log was."""
    scene.machine.power_cut()
    return datetime.now(UTC)


def _rollout_state(scene: Scene) -> str:
    (found,) = scene.world.kyoten_json("rollout", "list", "--all")["rollouts"]
    return str(found["state"])


@contextmanager
def built(image: Path, directory: Path, *, lease_s: int = cabling.LEASE_S) -> Iterator[Scene]:
    """A cloud, and the machine that is off; both are gone afterwards."""
    scene = proof.build(image, directory, lease_s=lease_s)
    try:
        yield scene
    except LabError:
        sys.stderr.write(scene.machine.console()[-4000:])
        raise
    finally:
        scene.close()


def main(argv: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--record", action="store_true")
    told = parser.parse_args(argv)
    told.directory.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(json.dumps(measure(told.directory, recorded=told.record)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
