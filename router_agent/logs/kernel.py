"""The kernel's log: from the journal, which has earlier boots too, else from /dev/kmsg, which has this one.

A record of /dev/kmsg is ``priority,number,microseconds since boot,flags;text`` (Documentation/ABI/testing/dev-kmsg).
"""

import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from linux.errors import LinuxError
from linux.runner import Runner

#: Lines asked of the journal; the kernel's own buffer holds no more.
LINES_MAX = 20_000
_JOURNAL_S = 30.0
_RECORD_MAX_BYTES = 8192
KMSG = Path("/dev/kmsg")
JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))

_RECORD = re.compile(rb"(\d+),(\d+),(\d+),[^;]*;([^\n]*)")
_UNIX = re.compile(r"(\d+)\.\d+ (?:\S+ )?(.*)")


class KernelLog:
    """Reads it. ``uptime``: seconds since boot, as the kernel's records count them."""

    def __init__(self, runner: Runner, *, kmsg: Path = KMSG, journals: Sequence[Path] = JOURNALS) -> None:
        self._runner = runner
        self._kmsg = kmsg
        self._journals = journals

    def lines(self) -> list[str]:
        """Lines with their time first, oldest first. Raises OSError: this machine's cannot be read."""
        return self._read("_TRANSPORT=kernel", most=LINES_MAX)

    def this_boot(self, *, most: int) -> list[str]:
        """The newest lines since this boot. Raises OSError as `lines` does."""
        return self._read("--boot=0", "_TRANSPORT=kernel", most=most)

    def _read(self, *selection: str, most: int) -> list[str]:
        if any(place.is_dir() and any(place.iterdir()) for place in self._journals):
            try:
                return self.journal(*selection, most=most)
            except LinuxError:
                pass
        with Kmsg(self._kmsg) as stream:
            return list(stream.new())[-most:]

    def journal(self, *selection: str, most: int) -> list[str]:
        """The newest lines of the journal, oldest first. Raises LinuxError: there is none, or it cannot be read."""
        argv = ["journalctl", "--quiet", "--no-pager", "--output=short-unix", f"--lines={most}", *selection]
        shown = self._runner.run(argv, timeout_s=_JOURNAL_S).stdout
        return list(_from_journal(shown.splitlines()))


class Kmsg:
    """A reader of /dev/kmsg, from the oldest record on or from now on. Raises OSError when made: it cannot be read."""

    def __init__(self, path: Path = KMSG, *, from_now: bool = False) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if from_now:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def __enter__(self) -> "Kmsg":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)

    def new(self, *, most: int = LINES_MAX) -> Iterator[str]:
        """Lines that have come since the last call, with their time first."""
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        for _ in range(most):
            try:
                record = os.read(self._descriptor, _RECORD_MAX_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten meanwhile; the next ones are there
                    continue
                return
            if not record:
                return
            found = _RECORD.match(record)
            if found:
                at = datetime.fromtimestamp(booted + int(found[3]) / 1e6, UTC)
                yield f"{at:%Y-%m-%dT%H:%M:%S} {found[4].decode('utf-8', 'replace')}"


def _from_journal(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        found = _UNIX.match(line)
        if found:
            yield f"{datetime.fromtimestamp(int(found[1]), UTC):%Y-%m-%dT%H:%M:%S} {found[2]}"
        elif line.strip():
            yield line
