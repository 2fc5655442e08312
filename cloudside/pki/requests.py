"""What a router asks for: a certificate request (PKCS#10, RFC 2986), its device id, its SSH host key. Pure.

Of the request only the public key is taken. Name, addresses and extensions in it are what somebody wishes to be; the
registry says what they are.
"""

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cloudside.errors import InputError, combined

#: A request for an EC key is about 400 bytes.
REQUEST_MAX_BYTES = 16_384
#: An OpenSSH line of an Ed25519 or ECDSA key, with its comment.
HOST_KEY_MAX_BYTES = 1_000

_CURVES = ("secp256r1", "secp384r1")
#: 256 random bits, written at manufacture.
_DEVICE_ID = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Applicant:
    """A router that wants to be a site's: the key it has proved to hold, its device id, its host key's public line."""

    key: ec.EllipticCurvePublicKey
    device_id: str
    ssh_host_key: str


def read_applicant(request: bytes, device_id: str, ssh_host_key: str) -> Applicant:
    """Raises InputError (or InputErrors, all that is wrong)."""
    problems: list[InputError] = []
    key: ec.EllipticCurvePublicKey | None = None
    host_key = ""
    try:
        key = read_key(request)
    except InputError as problem:
        problems.append(problem)
    try:
        host_key = read_host_key(ssh_host_key)
    except InputError as problem:
        problems.append(problem)
    if not _DEVICE_ID.match(device_id):
        problems.append(InputError("pki.bad-device-id"))
    if problems or key is None:
        raise combined(problems)
    return Applicant(key, device_id, host_key)


def read_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request in PEM, whose holder has signed it (proof of possession).

    Raises InputError: not a request, not signed by its own key, or a key that is not EC P-256 or P-384.
    """
    if len(request) > REQUEST_MAX_BYTES:
        raise InputError("pki.request-damaged")
    try:
        found = x509.load_pem_x509_csr(request)
        key = found.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError("pki.request-damaged") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InputError("pki.request-key")
    try:
        proved = found.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        proved = False
    if not proved:
        raise InputError("pki.request-unproved")
    return key


def read_host_key(line: str) -> str:
    """Type and key of an OpenSSH public line, without its comment. Raises InputError: not Ed25519 or ECDSA."""
    try:
        key = serialization.load_ssh_public_key(line.strip().encode("ascii")) if _is_short(line) else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise InputError("pki.bad-ssh-host-key")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _is_short(line: str) -> bool:
    return len(line) <= HOST_KEY_MAX_BYTES and "\n" not in line.strip()
