"""The IP address blocks extension (RFC 3779 section 2): the addresses a certificate may speak for. Pure.

Only prefixes are written: sorted, one entry a prefix, no "inherit", so what a certificate may do can be read off
it alone.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509
from pyasn1.codec.der import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import univ
from pyasn1_modules import rfc3779

Network = IPv4Network | IPv6Network

#: id-pe-ipAddrBlocks, RFC 3779 section 2.2.1.
OID = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7")

#: Address family numbers (RFC 3779 section 2.2.3.3) by IP version.
_FAMILY = {4: b"\x00\x01", 6: b"\x00\x02"}
_CLASS: dict[bytes, tuple[type[Network], int]] = {b"\x00\x01": (IPv4Network, 32), b"\x00\x02": (IPv6Network, 128)}


def extension(blocks: Sequence[Network]) -> x509.UnrecognizedExtension:
    """The extension for these prefixes. It has to be marked critical (RFC 3779 section 2.2.1)."""
    written = rfc3779.IPAddrBlocks()
    for version in (4, 6):
        prefixes = sorted(
            (block for block in blocks if block.version == version),
            key=lambda block: (block.network_address.packed, block.prefixlen),
        )
        if prefixes:
            family = rfc3779.IPAddressFamily()
            family["addressFamily"] = _FAMILY[version]
            for place, prefix in enumerate(prefixes):
                family["ipAddressChoice"]["addressesOrRanges"][place]["addressPrefix"] = _bits(prefix)
            written.append(family)
    return x509.UnrecognizedExtension(OID, encoder.encode(written))


def read(certificate: x509.Certificate) -> tuple[Network, ...] | None:
    """The prefixes in a certificate; None: it has no such extension.

    Raises ValueError: the extension is damaged, or has a form that we never write (ranges, inherit).
    """
    try:
        found = certificate.extensions.get_extension_for_oid(OID).value
    except x509.ExtensionNotFound:
        return None
    if not isinstance(found, x509.UnrecognizedExtension):  # pragma: no cover - until cryptography learns RFC 3779
        raise ValueError("address blocks in an unknown form")
    try:
        decoded, rest = decoder.decode(found.value, asn1Spec=rfc3779.IPAddrBlocks())
        if rest:
            raise ValueError("bytes after the address blocks")
        return tuple(
            _prefix(bytes(family["addressFamily"]), entry)
            for family in decoded
            for entry in _entries(family["ipAddressChoice"])
        )
    except PyAsn1Error as error:
        raise ValueError("damaged address blocks") from error


def _bits(prefix: Network) -> univ.BitString:
    significant = f"{int(prefix.network_address):0{prefix.max_prefixlen}b}"[: prefix.prefixlen]
    return univ.BitString(binValue=significant) if significant else univ.BitString(())


def _entries(choice: univ.Choice) -> univ.SequenceOf:
    # Asking pyasn1 for an alternative that is not there makes an empty one: "inherit" would read as "nothing".
    if choice.getName() != "addressesOrRanges":
        raise ValueError("address blocks in a form that is not ours")
    return choice["addressesOrRanges"]


def _prefix(family: bytes, entry: univ.Choice) -> Network:
    if family not in _CLASS or entry.getName() != "addressPrefix":
        raise ValueError("address blocks in a form that is not ours")
    network_class, width = _CLASS[family]
    bits = "".join(str(bit) for bit in entry["addressPrefix"])
    return network_class((int(bits.ljust(width, "0"), 2), len(bits)))
