"""Bytes from a modem -> lines, and what each line is (ITU-T V.250 sections 5.7 and 6.1). Pure."""

import re
from enum import Enum, auto

#: A line longer than this is no AT answer: garbage, or a PPP stream.
LINE_MAX_BYTES = 512

_FINAL = re.compile(r"(OK|ERROR|CONNECT( .*)?|NO CARRIER|BUSY|NO ANSWER|NO DIALTONE|NO DIAL TONE|\+CM[ES] ERROR:.*)\Z")
#: Codes that only come unasked, or that mean nothing as an answer. +CREG & co. are told by their number of fields.
_UNSOLICITED = re.compile(
    r"(RING\Z|RDY\Z|\+CRING:|\+CMTI:|\+CMT:|\+CDS:|\+CUSD:|\+CGEV:|\+CTZV:|\+CTZE:|\+CLIP:|\+PBREADY|\+CIEV:"
    r"|\^|\*|%|_|\+QIND|\+QUSIM|SMS READY\Z|CALL READY\Z|\+(CREG|CGREG|CEREG):\s*\d\s*(,\s*\"|\Z))",
    re.IGNORECASE,
)


class Kind(Enum):
    """What a line is."""

    ECHO = auto()
    INFORMATION = auto()
    FINAL = auto()
    UNSOLICITED = auto()
    NOISE = auto()


class LineReader:
    """Cuts a stream into lines. CR, LF and any mixture end one; what is too long or unprintable is dropped."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now, without empty ones; bytes that are no text are left out."""
        self._rest += data
        *complete, rest = re.split(rb"[\r\n]+", bytes(self._rest))
        self._rest = bytearray(rest[-LINE_MAX_BYTES:])
        found = []
        for line in complete:
            text = re.sub(rb"[^\x20-\x7e]", b"", line[-LINE_MAX_BYTES:]).decode("ascii").strip()
            if text:
                found.append(text)
        return found

    def clear(self) -> None:
        """Forget an unfinished line."""
        self._rest.clear()


def kind(line: str, command: str) -> Kind:
    """What ``line`` is while the answer to ``command`` is awaited; ``command`` empty: none is.

    A line that the command asks for by its name (``+CREG?``, ``+CREG: 0,1``) is an answer, with as many fields as an
    answer has; one with another name or fewer fields came by itself in between.
    """
    if command and line.endswith(command):
        return Kind.ECHO  # with garbage in front it still is one
    if _FINAL.match(line):
        return Kind.FINAL
    if not command or _UNSOLICITED.match(line):
        return Kind.UNSOLICITED
    asked = re.match(r"AT(\+[A-Z]+)", command)
    if line.startswith("+"):
        return Kind.INFORMATION if asked and line.startswith(f"{asked[1]}:") else Kind.UNSOLICITED
    # Without a "+": the IMEI, the manufacturer's name.
    return Kind.INFORMATION if asked and "?" not in command and "=" not in command else Kind.NOISE
