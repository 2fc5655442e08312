"""The relay's certificate, and which versions of TLS a client may use.

TLS 1.2 and newer; 1.0 and 1.1 only for addresses that a site's profile permits it for, which is known before the
handshake. Files that change are taken up by the next handshake; connections and listeners stay.
"""

import ssl
import time
from pathlib import Path

import structlog

from cloudside.errors import ConfigurationError

log = structlog.get_logger(__name__)

#: Seconds between two looks at the files.
LOOK_S = 5.0
#: What SSLObject.version() says of versions that RFC 8996 ended.
OLD_VERSIONS = frozenset({"TLSv1", "TLSv1.1"})
#: OpenSSL 3 signs nothing with SHA-1 above security level 0, and TLS before 1.2 signs with nothing else.
_OLD_CIPHERS = "DEFAULT:@SECLEVEL=0"

_Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """The chain and key in two PEM files, as contexts for new and for old clients."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises ConfigurationError: the files cannot be read or do not belong together."""
        self._certificate = certificate
        self._key = key
        try:
            self._stamp = self._stamped()
            self._contexts = self._loaded()
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError("mail.certificate-unusable", path=str(certificate), reason=str(error)) from error
        self._looked_at = time.monotonic()

    def context(self, *, old: bool) -> ssl.SSLContext:
        """For the next handshake. ``old``: TLS 1.0 and 1.1 too."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._contexts[old]

    def _look(self) -> None:
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return
            self._contexts, self._stamp = self._loaded(), stamp
        except (OSError, ssl.SSLError) as error:
            # One of the two may have been written and the other not yet: the old ones serve until both fit.
            log.warning("certificate-not-taken-up", path=str(self._certificate), reason=str(error))
            return
        log.info("certificate-taken-up", path=str(self._certificate))

    def _stamped(self) -> _Stamp:
        found = [path.stat() for path in (self._certificate, self._key)]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def _loaded(self) -> dict[bool, ssl.SSLContext]:
        return {old: _context(self._certificate, self._key, old=old) for old in (False, True)}


def _context(certificate: Path, key: Path, *, old: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if old:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers(_OLD_CIPHERS)
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client cannot make us work by asking for new keys again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key)
    return context
