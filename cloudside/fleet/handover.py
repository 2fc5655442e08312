"""Bounds on logs that a router hands over: they must be gzip, and must not unpack to more than a person asked for.

A router is on a customer's premises and may be in anybody's hands: 2 MB of gzip can unpack to 2 GB.
"""

import zlib
from collections.abc import Iterable, Iterator

from cloudside.errors import InputError

#: Most bytes a log may unpack to: 100,000 lines of 500 bytes.
UNPACKED_MAX_BYTES = 50_000_000
#: The same for a pull that comes in pieces: its gzip has 16 MB at most, and text packs to a tenth or less.
PULL_UNPACKED_MAX_BYTES = 400_000_000
#: And for one piece of a followed log.
PIECE_UNPACKED_MAX_BYTES = 20_000_000

_STEP_BYTES = 65_536
#: zlib's window size for the gzip format only (RFC 1952), no raw or zlib streams.
_GZIP = 16 + zlib.MAX_WBITS


def check_log(content: bytes, *, unpacked_max_bytes: int = UNPACKED_MAX_BYTES) -> int:
    """Unpack piecewise, keep nothing, return the unpacked size in bytes.

    One gzip member only: thousands of tiny ones would cost quadratic time.
    Raises InputError: not one whole gzip member, something after it, or too large unpacked.
    """
    member = zlib.decompressobj(_GZIP)
    rest, total = content, 0
    try:
        while not member.eof:
            piece = member.decompress(rest, _STEP_BYTES)
            rest = member.unconsumed_tail
            total += len(piece)
            if total > unpacked_max_bytes:
                raise InputError("fleet.log-too-large", most=unpacked_max_bytes)
            if not piece and not rest and not member.eof:
                raise InputError("fleet.log-not-gzip")  # it ends too early
    except zlib.error:
        raise InputError("fleet.log-not-gzip") from None
    if member.unused_data:
        raise InputError("fleet.log-not-gzip")
    return total


def read_log(content: bytes) -> str:
    """The text of a log that check_log accepted. Bytes that are no UTF-8 show as replacement characters."""
    return zlib.decompress(content, _GZIP).decode("utf-8", errors="replace")


def unpacked(pieces: Iterable[bytes], *, unpacked_max_bytes: int = PULL_UNPACKED_MAX_BYTES) -> Iterator[bytes]:
    """The text of one gzip member that comes in pieces, a bit at a time, so that it never lies in memory whole.

    Raises InputError as check_log does, when it comes to it.
    """
    member = zlib.decompressobj(_GZIP)
    total = 0
    for content in pieces:
        rest = content
        while rest:
            if member.eof:
                raise InputError("fleet.log-not-gzip")
            try:
                text = member.decompress(rest, _STEP_BYTES)
            except zlib.error:
                raise InputError("fleet.log-not-gzip") from None
            rest = member.unconsumed_tail or member.unused_data
            total += len(text)
            if total > unpacked_max_bytes:
                raise InputError("fleet.log-too-large", most=unpacked_max_bytes)
            if text:
                yield text
    if not member.eof:
        raise InputError("fleet.log-not-gzip")
