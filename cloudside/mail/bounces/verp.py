"""Signed opaque return addresses: which message, which recipient, in at most 64 octets (RFC 5321 4.5.3.1.1). Pure.

``b+<token>@domain`` is the return path of a relayed mail, ``n+<token>@domain`` that of our own reports and notices,
whose bounces are absorbed: Amazon SES refuses an empty MAIL FROM (docs/adr/0005-dsn-return-path.md). The token is
base32, so it survives servers that change the case of a local part; it holds a random message id, so it tells nothing.

Keys are rotated: the first of several signs, all are believed. A bounce may come weeks after its mail, so a key that
signs no longer stays for as long as messages are remembered.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass

KEY_BYTES = 32
#: Keys that are believed at once: one signs, the others are of earlier mail.
KEYS_MAX = 4
_MAC_BYTES = 10
_PAYLOAD = struct.Struct(">QH")
_RELAYED = "b"
_OWN = "n"


@dataclass(frozen=True, slots=True)
class ReturnAddress:
    """Recipient ``index`` of message ``message_id``; ``own`` when it was our report or notice."""

    message_id: int
    index: int
    own: bool


def compose(address: ReturnAddress, *, key: bytes, domain: str) -> str:
    """The return address as it goes into MAIL FROM."""
    prefix = _OWN if address.own else _RELAYED
    payload = _PAYLOAD.pack(address.message_id, address.index)
    token = base64.b32encode(payload + _mac(prefix, payload, key)).decode("ascii").lower()
    return f"{prefix}+{token}@{domain}"


def parse(text: str, *, keys: Sequence[bytes], domain: str) -> ReturnAddress | None:
    """What a return address points at; None unless one of our keys signed it."""
    local, _, right = text.rpartition("@")
    prefix, _, token = local.lower().partition("+")
    if right.lower() != domain.lower() or prefix not in (_RELAYED, _OWN):
        return None
    try:
        raw = base64.b32decode(token.upper().encode("ascii"))
    except (binascii.Error, UnicodeEncodeError):
        return None
    payload, mac = raw[: _PAYLOAD.size], raw[_PAYLOAD.size :]
    if len(payload) != _PAYLOAD.size or not any(hmac.compare_digest(mac, _mac(prefix, payload, key)) for key in keys):
        return None
    message_id, index = _PAYLOAD.unpack(payload)
    return ReturnAddress(message_id, index, own=prefix == _OWN)


def _mac(prefix: str, payload: bytes, key: bytes) -> bytes:
    return hmac.digest(key, prefix.encode("ascii") + payload, hashlib.sha256)[:_MAC_BYTES]
