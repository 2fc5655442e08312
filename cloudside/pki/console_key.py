"""The service's console key: what logins at routers' serial consoles are answered with. docs/adr/0025-console-login.md.

``pki/console.key`` (mode 0600) and, for every process that talks to routers, ``pki/console.pub``.
"""

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudside.pki.store import KeyStore, write_secret

NAME = "console"


def ensure(store: KeyStore) -> bool:
    """Make the key where there is none; True: it is new. Raises ConfigurationError: damaged, open to others."""
    fresh = not store.key_path(NAME).exists()
    public = _pem(store.read_or_make_key(NAME).public_key())
    if published(store) != public:
        write_secret(store.directory / f"{NAME}.pub", public.encode(), mode=0o644)
    return fresh


def published(store: KeyStore) -> str | None:
    """The public half, PEM, as routers get it; None: this installation has none yet."""
    try:
        return (store.directory / f"{NAME}.pub").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def fingerprint(pem: str) -> str:
    """Names a console key: SHA-256 of its PEM without blanks around it. Routers say which one they have likewise."""
    return hashlib.sha256(pem.strip().encode()).hexdigest()


def _pem(key: ec.EllipticCurvePublicKey) -> str:
    octets = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return octets.decode("ascii")
