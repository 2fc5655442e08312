"""Private keys and published certificates in the state directory: ``pki/*.key`` (mode 0600) and ``pki/*.crt``.

A key that others on the machine can read is refused, not repaired: it may have been read already.
"""

import errno
import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudside.config import Config
from cloudside.errors import ConfigurationError
from cloudside.pki import token_key
from linux.files import write_durably

#: The root's name. Its key alone may be somewhere else.
ROOT_KEY = "root"


class KeyStore:
    """The PKI's files of one installation."""

    def __init__(self, state_directory: Path, *, root_key: str = "", public_url: str = "") -> None:
        """``root_key``: a PKCS#11 URI; ``public_url``: what new certificates say of revocation lists and OCSP."""
        self.root_key = root_key
        self.public_url = public_url
        self.directory = state_directory / "pki"
        self.ssh_directory = state_directory / "ssh"

    @classmethod
    def of(cls, config: Config) -> "KeyStore":
        """The store of this node."""
        return cls(config.state_directory, root_key=config.pki.root_key, public_url=config.pki.public_url)

    def key_path(self, name: str) -> Path:
        """Where the private key ``name`` is."""
        return self.directory / f"{name}.key"

    def certificate_path(self, name: str) -> Path:
        """Where the certificate ``name`` is published, followed by the authorities above it but for the root."""
        return self.directory / f"{name}.crt"

    def operator_key_path(self) -> Path:
        """The operators' private SSH key for remote work; the public one is beside it with ``.pub``."""
        return self.ssh_directory / "operator_ed25519"

    def read_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Raises ConfigurationError: missing, readable by others, damaged, or not an EC key."""
        if name == ROOT_KEY:
            return read_root_key(self.root_key or str(self.key_path(name)))
        return _read_key(self.key_path(name))

    def has_root_key(self) -> bool:
        """Whether the root can sign here and now."""
        if not self.root_key:
            return self.key_path(ROOT_KEY).exists()
        try:
            read_root_key(self.root_key)
        except ConfigurationError as error:
            if error.key != "pki.root-absent":
                raise
            return False
        return True

    def read_or_make_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The key ``name``; a new EC P-256 key when there is none. Raises ConfigurationError as read_key does."""
        if name == ROOT_KEY and self.root_key:
            return read_root_key(self.root_key, make=True)
        if not self.key_path(name).exists():
            self.write_key(name, ec.generate_private_key(ec.SECP256R1()))
        return self.read_key(name)

    def write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Put a key in place of the one before. Raises ConfigurationError: the directory cannot be written."""
        write_secret(self.key_path(name), key_to_pem(key))

    def publish(self, name: str, certificates: tuple[x509.Certificate, ...]) -> None:
        """Write certificates to one PEM file that everyone who may enter the directory can read."""
        content = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)
        write_secret(self.certificate_path(name), content, mode=0o644)


def read_root_key(where: str, *, make: bool = False) -> ec.EllipticCurvePrivateKey:
    """The root's key: a file, or a PKCS#11 URI; ``make``: a new one in the token when it has none.

    Raises ConfigurationError: absent, or as read_key does.
    """
    if where.startswith("pkcs11:"):
        uri = token_key.parse(where)
        pin = None if uri.pin_source is None else read_secret(uri.pin_source).decode("utf-8", "replace").strip()
        return token_key.open_key(uri, pin, make=make)
    if not Path(where).exists():
        raise ConfigurationError("pki.root-absent", where=where, reason=os.strerror(errno.ENOENT))
    return _read_key(Path(where))


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    content = read_secret(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError("pki.key-damaged", path=str(path)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("pki.key-damaged", path=str(path))
    return key


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, unencrypted: daemons start without a person."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_secret(path: Path) -> bytes:
    """A file that only its owner may read. Raises ConfigurationError: missing, unreadable, or open to others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError("pki.key-missing", path=str(path)) from None
    except OSError as error:
        raise ConfigurationError("pki.key-unreadable", path=str(path), reason=str(error.strerror)) from None
    if mode & 0o077:
        raise ConfigurationError("pki.key-permissions", path=str(path), mode=f"{mode:04o}")
    return content


def write_secret(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write durably, making the directory (mode 0700) first. Raises ConfigurationError: it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, content, mode=mode)
    except OSError as error:
        raise ConfigurationError("pki.state-unwritable", path=str(path), reason=str(error.strerror)) from None
