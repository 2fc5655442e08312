"""OCSP (RFC 6960): whether one certificate still counts, signed by the authority that issued it.

For certificates below the cloud's and the tenants' authorities. The root's key may be locked away and answers nobody:
of authorities only the root's revocation list speaks.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.pki import issuing
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates
from cloudside.registry.tables import Certificate

#: A request about one certificate is about 120 bytes.
REQUEST_MAX_BYTES = 4_096
#: How long an answer may be used without asking again.
GOOD_FOR = timedelta(hours=1)
#: Octets of a nonce that is echoed (RFC 9654 section 2.1).
_NONCE_MAX = 128

_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def answer(session: Session, config: Config, request: bytes, *, now: datetime) -> bytes:
    """The response to a request, DER; of a request that cannot be answered it says why.

    Raises ConfigurationError: the key of the authority asked about is missing or damaged.
    """
    try:
        asked = ocsp.load_der_ocsp_request(request)
        issuer = _issuer(session, asked)
        nonce = _nonce(asked)
        if asked.serial_number < 0:  # RFC 5280 section 4.1.2.2; it could not be named in an answer
            raise ValueError("negative serial")
    except (ValueError, NotImplementedError, UnsupportedAlgorithm, x509.DuplicateExtension):
        return _unsuccessful(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
    if issuer is None:
        return _unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
    authority = issuing.load_authority(session, KeyStore.of(config), issuer)
    record = certificates.by_serial(session, issuing.serial_text(asked.serial_number))
    if record is None or record.authority != issuer:
        status, revoked_at = ocsp.OCSPCertStatus.UNKNOWN, None
    elif record.revoked_at is not None:
        status, revoked_at = ocsp.OCSPCertStatus.REVOKED, record.revoked_at
    else:
        status, revoked_at = ocsp.OCSPCertStatus.GOOD, None
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            issuer_name_hash=asked.issuer_name_hash,
            issuer_key_hash=asked.issuer_key_hash,
            serial_number=asked.serial_number,
            algorithm=asked.hash_algorithm,
            cert_status=status,
            this_update=now,
            next_update=now + GOOD_FOR,
            revocation_time=revoked_at,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, authority.certificate)
    )
    if nonce is not None:
        builder = builder.add_extension(nonce, critical=False)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _issuer(session: Session, asked: ocsp.OCSPRequest) -> str | None:
    """The name of the authority that a request is about."""
    if asked.hash_algorithm.name not in _HASHES:
        return None
    query = select(Certificate).where(Certificate.kind == "authority", Certificate.revoked_at.is_(None))
    for record in session.scalars(query.order_by(Certificate.subject)):
        certificate = issuing.parse(record)
        if asked.issuer_key_hash == _key_hash(certificate, asked.hash_algorithm) and (
            asked.issuer_name_hash == _digest(certificate.subject.public_bytes(), asked.hash_algorithm)
        ):
            return record.subject
    return None


def _key_hash(certificate: x509.Certificate, algorithm: hashes.HashAlgorithm) -> bytes:
    # Of the key's bits without tag and length (RFC 6960 section 4.1.1).
    bits = certificate.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return _digest(bits, algorithm)


def _digest(content: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(_HASHES[algorithm.name]())
    digest.update(content)
    return digest.finalize()


def _nonce(asked: ocsp.OCSPRequest) -> x509.OCSPNonce | None:
    try:
        nonce = asked.extensions.get_extension_for_class(x509.OCSPNonce).value
    except x509.ExtensionNotFound:
        return None
    return nonce if 0 < len(nonce.nonce) <= _NONCE_MAX else None


def _unsuccessful(why: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(why).public_bytes(serialization.Encoding.DER)
