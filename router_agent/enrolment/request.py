"""Key and certificate request of a site's router. The private key is made here and never leaves the router."""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Request:
    """``key_pem``: PKCS#8, not encrypted. ``csr_pem``: PKCS#10 (RFC 2986), CN = the site's name."""

    key_pem: bytes = field(repr=False)
    csr_pem: bytes


@dataclass(frozen=True, slots=True)
class HostKey:
    """The router's SSH host key: OpenSSH's private file, and the public line without its end."""

    private: bytes = field(repr=False)
    public: str


def make_request(site: str) -> Request:
    """A fresh EC P-256 key and the request for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Request(pem, _request(site, key))


def request_for(site: str, key_pem: bytes) -> bytes:
    """The request for a key made before, PEM. Raises ValueError: that is no EC key."""
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")
    return _request(site, key)


def _request(site: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def make_host_key(site: str) -> HostKey:
    """A fresh Ed25519 pair; the site's name is its comment."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return HostKey(private, f"{public.decode()} {site}")
