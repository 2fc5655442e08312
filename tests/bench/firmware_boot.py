"""The image in the place of a router: ``python -m tests.bench.firmware_boot start``, in a box. The last line is JSON.

start     boot_to_tunnel_s   from power-on to the tunnel, of a router that is enrolled, after a power cut; emulated
          rss_idle_mib       of all processes, each page counted once, when nothing is going on
returns   bad_releases, returned_by_itself   releases that cannot be kept, put into slot B and tried
uefi      uefi_first_boot_to_tunnel_s        a new router that starts by UEFI
"""

import json
import sys
import tempfile
from pathlib import Path

from lab.appliance import proof
from lab.appliance.image import factory_disk
from lab.appliance.machine import Firmware
from tests.bench.parts import Figures

#: Each ends with slot A and its tunnel, or is an error.
BAD_RELEASES = ("rotten-kernel", "broken-release", "uncommitted-release")


def main() -> int:
    """Measure one of the parts; the figures."""
    figures: Figures
    match sys.argv[1]:
        case "start":
            figures = _run("first-start", "serves", "memory", "second-start")
        case "returns":
            figures = _run("first-start", *BAD_RELEASES)
            returned = len(figures.keys() - {"first_boot_to_tunnel_s"})  # a step that does not return measures nothing
            figures |= {"bad_releases": len(BAD_RELEASES), "returned_by_itself": returned}
        case "uefi":
            found = _run("first-start", firmware=Firmware.UEFI)
            figures = {f"uefi_{name}": value for name, value in found.items()}
        case other:
            raise SystemExit(f"no part named {other}")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def _run(*steps: str, firmware: Firmware = Firmware.BIOS) -> Figures:
    disk = factory_disk()
    with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
        scene = proof.build(disk, Path(directory), firmware=firmware)
        try:
            for name in steps:
                proof.STEPS[name](scene)
        finally:
            scene.machine.power_cut()
    return dict(scene.figures)


if __name__ == "__main__":
    sys.exit(main())
