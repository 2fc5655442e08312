"""Where each 250 and each mail that the smarthost took is written down, outside of the disk that the queue is on.

One line each: ``promise 12`` (mail 12 got its 250), ``take ADDRESS DIGEST MESSAGE-ID REPORTED`` (REPORTED: the address
that a non-delivery report is about, or ``-``).
"""

import mmap
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Take:
    """A mail that the smarthost took for one recipient.

    ``at``: when its last byte had been read, ``opened``: when its connection began, monotonic seconds. A relay that is
    dead may have left its last bytes in the connection, so that they are read after its death.
    """

    recipient: str
    digest: str
    message_id: str
    #: The recipient that this is a report about; empty: it is no report.
    reported: str
    at: float = 0.0
    opened: float | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What a ledger says: numbers of mails, and takes in their order."""

    promises: frozenset[int]
    takes: tuple[Take, ...]


class Ledger(Protocol):
    """Writes down, from any thread."""

    def promise(self, number: int) -> None:
        """A client got its 250."""

    def take(self, take: Take) -> None:
        """The smarthost is about to answer 250."""


class FileLedger:
    """A file; each line is on its disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def promise(self, number: int) -> None:
        """See `Ledger`."""
        self._write(f"promise {number}\n")

    def take(self, take: Take) -> None:
        """See `Ledger`."""
        self._write(_line(take))

    def close(self) -> None:
        """No more lines."""
        os.close(self._fd)

    def _write(self, line: str) -> None:
        os.write(self._fd, line.encode())
        os.fsync(self._fd)


class SectorLedger:
    """A raw disk, one sector a line, never flushed.

    It lies on the disk whose writes are logged, beside the queue's partition: so the log itself says what was promised
    before which write. A flush from here would make the queue's writes durable and hide what it forgot, hence O_DIRECT
    alone.
    """

    def __init__(self, device: Path) -> None:
        self._fd = os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._buffer = mmap.mmap(-1, SECTOR_BYTES)  # aligned, as O_DIRECT wants it
        self._next = 0
        self._lock = threading.Lock()

    def promise(self, number: int) -> None:
        """See `Ledger`."""
        self._write(f"promise {number}\n")

    def take(self, take: Take) -> None:
        """See `Ledger`."""
        self._write(_line(take))

    def _write(self, line: str) -> None:
        with self._lock:
            self._buffer[:] = line.encode().ljust(SECTOR_BYTES, b"\0")
            os.pwrite(self._fd, self._buffer, self._next * SECTOR_BYTES)
            self._next += 1


def read(lines: Iterable[str]) -> Written:
    """What lines of a ledger say. Raises ValueError: a line that is none."""
    promises = set()
    takes = []
    for line in lines:
        match line.split():
            case ["promise", number]:
                promises.add(int(number))
            case ["take", recipient, digest, message_id, reported]:
                takes.append(Take(recipient, digest, message_id, "" if reported == "-" else reported))
            case _:
                raise ValueError(f"no line of a ledger: {line!r}")
    return Written(frozenset(promises), tuple(takes))


def _line(take: Take) -> str:
    return f"take {take.recipient} {take.digest} {take.message_id or '-'} {take.reported or '-'}\n"
