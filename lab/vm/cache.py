"""Where prepared things lie: a kernel, disks. They are made once and shared by every checkout on the machine."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Remove it to get a newer kernel and new disks.
DIRECTORY = Path("/var/cache/kyoten-lab/vm")


class VmError(Exception):
    """The machine cannot be prepared or did not come up; the text says why and what to do."""


@contextmanager
def locked() -> Iterator[Path]:
    """Hold the cache alone: two that start at once prepare it once. Yields its directory.

    Raises VmError without root, who owns the cache and may read what the machine shows.
    """
    if os.geteuid() != 0:
        raise VmError("root is needed to show this machine's files to a virtual one: run this as root")
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield DIRECTORY


def run(argv: Sequence[str], *, directory: Path | None = None) -> str:
    """Run a program of the preparation; what it wrote. Raises VmError that names it."""
    try:
        ended = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise VmError(f"the program {argv[0]} is missing: run `lab/setup.sh vm`") from None
    if ended.returncode != 0:
        raise VmError(f"{' '.join(argv[:2])} failed: {ended.stderr.strip()[-300:] or ended.stdout.strip()[-300:]}")
    return ended.stdout


def make_disk(source: Path, disk: Path) -> None:
    """Pack a directory into a squashfs, complete or not there at all. lz4: emulated, unpacking is what costs."""
    temporary = disk.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    run(["mksquashfs", str(source), str(temporary), "-comp", "lz4", "-noappend", "-no-progress", "-quiet"])
    temporary.rename(disk)


def empty(directory: Path) -> Path:
    """The directory, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
