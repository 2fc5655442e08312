"""SMTP replies (RFC 5321 4.2) out of bytes as they come, and the transparency of mail text (4.5.2). Pure.

Whatever a smarthost sends, memory stays bounded: a line or a reply that is too long is an error of its own.
"""

from dataclasses import dataclass, field

#: RFC 5321 4.5.3.1.5 allows 512 octets; real ones with policy links are longer.
LINE_MAX_BYTES = 4096
LINES_MAX = 100


class GarbledError(Exception):
    """The other side does not speak SMTP. The text is ours; it holds at most a short piece of what came."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply; the texts of its lines with a blank between them, undecodable octets replaced."""

    code: int
    text: str

    @property
    def is_good(self) -> bool:
        """Whether it is 2xx."""
        return 200 <= self.code <= 299


@dataclass(slots=True)
class ReplyReader:
    """Feeds on bytes, gives replies."""

    _rest: bytes = b""
    _lines: list[str] = field(default_factory=list)

    @property
    def is_between(self) -> bool:
        """Whether no part of a further reply has come."""
        return not self._rest and not self._lines

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that ``data`` completed. Raises GarbledError; then the connection is of no use."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_MAX_BYTES:
            raise GarbledError(f"a reply line longer than {LINE_MAX_BYTES} octets")
        return [reply for line in lines if (reply := self._line(line)) is not None]

    def _line(self, line: bytes) -> Reply | None:
        if len(line) > LINE_MAX_BYTES:
            raise GarbledError(f"a reply line longer than {LINE_MAX_BYTES} octets")
        code = int(line[:3]) if line[:3].isdigit() else 0
        mark = line[3:4]
        if not 200 <= code <= 599 or mark not in (b" ", b"-", b"\r", b""):
            raise GarbledError(f"no SMTP reply: {line[:40]!r}")
        self._lines.append(line[4:].decode("utf-8", errors="replace").strip())
        if mark == b"-":
            if len(self._lines) >= LINES_MAX:
                raise GarbledError(f"a reply of more than {LINES_MAX} lines")
            return None
        text = " ".join(self._lines)
        self._lines.clear()
        return Reply(code, text)


def stuffed(text: bytes) -> bytes:
    """CRLF text from the start of a line on, with each dot that begins a line doubled."""
    text = text.replace(b"\r\n.", b"\r\n..")
    return b"." + text if text[:1] == b"." else text


@dataclass(slots=True)
class Stuffer:
    """Doubles the dots of a text that comes in pieces; the first piece begins a line."""

    _tail: bytes = b"\r\n"

    def feed(self, piece: bytes) -> bytes:
        """The piece as it goes out."""
        if not piece:
            return piece
        joined = self._tail + piece
        self._tail = joined[-2:]
        # At most two octets of the piece before lead in, and they went out already: only their dot counts.
        return joined.replace(b"\r\n.", b"\r\n..")[len(joined) - len(piece) :]

    @property
    def ending(self) -> bytes:
        """What ends the mail after the last piece: its last line is ended, then the lone dot."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
