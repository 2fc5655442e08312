"""A range of the logs as one gzip file on disk: merged by time, without secrets, within a size; the newest lines count.

Nothing is held in memory but a line: the logs are read as often as it takes to find out how much fits.
"""

import gzip
import hashlib
import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from linux.files import flush_directory
from router_agent.logs import units as logs
from router_agent.logs.redaction import Redaction
from router_agent.logs.units import KERNEL, Places, ReadKernel, Stamped

#: Of text that is packed: logs shrink to a tenth, and a file of the log never has more.
_TEXT_MAX_BYTES = 200_000_000
_TRIES = 8
#: After a try that came out too large, so much of what would fit by its ratio is aimed at.
_AIM = 0.9


@dataclass(frozen=True, slots=True)
class Range:
    """``since`` and ``until`` None: no bound; ``lines``: the newest so many, 0: all."""

    units: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    lines: int


@dataclass(frozen=True, slots=True)
class Packed:
    """What was written. ``left_out``: older lines that did not fit."""

    size: int
    sha256: str
    lines: int
    left_out: int


class Logs:
    """The router's logs. ``read_kernel`` raises OSError where the kernel's cannot be had. ``keep`` brings those on the
    disk up to date that are written elsewhere."""

    def __init__(
        self,
        site: str,
        places: Places,
        read_kernel: ReadKernel,
        redaction: Callable[[], Redaction],
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._site = site
        self._places = places
        self._read_kernel = read_kernel
        self._redaction = redaction
        self._keep = keep

    def pack(self, target: Path, wanted: Range, limit_bytes: int, *, now: datetime) -> Packed:
        """Write the gzip of the range durably. Raises OSError: the disk is full or read-only."""
        self._keep()
        chosen = logs.wanted(wanted.units)
        until = min(wanted.until or now, now)
        kernel, missing = self._kernel(chosen)
        redaction = self._redaction()

        def read() -> Iterator[Stamped]:
            return self._merged(chosen, wanted.since, until, kernel)

        count = sum(1 for _ in read())
        skip = max(0, count - wanted.lines) if wanted.lines else 0
        asked_out = skip
        for _ in range(_TRIES):
            head = self._head(chosen, wanted.since, until, count - skip, skip - asked_out, missing)
            size = _write(target, head, read(), skip, redaction, limit_bytes)
            if size <= limit_bytes or count == skip:
                break
            kept = max(1, int((count - skip) * _AIM * limit_bytes / size))
            skip = max(count - kept, skip + 1)
        digest = hashlib.sha256()
        with target.open("rb") as stream:
            while part := stream.read(1 << 16):
                digest.update(part)
            size = stream.tell()
        return Packed(size, digest.hexdigest(), count - skip, skip - asked_out)

    def _kernel(self, chosen: Sequence[str]) -> tuple[list[str], str]:
        """The kernel's lines, and why there are none."""
        if KERNEL not in chosen:
            return [], ""
        try:
            return self._read_kernel(), ""
        except OSError as error:
            return [], error.strerror or type(error).__name__

    def _merged(
        self, chosen: Sequence[str], since: datetime | None, until: datetime, kernel: Sequence[str]
    ) -> Iterator[Stamped]:
        first = "" if since is None else f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
        last = f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
        streams = [logs.of_file(unit, paths, chosen) for unit in chosen for paths in self._places.files(unit)]
        if kernel:
            streams.append(logs.stamped(KERNEL, kernel, chosen))
        for line in heapq.merge(*streams, key=lambda item: item[0]):
            if first <= line[0] <= last:
                yield line

    def _head(
        self, chosen: Sequence[str], since: datetime | None, until: datetime, lines: int, left_out: int, missing: str
    ) -> str:
        start = "the beginning" if since is None else f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        told = [
            f"# site {self._site}; {start} to {until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ};"
            f" {lines} lines of {', '.join(chosen)}"
        ]
        if left_out:
            told.append(f"# {left_out} older lines are left out: the limit of this line's size")
        if missing:
            told.append(f"# kernel: cannot be read here: {missing}")
        return "".join(f"{line}\n" for line in told)


def shown(line: Stamped, redaction: Redaction) -> str:
    """A line as it travels."""
    return f"{line[1]}| {redaction.line(line[2])}\n"


def _write(target: Path, head: str, lines: Iterator[Stamped], skip: int, redaction: Redaction, limit_bytes: int) -> int:
    """Write them; the file's size, or more than the limit as soon as it is known not to fit."""
    # Beside its place and renamed: a power cut leaves the whole file or none.
    temporary = target.with_name(f".{target.name}.new")
    text_bytes = 0
    with temporary.open("wb") as raw:
        os.fchmod(raw.fileno(), 0o600)
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream:
            stream.write(head.encode())
            for number, line in enumerate(lines):
                if number < skip:
                    continue
                content = shown(line, redaction).encode("utf-8", "replace")
                text_bytes += len(content)
                if text_bytes > _TEXT_MAX_BYTES:
                    break
                stream.write(content)
        raw.flush()
        os.fsync(raw.fileno())
        size = raw.tell()
    temporary.rename(target)
    flush_directory(target.parent)
    return size
