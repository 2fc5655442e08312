"""The text of a mail as it comes in, in any pieces: its end found, dots unstuffed, line ends made CRLF. Pure.

Invariants: only CRLF.CRLF ends a mail (RFC 5321 4.1.1.4, 4.5.2; every other reading is SMTP smuggling). What is kept
is bounded: of a mail that is too large, or has too long a line or header section, nothing is kept any more.
"""

from dataclasses import dataclass

from cloudside.mail.message import LINE_MAX_OCTETS, split, unbared

_END = b"\r\n.\r\n"

#: No mail program writes so much; a header section stays in memory and is kept for reports.
HEAD_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a mail may be, in octets. ``line`` and ``head`` 0: not judged."""

    size: int
    line: int = LINE_MAX_OCTETS
    head: int = HEAD_MAX_BYTES


class Receiver:
    """One mail. ``normalise``: bare CR and LF become CRLF and NUL goes away; otherwise they stay as they are.

    Devices send all three, and different servers read them differently.
    """

    __slots__ = (
        "_bounds", "_held", "_line", "_normalise", "_started", "_total", "ended", "head", "kept", "received", "refusal",
    )  # fmt: skip

    def __init__(self, bounds: Bounds, *, normalise: bool) -> None:
        self._bounds = bounds
        self._normalise = normalise
        #: A mail begins at the beginning of a line: as if a CRLF came before. It is not kept.
        self._held = b"\r\n"
        self._started = False
        #: Octets of a line that has not ended yet, and of all that was kept until now.
        self._line = 0
        self._total = 0
        #: What is kept and was not taken away: the whole mail, or the body as soon as ``head`` is known.
        self.kept = bytearray()
        #: The header section without the empty line; None: not known yet.
        self.head: bytes | None = None
        #: Octets that came, as they came.
        self.received = 0
        self.ended = False
        #: The reply to a mail that is out of bounds; empty: it is not.
        self.refusal = ""

    def feed(self, data: bytes) -> bytes:
        """Take a piece. What came after the end of the mail is given back."""
        self.received += len(data)
        data = self._held + data
        end = data.find(_END)
        if end >= 0:
            self.ended = True
            self._take(data[: end + 2])
            return data[end + len(_END) :]
        cut = len(data) - _undecided(data)
        self._held = data[cut:]
        self._take(data[:cut])
        return b""

    def refuse(self, reply: str) -> None:
        """Keep nothing any more; the end is still looked for."""
        self.refusal = self.refusal or reply
        self.kept = bytearray()

    def find_head(self) -> bool:
        """Move the header section out of ``kept`` as soon as it is certain where it ends; whether it is known."""
        if self.head is None and not self.refusal:
            # A line that has only begun may become anything.
            whole = len(self.kept) if self.ended else self.kept.rfind(b"\r\n") + 2
            lines = bytes(self.kept[:whole]) if whole > 1 or self.ended else b""
            head, body = split(lines)
            if self.ended or body or len(head) < len(lines):
                self.head = head
                # The empty line between the two belongs to neither.
                del self.kept[: len(lines) - len(body)]
        return self.head is not None

    def finish(self) -> None:
        """After the end: judge the header section and separate it from the body, if that is wanted at all."""
        if self._bounds.head and self.find_head() and len(self.head or b"") > self._bounds.head:
            self.refuse(_head_refused(self._bounds.head))

    def drain(self) -> bytes:
        """Take away what is kept of the body; the head must be known."""
        taken = bytes(self.kept)
        self.kept = bytearray()
        return taken

    def _take(self, piece: bytes) -> None:
        if self.refusal:
            if self.received > self._bounds.size:  # the better reason: it does not help to break the lines
                self.refusal = _too_large(self._bounds.size)
            return
        piece = piece.replace(b"\r\n.", b"\r\n")
        if not self._started:
            if not piece:
                return
            self._started = True
            piece = piece[2:]
        if self._normalise:
            if b"\0" in piece:
                piece = piece.replace(b"\0", b"")
            piece = unbared(piece)
        self._total += len(piece)
        if self._total > self._bounds.size:
            self.refuse(_too_large(self._bounds.size))
        elif self._bounds.line and self._has_long_line(piece):
            self.refuse(f"554 5.6.0 A line is longer than {self._bounds.line} octets (RFC 5321 4.5.3.1.6)")
        else:
            self.kept += piece
            self._watch_head()

    def _has_long_line(self, piece: bytes) -> bool:
        """Whether a line became too long with this piece. Goes in strides of the longest line, not line by line."""
        longest, end = self._bounds.line, len(piece)
        begin = -self._line  # of the line that is looked at
        while end - begin > longest:
            last = piece.rfind(b"\r\n", max(begin, 0), begin + longest + 2)
            if last < 0:
                return True
            begin = last + 2
        last = piece.rfind(b"\r\n", max(begin, 0))
        self._line = end - (begin if last < 0 else last + 2)
        return False

    def _watch_head(self) -> None:
        # The last line may be one that has only begun: what it is cannot be judged yet.
        most = self._bounds.head + LINE_MAX_OCTETS + 2
        if self._bounds.head and self.head is None and len(self.kept) > most and not self.find_head():
            self.refuse(_head_refused(self._bounds.head))


def _undecided(data: bytes) -> int:
    """Octets at the end of ``data`` that may be the beginning of the mail's end."""
    for length in (4, 3, 2, 1):
        if data.endswith(_END[:length]):
            return length
    return 0


def _too_large(limit: int) -> str:
    return f"552 5.3.4 The message is larger than {limit} bytes"


def _head_refused(limit: int) -> str:
    return f"552 5.3.4 The header section is larger than {limit} bytes"
