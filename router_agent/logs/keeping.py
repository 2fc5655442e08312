"""charon's and pppd's logs, kept on the disk: they write into memory, which a power cut empties.

They do not write to the disk themselves, because charon holds all that it does up while a line is written, and flash
takes seconds at times. Every few seconds their new lines are appended to ``<state>/kept/<unit>.log`` here, and left to
the kernel to write: a power cut costs those of the last minute. How far that is lies in memory beside the logs, and
goes with them. A line of pppd's gets the time when its log was changed last: it has none of its own.
"""

import errno
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from router_agent.logs.tails import Tail
from router_agent.logs.units import IKE, KEPT, KEPT_OLD_FILES, MODEM, Places

_log = logging.getLogger(__name__)

#: Seconds between looks.
EVERY_S = 10.0
#: A kept log is turned over at this size.
FILE_MAX_BYTES = 1_000_000
#: Most looks at one log at once: what is left comes with the next ones.
_LOOKS_MAX = 16

_CURSORS = "kept.json"


class Keeper:
    """Of one router. Any thread."""

    def __init__(self, places: Places) -> None:
        self._directory = places.state / KEPT
        self._cursors = places.runtime / _CURSORS
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._trouble = ""
        standing = self._read_cursors()
        self._logs = [(unit, _tail(places.live(unit)[-1], standing.get(unit))) for unit in (IKE, MODEM)]

    def step(self, now: float) -> None:
        """Keep what is new, every few seconds."""
        if self._looked_at is None or now - self._looked_at >= EVERY_S:
            self._looked_at = now
            self.keep()

    def keep(self) -> None:
        """Append what is new to what is kept. A full disk costs lines, and nothing else."""
        with self._lock:
            before = [tail.standing for _, tail in self._logs]
            reasons = [_trouble(self._keep, unit, tail) for unit, tail in self._logs]
            if before != [tail.standing for _, tail in self._logs]:
                reasons.append(_trouble(self._write_cursors))
            trouble = next(filter(None, reasons), "")
            if trouble and trouble != self._trouble:
                _log.warning("logs of IKE and modem are not kept: %s", trouble)
            self._trouble = trouble

    def _keep(self, unit: str, tail: Tail) -> None:
        for _ in range(_LOOKS_MAX):
            before, lines = tail.standing, list(tail.new())
            if not lines:
                break
            try:
                self._append(unit, lines if unit == IKE else _with_time(lines, tail.path))
            except OSError:
                tail.standing = before
                raise

    def _append(self, unit: str, lines: Sequence[str]) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / f"{unit}.log"
        content = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                content = b"\n" + content  # a power cut has torn what was written before
            try:
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(descriptor, size)  # no line twice, none in parts
                raise
        finally:
            os.close(descriptor)
        if size + len(content) >= FILE_MAX_BYTES:
            for number in range(KEPT_OLD_FILES - 1, 0, -1):
                old = path.with_name(f"{path.name}.{number}")
                if old.exists():
                    old.rename(path.with_name(f"{path.name}.{number + 1}"))
            path.rename(path.with_name(f"{path.name}.1"))

    def _read_cursors(self) -> dict[str, tuple[int, int]]:
        try:
            found = json.loads(self._cursors.read_bytes())
            return {unit: (int(inode), int(offset)) for unit, (inode, offset) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write_cursors(self) -> None:
        fresh = self._cursors.with_suffix(".new")
        fresh.write_text(json.dumps({unit: tail.standing for unit, tail in self._logs}))
        fresh.rename(self._cursors)


def _trouble(act: Callable[..., None], *args: object) -> str:
    """What the disk has against it; empty: nothing."""
    try:
        act(*args)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _tail(paths: tuple[Path, ...], standing: tuple[int, int] | None) -> Tail:
    """From where an agent before this one has kept, else from the beginning."""
    tail = Tail(paths[-1], paths[-2])
    tail.standing = standing or (0, 0)
    return tail


def _with_time(lines: Sequence[str], path: Path) -> list[str]:
    try:
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        at = datetime.now(UTC)
    return [f"{at:%Y-%m-%dT%H:%M:%S} {line}" for line in lines]
