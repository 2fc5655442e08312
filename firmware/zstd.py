"""The zstd program: packing whole files, unpacking with bounds on memory and on what comes out. The one adapter to it.

A child and not a library: what a hostile or broken stream does to it stays in it, and the router's image has the
program anyway. ``zstd --patch-from`` makes and undoes compression against a reference (its manual: "zstd will use it
as a dictionary"); the reference is handed over in memory, never on the router's flash.
"""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

PROGRAM = "zstd"

#: Windows that a full payload may use: 32 MiB (--long=25). Unpacking needs that much memory and a little.
FULL_WINDOW_LOG = 25
#: What unpacking of anything may use, MiB: a window for the segment and its reference.
MEMORY_MIB = 64
#: Seconds for a segment; a slow router unpacks 10 MB/s.
SEGMENT_S = 300.0
_PIECE_BYTES = 1 << 18
#: How much of the program's complaint is kept.
_DETAIL_MAX_CHARS = 200


class ZstdError(Exception):
    """The program is missing or could not work: ours or the machine's fault. The text says what it said."""


class DamagedError(Exception):
    """What was to be unpacked is damaged, needs too much memory, or unpacks to more than was announced."""


def compress_file(source: Path, output: Path, *, level: int = 19, window_log: int = FULL_WINDOW_LOG) -> None:
    """Pack a whole file. The same bytes each time with the same version, on any number of cores. Raises ZstdError."""
    _finish([
        PROGRAM, "-q", "-f", "-T0", f"-{level}", f"--long={window_log}", "-o", str(output), str(source),
    ])  # fmt: skip


def compress_against(content: bytes, reference: bytes, *, level: int = 19) -> bytes:
    """Pack ``content`` (a segment) against a reference; empty: against nothing. Raises ZstdError."""
    with _in_memory(reference) as known, _in_memory(content) as given:
        against = [f"--patch-from={_path(known)}"] if reference else []
        # -f: without it zstd leaves symbolic links alone, and that is what a descriptor's path is.
        argv = [PROGRAM, "-q", "-c", "-f", "--single-thread", f"-{level}", *against, _path(given)]
        return _finish(argv, (known, given))


def decompress(compressed: bytes, *, most_bytes: int, reference: Iterable[bytes] = ()) -> bytearray:
    """Unpack one piece in memory. Raises DamagedError, ZstdError."""
    with _in_memory(compressed) as given, _in_memory(b"") as known:
        size = 0
        for piece in reference:
            size += os.write(known, piece)
        against = [f"--patch-from={_path(known)}"] if size else []
        os.lseek(given, 0, os.SEEK_SET)
        # By standard input: with a path it would take -f, and with that zstd passes on what is not packed at all.
        argv = [PROGRAM, "-d", "-q", "-c", f"--memory={MEMORY_MIB}MB", *against]
        found = bytearray()  # not joined from a list: that would be there twice for a moment
        for piece in _output(argv, most_bytes, stdin=given, keep=(known,), within_s=SEGMENT_S):
            found += piece
        return found


def decompress_file(source: Path, *, most_bytes: int) -> Iterator[bytes]:
    """Unpack a file piece by piece. Raises DamagedError, ZstdError; closing the iterator ends the program."""
    with source.open("rb") as stream:
        argv = [PROGRAM, "-d", "-q", "-c", f"--memory={MEMORY_MIB}MB"]
        yield from _output(argv, most_bytes, stdin=stream.fileno())


def _output(
    argv: list[str], most_bytes: int, *, stdin: int, keep: tuple[int, ...] = (), within_s: float | None = None
) -> Iterator[bytes]:
    with _started(argv, keep, stdin) as child:
        output = child.stdout
        if output is None:  # it is a pipe: for the type checker
            raise ZstdError(PROGRAM)
        timer = threading.Timer(within_s or 0.0, child.kill)
        timer.daemon = True
        if within_s is not None:
            timer.start()
        try:
            total = 0
            while piece := output.read(_PIECE_BYTES):
                total += len(piece)
                if total > most_bytes:
                    raise DamagedError("it unpacks to more than announced")
                yield piece
            complaint = _said(child.stderr)
            if child.wait() != 0:
                raise DamagedError(complaint)
        finally:
            timer.cancel()
            child.kill()


def _finish(argv: list[str], descriptors: tuple[int, ...] = ()) -> bytes:
    with _started(argv, descriptors) as child:
        output, complaint = child.communicate()
    if child.returncode != 0:
        raise ZstdError(complaint.decode(errors="replace").strip()[-_DETAIL_MAX_CHARS:])
    return output


def _started(argv: list[str], keep: tuple[int, ...], stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=keep,
            bufsize=0,
        )
    except OSError as error:
        raise ZstdError(f"{PROGRAM}: {error.strerror}") from None


def _said(stream: IO[bytes] | None) -> str:
    return "" if stream is None else stream.read().decode(errors="replace").strip()[-_DETAIL_MAX_CHARS:]


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """A file without a place on any disk; zstd wants files that it can look at twice."""
    descriptor = os.memfd_create("kyoten-zstd", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
