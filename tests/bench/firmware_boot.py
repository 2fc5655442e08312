"""The image in the place of a router: ``python -m tests.bench.firmware_boot start``, in a box. The last line is JSON.

start     boot_to_tunnel_s   from power-on to the tunnel, of a router that is enrolled, after a power cut; emulated
          rss_idle_mib       of all processes, each page counted once, when nothing is going on
          answers_to_internet  ports at which anything of it answers a scan from the Internet (must be 0)
update    update_s           from a release's offer to its commit, over a fast line; and the start after it
returns   bad_releases, returned_by_itself   six releases that are signed and wrong, through a whole update each; before
                             them two slots that cannot be started. Half an hour
          trial_to_rollback_s  of the one that hangs: from the start of the trial's boot to the old slot's
bad-line  bad_line_excess_pct  a whole update without a delta over 384/64 kbit/s with 1 % loss, gone and another
                             one every ten minutes: what was fetched beyond the payload. Half an hour and more
uefi      uefi_first_boot_to_tunnel_s        a new router that starts by UEFI
stick     stick_to_tunnel_s  a ticket on a USB stick, plugged in while a new router waits for one
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from lab.appliance import bad_line, bad_releases, proof, stick, update
from lab.appliance.faults import Fault
from lab.appliance.image import factory_disk
from lab.appliance.machine import Firmware
from tests.bench.parts import Figures

#: Slots that cannot be started; each ends with slot A and its tunnel, or is an error.
BAD_SLOTS = ("rotten-kernel", "broken-release")


def main() -> int:
    """Measure one of the parts; the figures."""
    figures: Figures
    match sys.argv[1]:
        case "start":
            figures = _run("first-start", "serves", "memory", "closed", "second-start")
        case "update":
            with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
                figures = dict(update.measure(Path(directory)))
        case "returns":
            with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
                steps = [proof.STEPS[name] for name in BAD_SLOTS]
                figures = dict(bad_releases.measure(Path(directory), tuple(Fault), *steps))
        case "bad-line":
            with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
                figures = dict(bad_line.measure(Path(directory)))
        case "uefi":
            found = _run("first-start", firmware=Firmware.UEFI)
            figures = {f"uefi_{name}": value for name, value in found.items()}
        case "stick":
            with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
                found = _taken(stick.built(factory_disk(), Path(directory)), stick.STEPS)
            figures = {name: found[name] for name in ("asks_for_ticket_s", "stick_to_tunnel_s")}
        case other:
            raise SystemExit(f"no part named {other}")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def _run(*steps: str, firmware: Firmware = Firmware.BIOS) -> Figures:
    disk = factory_disk()
    with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
        scene = proof.build(disk, Path(directory), firmware=firmware)
        return _taken(scene, [proof.STEPS[name] for name in steps])


def _taken(scene: proof.Scene, steps: Iterable[Callable[[proof.Scene], None]]) -> Figures:
    try:
        for step in steps:
            step(scene)
    finally:
        scene.close()
    return dict(scene.figures)


if __name__ == "__main__":
    sys.exit(main())
