"""The image in the place of a router: ``python -m tests.bench.firmware_boot``, in a box. The last line is JSON.

boot_to_tunnel_s   from power-on to the tunnel, of a router that is enrolled, after a power cut; emulated processor
rss_idle_mib       of all processes, each page counted once, when nothing is going on
"""

import json
import sys
import tempfile
from pathlib import Path

from lab.appliance import proof
from lab.appliance.image import factory_disk

STEPS = ("first-start", "serves", "memory", "second-start")


def main() -> int:
    """Measure; the figures."""
    disk = factory_disk()
    with tempfile.TemporaryDirectory(prefix="kyoten-boot-", dir="/var/tmp") as directory:
        scene = proof.build(disk, Path(directory))
        try:
            for name in STEPS:
                proof.STEPS[name](scene)
        finally:
            scene.machine.power_cut()
    sys.stdout.write(json.dumps(scene.figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
