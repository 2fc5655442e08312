"""The door at the console: a challenge, three tries, a wait that grows. Pure: instants and random bits are arguments.

A wrong answer is counted before it is judged (the caller writes `Door.wrong` to the disk first), so that pulling the
plug saves nobody a wait. The wait begins anew at each start for the same reason.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

from cryptography.hazmat.primitives.asymmetric import ec

from firmware import console
from firmware.console import Challenge, CheckError, MalformedError

#: How long a challenge can be answered, in seconds of a clock that nobody can set.
CHALLENGE_S = 600.0
#: Tries for a challenge; with 55 bits a guess is right once in 10^16.
TRIES = 3
#: Seconds to wait after the first three wrong answers, twice as long after each three more, and at most.
WAIT_S = 60.0
WAIT_MOST_S = 900.0
#: More than this is not counted: the wait is the longest by then.
WRONG_MOST = 1000


class Verdict(Enum):
    """What became of an answer."""

    OPEN = "open"
    WRONG = "wrong"
    #: Wrong, and there are no more tries.
    SHUT = "shut"
    #: Not counted: it cannot be anybody's response.
    MALFORMED = "malformed"
    MISTYPED = "mistyped"
    #: The challenge itself, typed back.
    ECHOED = "echoed"
    #: The challenge was too old; nothing was judged.
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Keys:
    """The site's own key and the public half of the service's console key, of one curve."""

    site: str
    own: ec.EllipticCurvePrivateKey = field(repr=False)
    console: ec.EllipticCurvePublicKey

    @property
    def tag(self) -> int:
        """Names the pair."""
        return console.tag(self.own.public_key(), self.console)

    @property
    def secret(self) -> bytes:
        """What only the service knows as well. Raises ValueError: the keys do not go together."""
        return console.secret(self.own, self.own.public_key(), self.console)


@dataclass(frozen=True, slots=True)
class Door:
    """One challenge and what is left of it. ``wrong``: wrong answers since the last login, kept over starts."""

    site: str
    secret: bytes = field(repr=False)
    challenge: Challenge
    shown_at: float
    wrong: int

    @property
    def ends_at(self) -> float:
        """From when on the challenge is good for nothing."""
        return self.shown_at + CHALLENGE_S

    @property
    def tries_left(self) -> int:
        """Until the next wait."""
        return TRIES - self.wrong % TRIES

    def counted(self) -> "Door":
        """With one more wrong answer: to be written down before `judge` is asked."""
        return replace(self, wrong=min(self.wrong + 1, WRONG_MOST))


def wait_s(wrong: int) -> float:
    """How long to wait, at a start and after an answer, before a challenge is shown."""
    rounds = wrong // TRIES
    return 0.0 if rounds == 0 else min(WAIT_S * 2.0 ** min(rounds - 1, 20), WAIT_MOST_S)


def open_door(keys: Keys, *, nonce: int, wrong: int, now: float) -> Door:
    """A door with a fresh challenge. ``nonce``: console.NONCE_BITS random bits. Raises ValueError: unusable keys."""
    return Door(keys.site, keys.secret, Challenge(nonce, keys.tag), now, min(wrong, WRONG_MOST))


def look_at(door: Door, answer: str, now: float) -> Verdict | None:
    """What can be said of an answer without the secret; None: it has to be counted and judged."""
    if now >= door.ends_at:
        return Verdict.LATE
    try:
        console.read(console.Kind.RESPONSE, answer)
    except MalformedError:
        return Verdict.MALFORMED
    except CheckError:
        return Verdict.ECHOED if _is_challenge(door, answer) else Verdict.MISTYPED
    return None


def judge(door: Door, answer: str) -> Verdict:
    """Whether the door opens. ``door``: with this answer counted already."""
    if console.fits(door.secret, door.site, door.challenge, answer):
        return Verdict.OPEN
    return Verdict.SHUT if door.wrong % TRIES == 0 else Verdict.WRONG


def _is_challenge(door: Door, answer: str) -> bool:
    try:
        return console.parse_challenge(answer) == door.challenge
    except (MalformedError, CheckError):
        return False
