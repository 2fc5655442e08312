"""The relay killed at random moments, again and again: ``python -m tests.bench.mail_crash 500``.

crash_cuts          SIGKILLs of a relay that had mail to take and to deliver; every tenth is the real command, the
                    others are forked from a process that has its modules
mails_lost          mails of which a recipient got its 250 and is not what the queue says of it (bar: 0)
mails_torn          mails nobody was promised, of which only some recipients are there (bar: 0)
duplicates          recipients that the smarthost took once more, each after a cut that came between its taking and the
                    relay's writing it down (RFC 1047); duplicates_unexplained are those without such a cut (bar: 0)
duplicate_window_ms_max   the longest time from such a taking to the cut
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from lab.mail_proof import crashes
from tests.bench.parts import Figures

#: The queue's disk is a real one; what clients remember is on another file system.
QUEUE_PARENT, RECORDS_PARENT = Path("/var/tmp"), Path("/dev/shm")
SEED = 5


def measure(cuts: int, *, queue_url: str = "", seed: int = SEED) -> Figures:
    """Cut a relay so often, on SQLite or on the PostgreSQL of ``queue_url``."""
    directory = Path(tempfile.mkdtemp(prefix="kyoten-crash-", dir=QUEUE_PARENT))
    records = Path(tempfile.mkdtemp(prefix="kyoten-crash-", dir=RECORDS_PARENT))
    try:
        outcome = crashes.run(directory, records, cuts=cuts, seed=seed, queue_url=queue_url)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(records, ignore_errors=True)
    for recipient, why in list(outcome.verdict.lost.items())[:20]:
        sys.stderr.write(f"    lost: {recipient}: {why}\n")
    windows = outcome.copies.windows_s
    return {
        "crash_cuts": outcome.cuts,
        "mails_lost": outcome.verdict.mails_lost,
        "mails_torn": len(outcome.verdict.torn),
        "crash_cuts_of_the_command": outcome.commands,
        "crash_moments": outcome.moments,
        "crash_mails_accepted": outcome.mails,
        "crash_recipients_promised": outcome.verdict.promised,
        "crash_mails_without_answer": outcome.in_doubt,
        "crash_recipients_held_until_released": outcome.held,
        "crash_recipients_parked": outcome.parked,
        "duplicates": len(windows) + len(outcome.copies.unexplained),
        "duplicates_unexplained": len(outcome.copies.unexplained),
        "duplicate_window_ms_max": 1000 * max(windows, default=0.0),
        "reported_twice": len(outcome.reported_twice),
        "crash_seconds": outcome.seconds,
    }


def main() -> int:
    """Measure; the last line is one JSON object. The status is 1 if anything was lost."""
    figures = measure(int(sys.argv[1]))
    sys.stdout.write(json.dumps(figures) + "\n")
    bad = ("mails_lost", "mails_torn", "duplicates_unexplained", "reported_twice")
    return 1 if any(figures[name] for name in bad) else 0


if __name__ == "__main__":
    sys.exit(main())
