"""Ed25519 key pairs in OpenSSH's form: a router's host key and the operators' key. Pure but for the key itself."""

from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class SshKeyPair:
    """``private`` is a file for ``-----BEGIN OPENSSH PRIVATE KEY-----``, ``public`` one line without its end."""

    private: bytes = field(repr=False)
    public: str


def make_pair(comment: str) -> SshKeyPair:
    """A new pair without passphrase; ``comment`` ends the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return SshKeyPair(private=private, public=public_line(private, comment))


def public_line(private: bytes, comment: str) -> str:
    """The public half of a private key file. Raises ValueError: damaged, encrypted, or not Ed25519."""
    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("not a usable OpenSSH private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"
