"""Ed25519 key pairs in OpenSSH's form: a router's host key and the operators' key. Pure but for the key itself."""

from dataclasses import dataclass, field

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
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return SshKeyPair(private=private, public=f"{public.decode()} {comment}")
