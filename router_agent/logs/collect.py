"""The last lines of several logs as one text in the order of time, compressed for the cloud."""

import gzip
import heapq
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

#: The cloud takes at most 2,000,000 bytes, compressed; a text of this size always stays below.
TEXT_MAX_BYTES = 4_000_000
COMPRESSED_MAX_BYTES = 2_000_000

#: How much is read from the end of one file.
TAIL_MAX_BYTES = 4_000_000

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def last_lines(paths: Sequence[Path], count: int) -> list[str]:
    """The last ``count`` lines of a log whose files are given oldest first. A file that is not there has no lines."""
    lines: list[str] = []
    for path in reversed(paths):
        if len(lines) >= count:
            break
        lines = [*_tail(path), *lines]
    return lines[-count:]


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL_MAX_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[1:] if size > TAIL_MAX_BYTES else lines


def merged(logs: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """The last ``count`` lines of all logs in the order of time, each behind its log's name.

    Lines begin with an ISO time; one without belongs to the line before it.
    """
    streams = []
    for name, lines in sorted(logs.items()):
        stamped = []
        latest = ""
        for line in lines:
            found = _TIME.match(line)
            latest = max(latest, found.group()) if found else latest
            stamped.append((latest, f"{name}| {line}"))
        streams.append(stamped)
    return [line for _, line in heapq.merge(*streams, key=lambda item: item[0])][-count:]


def text(site: str, logs: Mapping[str, Sequence[str]], count: int, *, now: datetime) -> str:
    """The whole text: a header that says whose lines these are, then the lines."""
    lines = merged(logs, count)
    head = (
        f"# site {site}; collected {now.isoformat(timespec='seconds')}; {len(lines)} lines of {', '.join(sorted(logs))}"
    )
    return "\n".join([head, *lines]) + "\n"


def compressed(whole: str) -> bytes:
    """gzip of the text's end that the cloud takes: the newest lines matter most."""
    content = whole.encode()
    keep = TEXT_MAX_BYTES
    while True:
        packed = gzip.compress(content[-keep:], compresslevel=6)
        if len(packed) <= COMPRESSED_MAX_BYTES:
            return packed
        keep //= 2
