"""Headers of a mail on its way through the relay. Works on bytes and leaves the body alone. Pure.

Devices send what they send: no Date, no Message-ID, no From, bare line feeds, even no header at all. A mail is made
fit for SES and otherwise not touched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from email.header import decode_header, make_header
from email.utils import format_datetime
from functools import lru_cache

#: RFC 5321 6.3: a large number of Received fields means a loop; the RFC suggests 100, ours is a short path.
RECEIVED_MAX = 30
#: RFC 5321 4.5.3.1.6: 1000 octets with CRLF.
LINE_MAX_OCTETS = 998
SUBJECT_MAX_CHARS = 100

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_LINE = re.compile(rb"[^\r\n]*\r\n|[^\r\n]+\Z")
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9.:\[\]_-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
#: Never passed on: Bcc would disclose, Return-Path is the final server's to write (RFC 5321 4.4), X-SES-* steers SES.
_STRIPPED = (b"bcc", b"resent-bcc", b"return-path")


@dataclass(frozen=True, slots=True)
class Trace:
    """What the Received field says. ``protocol`` as RFC 3848: SMTP, ESMTP, ESMTPSA."""

    helo: str
    source: str
    host_name: str
    protocol: str
    message_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """The header section of a mail ready to be queued, each line with its CRLF, without the empty line.

    ``automatic``: an auto-reply or bulk mail, see RFC 3834 and RFC 2076 (Precedence). ``froms``: the From fields as the
    device wrote them, unfolded. ``fields`` are all that are kept, as (lower-case name, whole field).
    """

    head: bytes
    subject: str
    automatic: bool
    received_count: int
    froms: tuple[str, ...]
    fields: tuple[tuple[bytes, bytes], ...]


def has_bare_line_ends(content: bytes) -> bool:
    """True when a CR or LF stands alone, which different servers read differently (SMTP smuggling)."""
    rest = content.replace(b"\r\n", b"")  # three times as fast as counting
    return b"\r" in rest or b"\n" in rest


def unbared(content: bytes) -> bytes:
    """With CRLF at every line end."""
    if has_bare_line_ends(content):
        # Not with an expression: of 10 MB of line feeds that would take seconds.
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return content


def normalised(content: bytes) -> bytes:
    """With CRLF at every line end and at the end."""
    content = unbared(content)
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


def split(content: bytes) -> tuple[bytes, bytes]:
    """Header section and body of CRLF text; each header line keeps its CRLF, the empty line belongs to neither.

    A line that is no header field ends the section even without an empty line before it: it is body.
    """
    position = 0
    while position < len(content):
        end = content.find(b"\r\n", position)
        end = len(content) if end < 0 else end
        line = content[position:end]
        if not line:
            return content[:position], content[end + 2 :]
        folded = line[:1] in (b" ", b"\t") and position > 0
        if not folded and not _FIELD.match(line):
            return content[:position], content[position:]
        position = min(end + 2, len(content))
    return content, b""


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Header fields as (lower-case name, whole field with its folds and CRLF), in order."""
    found: list[tuple[bytes, bytes]] = []
    for line in _LINE.findall(head):
        if line[:1] in (b" ", b"\t") and found:
            found[-1] = (found[-1][0], found[-1][1] + line)
        else:
            found.append((line.partition(b":")[0].strip().lower(), line))
    return found


def prepare(head: bytes, *, sender: str, trace: Trace, domain: str) -> Prepared:
    """Strip, complete and sign a header section with a Received field. ``head`` must have CRLF line ends.

    ``sender`` fills a missing From; ``domain`` is the right side of a missing Message-ID.
    """
    given = fields(head)
    kept = tuple((name, field) for name, field in given if name not in _STRIPPED and not name.startswith(b"x-ses-"))
    values = {name: value(field) for name, field in reversed(kept)}
    written = _written(trace.at.replace(microsecond=0))
    added = [_received(trace, written)]
    if b"message-id" not in values:
        added.append(f"Message-ID: <{trace.message_id}@{domain}>\r\n".encode())
    if b"date" not in values:
        added.append(f"Date: {written}\r\n".encode())
    if b"from" not in values:
        added.append(f"From: <{sender or 'nobody@' + domain}>\r\n".encode())
    return Prepared(
        head=b"".join([*added, *(_ended(field) for _, field in kept)]),
        subject=readable(values.get(b"subject", b"")),
        automatic=is_automatic(values),
        received_count=sum(name == b"received" for name, _ in given),
        froms=tuple(_unfolded(field) for name, field in kept if name == b"from"),
        fields=kept,
    )


def value(field: bytes) -> bytes:
    """What a header field says, without its name; folds stay."""
    return field.partition(b":")[2].strip()


def is_automatic(values: dict[bytes, bytes]) -> bool:
    """True when nobody must be told that this mail failed: it answers or spreads by itself (RFC 3834)."""
    submitted = values.get(b"auto-submitted", b"no").lower().partition(b";")[0].strip()
    # auto-generated is what a controller's alarm may rightly call itself: its sender wants the report.
    if submitted not in (b"no", b"auto-generated", b""):
        return True
    return values.get(b"precedence", b"").lower() in (b"bulk", b"junk", b"list") or b"list-id" in values


def readable(raw: bytes) -> str:
    """A header's text for people: decoded (RFC 2047), one line, clipped. Never raises."""
    text = raw.decode("utf-8", errors="replace")
    if "=?" in text:
        try:
            text = str(make_header(decode_header(text)))
        except (ValueError, LookupError, MessageError):  # broken encoded word, unknown charset
            pass
    return one_line(text, SUBJECT_MAX_CHARS)


def one_line(text: str, limit: int) -> str:
    """Foreign text made safe to show: no control or direction characters, at most ``limit`` characters."""
    text = _CONTROL.sub(" ", text.encode("utf-8", errors="replace").decode("utf-8")).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def joined(names: Sequence[tuple[str, int]]) -> str:
    """``a (3), b (1)``."""
    return ", ".join(f"{name} ({count})" for name, count in names)


def _ended(field: bytes) -> bytes:
    return field if field.endswith(b"\r\n") else field + b"\r\n"


def _unfolded(field: bytes) -> str:
    return value(field).replace(b"\r\n", b"").decode("utf-8", errors="replace")


@lru_cache(maxsize=16)
def _written(at: datetime) -> str:
    return format_datetime(at)  # the same for each mail of a second


def _received(trace: Trace, written: str) -> bytes:
    helo = _NOT_A_NAME.sub("?", trace.helo[:200])
    return (
        f"Received: from {helo} ([{trace.source}])\r\n"
        f"\tby {trace.host_name} with {trace.protocol} id {trace.message_id};\r\n"
        f"\t{written}\r\n"
    ).encode()
