"""Power cuts all through an update: ``python -m tests.bench.firmware_cuts 1000 60 2``, in a box. The last line is JSON.

A whole update (fetch, install, trial, commit) is recorded once in a virtual machine, with every write and flush of its
disk. The disk is then rebuilt as a power cut would have left it, and judged; some of them are booted. A run that was
stopped goes on where it was. Emulated, a boot takes a minute or two: sixty are the better part of an hour.

power_cuts            disks that were judged
power_cuts_booted     of these, booted until the agent had looked around; spread over what the update was doing
bricked               no slot starts, a slot that may start is not whole, or the identity is lost (bar: 0)
settings_lost         the settings are older than those that were once written for good, or cannot be read (bar: 0)
power_cuts_wrong      anything else that must not be: a journal torn, an update that believes what is not so (must be 0)
disagreements         booted ones that did otherwise than was predicted (must be 0)
lying_disk_faults     of a few cuts of a disk that ignores flushes, how many are bad (must not be 0: the judge can see)
"""

import json
import sys

from lab.appliance import cuts, recording


def main() -> int:
    """Measure; the status is 1 if anything is not as it must be."""
    count, booted, jobs = (int(word) for word in sys.argv[1:4])
    figures = cuts.measure(recording.made(cuts.say), cuts=count, booted=booted, jobs=jobs, say=cuts.say)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if cuts.is_good(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
