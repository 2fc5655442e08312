"""Mails whose every property follows from their number: whoever judges the end needs to know nothing but numbers."""

import hashlib
import random
import re
from dataclasses import dataclass
from enum import StrEnum

DOMAIN = "customer.test"
#: Where non-delivery reports go.
SENDER_DOMAIN = "site.test"

_ADDRESS = re.compile(rf"([a-z]+)-(\d+)-(\d+)@{re.escape(DOMAIN)}")
_DIGEST_CHARS = 16


class Fate(StrEnum):
    """What the smarthost does with a recipient."""

    TAKEN = "ok"
    #: Refused for now once or twice, then taken.
    LATER = "later"
    #: No such mailbox.
    GONE = "gone"
    #: Refused for now for ever: it expires.
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Mix:
    """What kinds of mail there are: (size of the body in bytes, how often), (fate, how often)."""

    sizes: tuple[tuple[int, int], ...] = ((2_000, 12), (20_000, 3), (100_000, 1), (600_000, 1))
    fates: tuple[tuple[Fate, int], ...] = ((Fate.TAKEN, 40), (Fate.LATER, 4), (Fate.GONE, 4), (Fate.NEVER, 1))
    recipients_max: int = 4


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail. Each recipient's address is met in no other."""

    number: int
    sender: str
    recipients: tuple[str, ...]
    body: bytes

    @property
    def content(self) -> bytes:
        """With its header section, as DATA takes it before dots are doubled."""
        head = f"From: {self.sender}\r\nTo: {self.recipients[0]}\r\nSubject: Fault {self.number}\r\n\r\n"
        return head.encode() + self.body


def made(number: int, mix: Mix) -> Mail:
    """The mail of this number."""
    dice = random.Random(number)
    (size,) = dice.choices([size for size, _ in mix.sizes], [often for _, often in mix.sizes])
    count = dice.choice((1, 1, 1, *range(1, mix.recipients_max + 1)))
    fates = dice.choices([fate for fate, _ in mix.fates], [often for _, often in mix.fates], k=count)
    recipients = tuple(f"{fate}-{number}-{index}@{DOMAIN}" for index, fate in enumerate(fates))
    line = f"{number:08d}-" * 8 + "\r\n"
    return Mail(number, f"plc-{number}@{SENDER_DOMAIN}", recipients, (line * (size // len(line) + 1)).encode())


def number_of(address: str) -> int | None:
    """The number of the mail that has this recipient; None: it is none of ours, a report's for example."""
    found = _ADDRESS.fullmatch(address)
    return int(found[2]) if found else None


def fate_of(address: str) -> Fate | None:
    """What the smarthost is to do with it; None: it is none of ours."""
    found = _ADDRESS.fullmatch(address)
    return Fate(found[1]) if found else None


def digest(body: bytes) -> str:
    """Tells bodies apart."""
    return hashlib.sha256(body).hexdigest()[:_DIGEST_CHARS]


def body_of(content: bytes) -> bytes:
    """What follows the header section."""
    return content.partition(b"\r\n\r\n")[2]
