"""Cipher suites as strongSwan writes proposals: which are known, and which are too weak for whom. Pure.

A proposal is algorithms joined by dashes: ``aes256gcm16-prfsha384-ecp384``. IKE wants encryption, integrity (none
beside an AEAD cipher, RFC 5282), a PRF (that of the integrity algorithm unless named) and a Diffie-Hellman group; ESP
encryption, integrity likewise, and a group only for perfect forward secrecy.

Keywords: https://docs.strongswan.org/docs/5.9/config/proposals.html. Only those that our charon's plugins implement.
"""

from collections.abc import Iterable
from typing import Literal

Protocol = Literal["ike", "esp"]

_AEAD = frozenset(f"aes{bits}gcm{icv}" for bits in (128, 192, 256) for icv in (12, 16)) | {"chacha20poly1305"}
_CBC = frozenset({"aes128", "aes192", "aes256"})
_INTEGRITY = frozenset({"sha256", "sha384", "sha512"})
_PRF = frozenset({"prfsha256", "prfsha384", "prfsha512"})
_GROUPS = frozenset({
    "curve25519", "x25519", "ecp256", "ecp384", "ecp521", "modp2048", "modp3072", "modp4096", "modp6144", "modp8192",
})  # fmt: skip

#: What old routers may have and nobody else: broken for signatures or short, but not in minutes (RFC 8247, RFC 8221).
_OLD_CBC = frozenset({"3des"})
_OLD_INTEGRITY = frozenset({"sha1"})
_OLD_PRF = frozenset({"prfsha1"})
_OLD_GROUPS = frozenset({"modp1024", "modp1536"})

#: What nobody may have, by name so that the answer is "too weak" and not "unknown".
_NEVER = frozenset({
    "null", "des", "blowfish", "blowfish128", "cast128", "md5", "md5_128", "prfmd5", "modp768", "modp1024s160",
    "modpnull", "modpnone", "aes128gmac", "aes256gmac",
})  # fmt: skip


def mistakes(proposals: Iterable[str], protocol: Protocol, *, old: bool) -> tuple[str, ...]:
    """What is wrong with these proposals, in words; nothing if all may be used. ``old``: of a class for old routers."""
    found = [one for written in proposals for one in _mistakes(written, protocol, old=old)]
    return tuple(found)


def _mistakes(written: str, protocol: Protocol, *, old: bool) -> list[str]:
    words = written.split("-")
    weak = _OLD_CBC | _OLD_INTEGRITY | _OLD_PRF | _OLD_GROUPS
    known = _AEAD | _CBC | _INTEGRITY | _PRF | _GROUPS
    found = []
    for word in words:
        if word in _NEVER:
            found.append(f"{written}: {word or 'nothing'} is too weak for any router")
        elif word in weak and not old:
            found.append(f"{written}: {word} is too weak; only a class for old routers may have it (vpn.old_routers)")
        elif word not in known | weak:
            found.append(f"{written}: {word!r} is no algorithm that is known here")
    return found or _shape(written, words, protocol)


def _shape(written: str, words: list[str], protocol: Protocol) -> list[str]:
    ciphers = [word for word in words if word in _AEAD | _CBC | _OLD_CBC]
    aead = [word for word in ciphers if word in _AEAD]
    integrity = any(word in _INTEGRITY | _OLD_INTEGRITY for word in words)
    prf = any(word in _PRF | _OLD_PRF for word in words)
    group = any(word in _GROUPS | _OLD_GROUPS for word in words)
    found = []
    if not ciphers:
        found.append(f"{written}: names no encryption")
    if aead and len(aead) < len(ciphers):
        found.append(f"{written}: mixes authenticated encryption with other; make two proposals of it (RFC 7296 3.3)")
    elif aead and integrity:
        found.append(f"{written}: authenticated encryption takes no integrity algorithm beside it")
    elif ciphers and not aead and not integrity:
        found.append(f"{written}: names no integrity algorithm")
    if protocol == "ike" and aead and not prf:
        found.append(f"{written}: names no PRF, such as prfsha256")
    if protocol == "ike" and not group:
        found.append(f"{written}: names no Diffie-Hellman group")
    if protocol == "esp" and prf:
        found.append(f"{written}: a PRF is for IKE, not for ESP")
    return found
