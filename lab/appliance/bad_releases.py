"""Releases that are wrong on purpose, each through a whole update: signed, offered, installed, tried, come back from.

``python -m lab.appliance.bad_releases DIRECTORY [FAULT...]`` in a box. After each one the old slot runs and has a new
tunnel, the cloud was told why, the rollout counts the site as failed, and the release is not tried again. All of that
is the product's; here is only looked. The last line is JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware.layout import Slot
from lab.appliance import disks, proof, releases, update
from lab.appliance.faults import Fault
from lab.appliance.image import factory_disk
from lab.appliance.proof import Scene
from lab.network import LabError, wait_until

#: Seconds: a trial may take so long until all is well. Short, for an emulated processor.
REACH_S = 240
#: Longest times on a machine that does other things too.
INSTALL_S, TRIAL_S = 1800.0, 1200.0
#: For so long nobody tries the release again after it came back.
QUIET_S = 30.0

_REASON = "agent.update-returned-"
#: What the router says of each.
REASONS: Mapping[Fault, str] = {
    Fault.PANIC: "panic",
    Fault.HANGS: "hung",
    Fault.AGENT_CRASHES: "no-agent",
    Fault.AGENT_STUCK: "hung",
    Fault.NO_TUNNEL: "unhealthy",
    Fault.LAN_UNREACHABLE: "unhealthy",
}
Step = Callable[[Scene], None]

_TRIAL, _OLD = "slot B (trial)", "slot A (primary)"


@dataclass(frozen=True, slots=True)
class Returned:
    """``trial_s``: from the start of the trial's boot to the old slot's. ``tunnel_s``: from there to its tunnel."""

    trial_s: float
    tunnel_s: float


def come_back(scene: Scene, fault: Fault, release: Path) -> Returned:
    """Offer a bad release and see the site return from it. Raises LabError: it did not, or said something else."""
    console = len(scene.machine.console())
    version = update.offer(scene, release)
    _shown(scene, _TRIAL, console, INSTALL_S)
    began = time.monotonic()
    _shown(scene, _OLD, console, TRIAL_S)
    back = time.monotonic()
    # A trial may have had a tunnel, too: the one that counts is made now.
    before = proof.tunnel(scene.world)
    wait_until("a tunnel of the old slot", lambda: proof.tunnel(scene.world) > before, timeout_s=proof.TUNNEL_S)
    found = Returned(round(back - began, 1), round(time.monotonic() - back, 1))
    after = update.follow(scene, until=frozenset({"returned", "committed", "refused"}), timeout_s=proof.TUNNEL_S)
    wanted = ("returned", _REASON + REASONS[fault], "A")
    if (after.stage, after.problem, after.slot) != wanted:
        raise LabError(f"{fault}: the cloud was told {after}, not {wanted}")
    wait_until(f"the rollout of {version} counts a failure", lambda: _failed(scene, version), timeout_s=120, every_s=1)
    time.sleep(QUIET_S)
    if (tries := scene.machine.console()[console:].count(_TRIAL)) != 1:
        raise LabError(f"{fault}: {version} was tried {tries} times")
    if disks.boot_state(scene.disk).primary is not Slot.A:
        raise LabError(f"{fault}: the boot state names slot B")
    scene.say(f"{fault}: back after {found.trial_s} s, its tunnel {found.tunnel_s} s later; told: {after.problem}")
    return found


def run(scene: Scene, made: Mapping[Fault, Path]) -> None:
    """One after the other on the same machine; one that does not return is told, and the rest is tried all the same."""
    for fault, release in made.items():
        scene.figures["bad_releases"] += 1
        try:
            found = come_back(scene, fault, release)
        except LabError as error:
            scene.say(f"{fault}: {error}")
            continue
        finally:
            # As whoever sees that failure would; a site belongs to one rollout at a time. It may have ended by itself.
            scene.world.kyoten("rollout", "abort", f"{releases.version(fault)}-1", "--yes", check=False)
        scene.figures["returned_by_itself"] += 1
        scene.figures[f"{fault.replace('-', '_')}_to_rollback_s"] = found.trial_s
        if fault is Fault.HANGS:
            scene.figures["trial_to_rollback_s"] = found.trial_s


def _shown(scene: Scene, text: str, after: int, timeout_s: float) -> None:
    """Wait for a text on the console, and say what the router tells meanwhile."""
    begun, last = time.monotonic(), update.seen(scene)
    while text not in scene.machine.console()[after:]:
        now = update.seen(scene)
        if now != last:
            scene.say(f"{time.monotonic() - begun:6.1f} s  {now}")
            last = now
        if now is not None and now.stage == "refused":
            raise LabError(f"the release was refused: {now}")
        if not scene.machine.running or time.monotonic() - begun > timeout_s:
            raise LabError(f"no {text!r}: {now}; the console ends with:\n{scene.machine.console()[-3000:]}")
        time.sleep(0.3)


def _failed(scene: Scene, version: str) -> bool:
    found = scene.world.kyoten_json("rollout", "status", f"{version}-1")
    return [ring["failed"] for ring in found["rings"]] == [1]


def measure(directory: Path, faults: Sequence[Fault] = tuple(Fault), *before: Step) -> proof.Figures:
    """A world, a router in it, and all these releases. ``before``: bad slots of `proof`, which are tried first."""
    image = factory_disk(proof.say)
    # A repository takes no release that is older than what it has.
    made = {fault: releases.release(fault, proof.say) for fault in Fault if fault in faults}
    with update.built(image, directory) as scene:
        update.prepare(scene, reach_s=REACH_S)
        for step in before:
            step(scene)
        scene.figures |= {"bad_releases": len(before), "returned_by_itself": len(before)}
        run(scene, made)
    return scene.figures


def main(argv: list[str]) -> int:
    """See the module."""
    directory, *words = argv
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    figures = measure(place, [Fault(word) for word in words] or tuple(Fault))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["returned_by_itself"] == figures["bad_releases"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
