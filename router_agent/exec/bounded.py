"""One program, within a time and a size: what it wrote first counts. No shell, no input, an environment of our own."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

#: Programs are looked for here only.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ran:
    """``status`` None: it was ended because its time was over."""

    status: int | None
    output: str
    truncated: bool


def run(argv: Sequence[str], *, timeout_s: float, most_bytes: int) -> Ran:
    """Run to the end, or to the end of its time. Standard output and error are one. Raises OSError: it is not there.

    Once more than ``most_bytes`` have come the rest is read and dropped: a program that is cut off in the middle of
    writing would end otherwise than it does.
    """
    deadline = time.monotonic() + timeout_s
    # A session of its own: what it starts is ended with it.
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_ENVIRONMENT,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    kept, truncated, late = bytearray(), False, False
    with process.stdout as stream:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                late = True
                break
            if not select.select([stream], [], [], left_s)[0]:
                continue
            piece = os.read(stream.fileno(), _READ_BYTES)
            if not piece:
                break
            truncated = truncated or len(kept) + len(piece) > most_bytes
            kept += piece[: most_bytes - len(kept)]
        status = None if late else _wait(process, deadline)
        if status is None:
            _end(process)
    return Ran(status, kept.decode("utf-8", "replace"), truncated)


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> int | None:
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
