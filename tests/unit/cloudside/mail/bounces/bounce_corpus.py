"""Reports in the shapes of many servers and providers, and what each means: the files of ``corpus/``.

We wrote them after the RFCs and the vendors' documented formats; no real mail is in them. The first line of a file says
what has to be read out of the rest: meaning, status, permanent or temporary, cause, and ``from=`` when it does not come
with the null sender. "-": does not matter. Lines end with LF in the files and with CRLF on their way.
"""

from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


@dataclass(frozen=True, slots=True)
class Shape:
    """One report as it comes in, and what it means."""

    name: str
    raw: bytes
    sender: str
    meaning: str
    status: str
    permanence: str
    cause: str


def shapes() -> list[Shape]:
    """All of them, by name."""
    return [_read(path) for path in sorted(CORPUS.glob("*.eml"))]


def _read(path: Path) -> Shape:
    first, _, mail = path.read_bytes().partition(b"\n")
    meaning, status, permanence, cause, *rest = first.decode("ascii").split()
    sender = rest[0].removeprefix("from=") if rest else ""
    return Shape(path.stem, mail.replace(b"\n", b"\r\n"), sender, meaning, status, permanence, cause)
