"""DKIM (RFC 6376) with dkimpy, for smarthosts that do not sign.

Date and Message-ID are not signed: SES writes its own into each mail (SES developer guide, "Manual DKIM signing"), and
a signature over them would break there.
"""

import base64
import threading
from dataclasses import dataclass
from pathlib import Path

import dkim  # type: ignore[import-untyped]
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cloudside.errors import ConfigurationError

log = structlog.get_logger(__name__)

#: RFC 8301 3.2.
RSA_MIN_BITS = 1024
_SIGNED = frozenset(
    b"from sender reply-to subject to cc mime-version content-type content-transfer-encoding in-reply-to references"
    b" list-id list-unsubscribe list-unsubscribe-post".split()
)
#: Signed once more than they are there, so that nobody can add another one that readers would show instead.
_FROZEN = frozenset((b"from", b"subject", b"to"))


@dataclass(frozen=True, slots=True)
class _Key:
    algorithm: bytes
    secret: bytes
    stamp: tuple[int, int, int]


class Signer:
    """Signs with the key in a file, read anew when the file changes. A changed file that is no key is logged, and the
    last good key stays in use."""

    def __init__(self, domain: str, selector: str, path: Path) -> None:
        """Raises ConfigurationError: the key cannot be read or used, or domain or selector are not ASCII."""
        try:
            self._domain, self._selector = domain.encode("ascii"), selector.encode("ascii")
        except UnicodeEncodeError:
            raise ConfigurationError("delivery.dkim-name", domain=domain, selector=selector) from None
        self._path = path
        self._key = _load(path)
        self._refused: tuple[int, int, int] | None = None
        # dkimpy makes several copies of a mail: one at a time, so that large ones do not add up.
        self._one = threading.Lock()

    def signature(self, head: bytes, body: bytes | Path) -> bytes:
        """The DKIM-Signature field of a mail, with its CRLF; empty when the mail's shape does not let it be signed.

        Runs for milliseconds, and reads the body's file: call it in a thread. Raises OSError.
        """
        key = self._current()
        with self._one:
            text = head + b"\r\n" + (body.read_bytes() if isinstance(body, Path) else body)
            try:
                signer = dkim.DKIM(text)
                del text
                names = [name.lower() for name, _ in signer.headers]
                signed = [name for name in names if name in _SIGNED] + [name for name in names if name in _FROZEN]
                field: bytes = signer.sign(
                    self._selector,
                    self._domain,
                    key.secret,
                    signature_algorithm=key.algorithm,
                    canonicalize=(b"relaxed", b"relaxed"),
                    include_headers=signed,
                )
            except Exception as error:  # its own, and IndexError and their like for headers that it did not expect
                log.warning("mail-not-signed", reason=type(error).__name__)
                return b""
        return field

    def _current(self) -> _Key:
        try:
            stamp = _stamp(self._path)
            if stamp not in (self._key.stamp, self._refused):
                self._refused = stamp
                self._key = _load(self._path)
                log.info("dkim-key-read", path=str(self._path))
        except (ConfigurationError, OSError) as error:
            log.error("dkim-key-unusable", path=str(self._path), reason=str(error))
        return self._key


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _load(path: Path) -> _Key:
    try:
        stamp = _stamp(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError("delivery.dkim-unreadable", path=str(path), reason=error.strerror or "") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's words could quote the file.
        raise ConfigurationError("delivery.dkim-malformed", path=str(path)) from None
    if isinstance(key, RSAPrivateKey) and key.key_size >= RSA_MIN_BITS:
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        return _Key(b"rsa-sha256", secret, stamp)
    if isinstance(key, Ed25519PrivateKey):
        raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return _Key(b"ed25519-sha256", base64.b64encode(raw), stamp)
    raise ConfigurationError("delivery.dkim-malformed", path=str(path))
