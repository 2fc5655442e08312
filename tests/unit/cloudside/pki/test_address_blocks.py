from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cloudside.pki import address_blocks

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def _certificate(extension: x509.UnrecognizedExtension | None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(KEY, hashes.SHA256())


def test_known_encoding() -> None:
    # By hand from RFC 3779 section 2.2.3: a sequence of families, each a sequence of number and bit strings.
    by_hand = bytes.fromhex("300e 300c 04020001 3006 0304000a0a01")
    assert address_blocks.extension([ip_network("10.10.1.0/24")]).value == by_hand


def test_unused_bits_are_counted() -> None:
    # /20 is two and a half octets: four unused bits in the third.
    assert bytes.fromhex("03 04 04 0a4000") in address_blocks.extension([ip_network("10.64.0.0/20")]).value


_v4 = st.builds(lambda n, p: IPv4Network((n >> (32 - p) << (32 - p), p)), st.integers(0, 2**32 - 1), st.integers(0, 32))
_v6 = st.builds(
    lambda n, p: IPv6Network((n >> (128 - p) << (128 - p), p)), st.integers(0, 2**128 - 1), st.integers(0, 128)
)


@given(st.lists(_v4 | _v6, unique=True, max_size=6))
def test_what_was_written_is_read(blocks: list[IPv4Network | IPv6Network]) -> None:
    read = address_blocks.read(_certificate(address_blocks.extension(blocks)))
    assert read is not None
    assert set(read) == set(blocks)


def test_none_is_not_the_same_as_empty() -> None:
    assert address_blocks.read(_certificate(None)) is None


@given(st.binary(max_size=60))
def test_junk_is_ours_to_refuse(junk: bytes) -> None:
    try:
        address_blocks.read(_certificate(x509.UnrecognizedExtension(address_blocks.OID, junk)))
    except ValueError:
        pass


def test_inherit_and_trailing_bytes_are_refused() -> None:
    good = address_blocks.extension([ip_network("10.0.0.0/8")]).value
    inherit = bytes.fromhex("3008 3006 04020001 0500")
    for wrong in (good + b"\0", inherit, b""):
        with pytest.raises(ValueError, match="address blocks"):
            address_blocks.read(_certificate(x509.UnrecognizedExtension(address_blocks.OID, wrong)))
