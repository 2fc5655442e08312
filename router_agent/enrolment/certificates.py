"""What a certificate must say before a router takes it. Pure; everything that is wrong is reported at once.

The same is checked again by charon and by the cloud at each connection. Here it is checked before the old one is given
up: a router with a certificate that nobody accepts can only be reached by driving there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from router_agent.bundle import Enrolment, Network
from router_agent.errors import AgentError

SITE = "site.crt"
TENANT_AUTHORITY = "tenant-authority.crt"
CLOUD_AUTHORITY = "cloud-authority.crt"
ROOT = "root.crt"

#: id-pe-ipAddrBlocks, RFC 3779 section 2.2.1.
_ADDRESS_BLOCKS = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7")
#: Address family numbers (RFC 3779 section 2.2.3.3) by IP version.
_FAMILY = {4: b"\x00\x01", 6: b"\x00\x02"}


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate counts, UTC; ``serial`` tells it from the one before."""

    begins: datetime
    ends: datetime
    serial: int


def validity(pem: bytes) -> Validity:
    """Of the first certificate in the text. Raises ValueError: there is none."""
    found = x509.load_pem_x509_certificate(pem)
    return Validity(found.not_valid_before_utc, found.not_valid_after_utc, found.serial_number)


def is_for(pem: bytes, key_pem: bytes) -> bool:
    """Whether the certificate is for this private key; False, too, when either cannot be read."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        return _octets(certificate.public_key()) == _octets(
            serialization.load_pem_private_key(key_pem, password=None).public_key()
        )
    except (ValueError, TypeError):
        return False


def check(
    members: Mapping[str, bytes], enrolment: Enrolment, *, site: str, key_pem: bytes, root: bytes | None = None
) -> list[AgentError]:
    """Everything that speaks against the four certificates. ``root``: the only root to accept; None: the one in there.

    Dates are not looked at: a router's clock may be unset before its first connection.
    """
    problems: list[AgentError] = []
    found: dict[str, x509.Certificate] = {}
    for name in (SITE, TENANT_AUTHORITY, CLOUD_AUTHORITY, ROOT):
        try:
            found[name] = x509.load_pem_x509_certificate(members[name])
        except (KeyError, ValueError):
            problems.append(AgentError("agent-cli.certificate-damaged", member=name))
    if enrolment.site != site:
        problems.append(AgentError("agent-cli.certificate-other-site", site=site, found=enrolment.site))
    if problems:
        return problems
    leaf = found[SITE]
    names = [str(attribute.value) for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [site]:
        problems.append(AgentError("agent-cli.certificate-other-site", site=site, found=", ".join(names)[:100]))
    if not is_for(members[SITE], key_pem):
        problems.append(AgentError("agent-cli.certificate-other-key", site=site))
    if root is not None and x509.load_pem_x509_certificate(root) != found[ROOT]:
        problems.append(AgentError("agent-cli.certificate-other-root"))
    for name, issuer in ((SITE, TENANT_AUTHORITY), (TENANT_AUTHORITY, ROOT), (CLOUD_AUTHORITY, ROOT), (ROOT, ROOT)):
        if not _issued(found[name], found[issuer]):
            problems.append(AgentError("agent-cli.certificate-chain", member=name, issuer=issuer))
    if _blocks(leaf) != address_block(enrolment.overlay):
        problems.append(AgentError("agent-cli.certificate-block", overlay=str(enrolment.overlay)))
    return problems


def address_block(prefix: Network) -> bytes:
    """The address blocks extension that speaks for exactly this prefix, DER (RFC 3779 section 2.2.3)."""
    octets = -(-prefix.prefixlen // 8)
    bits = bytes([octets * 8 - prefix.prefixlen]) + prefix.network_address.packed[:octets]
    choice = _sequence(_der(0x03, bits))
    return _sequence(_sequence(_der(0x04, _FAMILY[prefix.version]) + choice))


def _blocks(certificate: x509.Certificate) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_oid(_ADDRESS_BLOCKS).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    return found.value if isinstance(found, x509.UnrecognizedExtension) else None


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def _octets(key: object) -> bytes:
    public_bytes = getattr(key, "public_bytes", None)
    if public_bytes is None:  # pragma: no cover - every key that PEM can hold has it
        raise ValueError("no public key")
    octets: bytes = public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return octets


def _sequence(content: bytes) -> bytes:
    return _der(0x30, content)


def _der(tag: int, content: bytes) -> bytes:
    """Tag, length, content; everything here is shorter than 128 octets."""
    return bytes([tag, len(content)]) + content
