"""Who signs bundles for RAUC: a key and its certificate, and the authority that the image trusts.

A development authority is made when none is given. It lies in the cache of this machine: images of two checkouts here
take each other's bundles, and no other machine's do.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: A router's clock may be wrong when it looks at a bundle; what ends a release is TUF's matter.
_BEGINS, _ENDS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2070, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Signing:
    """PEM files. ``authority`` goes into the image, ``certificate`` was issued by it for ``key``."""

    key: Path
    certificate: Path
    authority: Path


def development(place: Path) -> Signing:
    """The development signing in ``place``, made if it is not there. The caller sees to it that one process does."""
    found = Signing(place / "release.key", place / "release.pem", place / "authority.pem")
    if not found.authority.exists():
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        authority = _certificate("Kyoten development authority", authority_key, None)
        certificate = _certificate("Kyoten development release", key, (authority, authority_key))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with os.fdopen(os.open(found.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(secret)
        found.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        found.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return found


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=issuer is not None, key_cert_sign=issuer is None, crl_sign=issuer is None,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    signer = key if issuer is None else issuer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINS)
        .not_valid_after(_ENDS)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())
