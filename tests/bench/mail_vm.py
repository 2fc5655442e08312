"""The whole machine cut: ``python -m tests.bench.mail_vm 200``.

A virtual machine relays mail on an ext4 whose disk logs every write and flush (QEMU's blklogwrites). The disk is then
rebuilt as a power cut would have left it, after every flush and at random moments between with any part of what was not
flushed missing; mended by e2fsck, read by the product's own operations, and compared with what clients were promised
up to that write.

vm_write_log_cuts   disks that were judged
mails_lost_vm       the most mails that any of them had lost (bar: 0)
vm_lying_disk_lost  mails lost by a disk that ignores flushes: shows that the judge can see a loss (must not be 0)
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.mail_proof import power
from lab.mail_proof.traffic import number_of
from tests.bench.parts import Figures

SECONDS = 60.0
CLIENTS = 3
SEED = 7
_LYING_CUTS = 5
#: Flushes of a minute are fewer; a bound all the same.
_FLUSHES_MAX = 5000


def measure(cuts: int, *, seconds: float = SECONDS) -> Figures:
    """Record once, judge after every flush and at ``cuts`` random moments. Raises PowerError, VmError."""
    directory = Path(tempfile.mkdtemp(prefix="kyoten-power-", dir="/var/tmp"))
    images = Path(tempfile.mkdtemp(prefix="kyoten-power-", dir="/dev/shm"))
    dice = random.Random(SEED)
    try:
        recorded = power.record(directory, seconds=seconds, clients=CLIENTS)
        chosen = power.choose(recorded, _FLUSHES_MAX, cuts, dice)
        found = power.judge(recorded, chosen, images / "cut", dice)
        lying = power.judge(recorded, power.choose(recorded, 0, _LYING_CUTS, dice), images / "cut", dice, lying=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(images, ignore_errors=True)
    for one in found:
        for recipient, why in list(one.lost.items())[:3]:
            sys.stderr.write(f"    lost after {one.cut.position} requests: {recipient}: {why}\n")
    return {
        "vm_write_log_cuts": len(found),
        "mails_lost_vm": _most_lost(found),
        "vm_cuts_after_a_flush": sum(one.cut.share == 0.0 and one.unflushed == 0 for one in found),
        "vm_cuts_with_writes_missing": sum(one.unflushed > 0 for one in found),
        "vm_bodies_in_files": max(one.bodies for one in found),
        "vm_requests": len(recorded.log.requests),
        "vm_flushes": len(recorded.log.flushes),
        "vm_mails_accepted": recorded.figures["mails"],
        "vm_recipients_promised_at_the_end": max(one.promised for one in found),
        "vm_lying_disk_lost": _most_lost(lying),
    }


def _most_lost(found: Sequence[power.Found]) -> int:
    return max(len({number_of(recipient) for recipient in one.lost}) + one.torn for one in found)


def main() -> int:
    """Measure; the last line is one JSON object. The status is 1 if anything was lost, or nothing could be."""
    figures = measure(int(sys.argv[1]))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["mails_lost_vm"] == 0 and figures["vm_lying_disk_lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
