"""What a login at a router's serial console is made of: the challenge, the response, how both are written. Pure.

Router and cloud work out the same secret from the site's key pair and the service's console key pair (ECDH, NIST P-256,
SP 800-56A), and the response is an HMAC with it. So nobody sends a secret, and a router judges without a line.
Why so: docs/adr/0025-console-login.md.

Both texts are twelve signs in groups of four, said over a telephone: eleven of 5 bits, and a check sign that notices
any one wrong sign and any two that were exchanged.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

#: Crockford's base 32: no I, L, O and U. Whoever reads them where they cannot be means their look-alikes.
SIGNS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOK_ALIKES: Final = str.maketrans("ILOU", "110V")
_SEPARATORS: Final = str.maketrans("", "", "- \t\r\n.")

#: Signs of a text without and with its check sign, and in a group.
DATA_SIGNS: Final = 11
TEXT_SIGNS: Final = DATA_SIGNS + 1
GROUP_SIGNS: Final = 4
_SIGN_BITS: Final = 5
DATA_BITS: Final = DATA_SIGNS * _SIGN_BITS

#: Of a challenge: what is drawn anew each time, and what names the pair of keys.
NONCE_BITS: Final = 40
TAG_BITS: Final = DATA_BITS - NONCE_BITS

#: x^5 + x^2 + 1, primitive: the powers of x are all 31 elements of GF(32) but zero.
_POLYNOMIAL: Final = 0b100101

_PURPOSE: Final = b"kyoten console login 1"


class Kind(StrEnum):
    """What a text is. Each has check signs of its own, so that one is not taken for the other."""

    CHALLENGE = "challenge"
    RESPONSE = "response"


_BEGINNING: Final = {Kind.CHALLENGE: 1, Kind.RESPONSE: 2}


class MalformedError(ValueError):
    """Not a text of this form: another length, or signs that do not exist."""


class CheckError(ValueError):
    """The check sign does not fit: misheard or mistyped."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """``nonce``: NONCE_BITS bits, used once. ``tag``: names the pair of keys, see `tag`."""

    nonce: int
    tag: int

    @property
    def text(self) -> str:
        """As it is shown and said."""
        return write(Kind.CHALLENGE, self.nonce << TAG_BITS | self.tag)

    @property
    def octets(self) -> bytes:
        """As it is signed."""
        return (self.nonce << TAG_BITS | self.tag).to_bytes(-(-DATA_BITS // 8), "big")


def parse_challenge(text: str) -> Challenge:
    """A challenge as somebody typed it. Raises MalformedError, CheckError."""
    value = read(Kind.CHALLENGE, text)
    return Challenge(value >> TAG_BITS, value & ((1 << TAG_BITS) - 1))


def tag(site: ec.EllipticCurvePublicKey, console: ec.EllipticCurvePublicKey) -> int:
    """Names a pair of keys in a challenge: the cloud finds the one that the router means."""
    digest = hashlib.sha256(_PURPOSE + b"\0tag\0" + _point(site) + _point(console)).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - TAG_BITS)


def secret(
    own: ec.EllipticCurvePrivateKey, site: ec.EllipticCurvePublicKey, console: ec.EllipticCurvePublicKey
) -> bytes:
    """What only the holders of either private key can work out. ``own`` is the private half of one of the two.

    Raises ValueError: it is neither's, or the keys are of different curves.
    """
    mine = _point(own.public_key())
    if mine not in (_point(site), _point(console)):
        raise ValueError("the private key belongs to neither")
    if site.curve.name != console.curve.name:
        raise ValueError("the keys are of different curves")
    shared = own.exchange(ec.ECDH(), console if mine == _point(site) else site)
    info = _PURPOSE + b"\0secret\0" + _point(site) + _point(console)
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)


def response(secret: bytes, site: str, challenge: Challenge) -> str:
    """The response to a challenge of this site's router, as it is shown and said."""
    message = _PURPOSE + b"\0response\0" + site.encode() + b"\0" + challenge.octets
    digest = hmac.new(secret, message, hashlib.sha256).digest()
    return write(Kind.RESPONSE, int.from_bytes(digest[:8], "big") >> (64 - DATA_BITS))


def fits(secret: bytes, site: str, challenge: Challenge, given: str) -> bool:
    """Whether this is the response. Raises MalformedError, CheckError: it cannot be anybody's."""
    typed = write(Kind.RESPONSE, read(Kind.RESPONSE, given))
    return hmac.compare_digest(typed, response(secret, site, challenge))


def write(kind: Kind, value: int) -> str:
    """A number of DATA_BITS bits as a text."""
    data = [value >> (_SIGN_BITS * place) & 31 for place in reversed(range(DATA_SIGNS))]
    signs = "".join(SIGNS[digit] for digit in (*data, _check(kind, data)))
    return "-".join(signs[start : start + GROUP_SIGNS] for start in range(0, TEXT_SIGNS, GROUP_SIGNS))


def read(kind: Kind, text: str) -> int:
    """The number in a text as typed: any case, with or without dashes. Raises MalformedError, CheckError."""
    plain = text.translate(_SEPARATORS).upper().translate(_LOOK_ALIKES)
    digits = [SIGNS.find(sign) for sign in plain]
    if len(digits) != TEXT_SIGNS or min(digits) < 0:
        raise MalformedError(f"{len(digits)} signs")
    if digits[-1] != _check(kind, digits[:-1]):
        raise CheckError("check sign")
    value = 0
    for digit in digits[:-1]:
        value = value << _SIGN_BITS | digit
    return value


def _check(kind: Kind, digits: Iterable[int]) -> int:
    """A Reed-Solomon check sign: each place has its own power of x as weight."""
    total = _BEGINNING[kind]
    for digit in digits:
        total = _times_x(total) ^ digit
    return _times_x(total)


def _times_x(element: int) -> int:
    doubled = element << 1
    return doubled ^ _POLYNOMIAL if doubled & 32 else doubled


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
