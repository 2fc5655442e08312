"""Certificates and revocation lists, from keys, times and serials. Pure: no file, no registry, no clock.

Profile: RFC 5280 with EC P-256 keys and RFC 3779 address blocks. Root -> authority -> leaf, nothing below a leaf. An
authority holds the addresses it may hand out, a leaf those it may speak for; charon's addrblock plugin and OpenSSL both
check that each lies in the one above.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from cloudside.pki import address_blocks

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

EVERYTHING: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))

ROOT_LIFETIME = timedelta(days=3653)
#: Sites renew yearly (mission, C9).
LEAF_LIFETIME = timedelta(days=365)
#: How long a revocation list is good; refreshed well before.
REVOCATION_LIST_LIFETIME = timedelta(days=7)
#: The root's own list: its key may be locked away for months.
ROOT_LIST_LIFETIME = timedelta(days=365)
#: A router's clock may lag when it boots: certificates begin a little before they are made.
BACKDATE = timedelta(hours=1)

#: id-kp-ipsecIKE, RFC 4945 section 5.1.3.12.
IPSEC_IKE = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17")
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that signs others, and its key."""

    name: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    #: Where certificates below it say its revocation list and OCSP responder are; empty: they do not.
    public_url: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate says of its holder. ``blocks`` empty: it may speak for no address, so it is no IKE peer."""

    common_name: str
    dns_names: tuple[str, ...]
    usages: tuple[x509.ObjectIdentifier, ...]
    addresses: tuple[Address, ...] = ()
    blocks: tuple[Network, ...] = ()


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a third of the lifetime or less is left: time for the next one, while both count."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= ends - (ends - begins) / 3


def list_path(name: str) -> str:
    """Where an authority's revocation list is below the public URL."""
    return f"/crl/{name}.crl"


#: Where the OCSP responder is below the public URL.
OCSP_PATH = "/ocsp"


def make_root(key: ec.EllipticCurvePrivateKey, *, now: datetime, serial: int) -> x509.Certificate:
    """The self-signed root; it may hand out every address."""
    subject = _authority_name("root")
    builder = _builder(subject, subject, key.public_key(), now - BACKDATE, now + ROOT_LIFETIME, serial)
    return _as_authority(builder, key.public_key(), EVERYTHING, path_length=1).sign(key, hashes.SHA256())


def make_authority(
    root: Authority, *, name: str, block: Network, key: ec.EllipticCurvePublicKey, now: datetime, serial: int
) -> x509.Certificate:
    """An authority below the root that may hand out the addresses of ``block``. It ends with the root."""
    ends = root.certificate.not_valid_after_utc
    builder = _builder(_authority_name(name), root.certificate.subject, key, now - BACKDATE, ends, serial)
    builder = _as_authority(builder, key, (block,), path_length=0)
    builder = _with_places(builder.add_extension(_issued_by(root), critical=False), root)
    return builder.sign(root.key, hashes.SHA256())


def make_leaf(
    issuer: Authority, leaf: Leaf, *, key: ec.EllipticCurvePublicKey, now: datetime, serial: int
) -> x509.Certificate:
    """A certificate for a site, gateway or server, for a year but no longer than its issuer's."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)])
    ends = min(now + LEAF_LIFETIME, issuer.certificate.not_valid_after_utc)
    builder = _builder(subject, issuer.certificate.subject, key, now - BACKDATE, ends, serial)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in leaf.dns_names]
    names += [x509.IPAddress(address) for address in leaf.addresses]
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
    )
    if leaf.blocks:
        builder = builder.add_extension(address_blocks.extension(leaf.blocks), critical=True)
    return _with_places(builder, issuer).sign(issuer.key, hashes.SHA256())


def make_revocation_list(
    issuer: Authority,
    *,
    revoked: Iterable[tuple[int, datetime]],
    number: int,
    now: datetime,
    lifetime: timedelta = REVOCATION_LIST_LIFETIME,
) -> x509.CertificateRevocationList:
    """The authority's word on which of its certificates no longer count: (serial, when). ``number`` only grows."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - BACKDATE)
        .next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
    )
    for serial, when in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        )
    return builder.sign(issuer.key, hashes.SHA256())


def _authority_name(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Kyoten"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Kyoten {name}"),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime,
    ends: datetime,
    serial: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _as_authority(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, blocks: tuple[Network, ...], *, path_length: int
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(address_blocks.extension(blocks), critical=True)
    )


def _issued_by(issuer: Authority) -> x509.AuthorityKeyIdentifier:
    # From the issuer's own identifier, so that both are the same octets however they were made (RFC 5280 4.2.1.1).
    identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _with_places(builder: x509.CertificateBuilder, issuer: Authority) -> x509.CertificateBuilder:
    """RFC 5280 sections 4.2.1.13 and 4.2.2.1."""
    if not issuer.public_url:
        return builder
    crl = x509.UniformResourceIdentifier(f"{issuer.public_url}{list_path(issuer.name)}")
    builder = builder.add_extension(
        x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]), critical=False
    )
    if issuer.certificate.issuer == issuer.certificate.subject:
        return builder  # the root's key answers nobody
    ocsp = x509.UniformResourceIdentifier(f"{issuer.public_url}{OCSP_PATH}")
    return builder.add_extension(
        x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, ocsp)]),
        critical=False,
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
