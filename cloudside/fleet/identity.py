"""Which site speaks: its certificate and its device id, both. Wrong in any way: refused, and told nothing more.

The certificate comes from the TLS layer, which has verified its chain and dates. Here it is held against the record
of what was issued, because a chain alone says nothing of revocation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.orm import Session

from cloudside.errors import KyotenError, RefusedError
from cloudside.fleet import strangers
from cloudside.fleet.strangers import Stranger
from cloudside.registry import certificates, routers
from cloudside.registry.tables import Router, Site

#: The scheme of the Authorization header that carries the device id, the second factor.
SCHEME = "KyotenDevice"

_HEADER = re.compile(rf"{SCHEME} +([0-9a-fA-F]{{64}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks, proved by both factors, and the certificate that it has shown."""

    site_id: str
    certificate: x509.Certificate


class StrangerError(RefusedError):
    """Refused, and staff should know of it. What is told to the peer is the key alone."""

    def __init__(self, key: str, /, stranger: Stranger) -> None:
        super().__init__(key)
        self.stranger = stranger


class UnauthenticatedError(KyotenError):
    """No proof of a device id, or none that can be one."""

    exit_code = 3
    http_status = 401


def device_id_of(headers: Mapping[str, str]) -> str:
    """The device id that the request carries. Raises UnauthenticatedError: none, or not 64 hexadecimal digits."""
    match = _HEADER.fullmatch(headers.get("authorization", "").strip())
    if match is None:
        raise UnauthenticatedError("fleet.no-device-id")
    return match[1].lower()


def certified_site(session: Session, certificate: bytes | None, *, now: datetime) -> Site:
    """The site that a verified certificate (DER) speaks for.

    Raises RefusedError: not one of ours, not a site's, revoked, expired, or its site is revoked. StrangerError: it was
    revoked because another router took its place.
    """
    refused = RefusedError("fleet.certificate-refused")
    if certificate is None:
        raise refused
    try:
        shown = x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise refused from None
    record = certificates.by_serial(session, f"{shown.serial_number:x}")
    if record is None or record.kind != "site" or record.not_after <= now:
        raise refused
    # The whole certificate, not the serial alone: two authorities could use one serial.
    if x509.load_pem_x509_certificate(record.pem.encode()).public_bytes(Encoding.DER) != certificate:
        raise refused
    site = session.get(Site, record.subject)
    if site is None or site.revoked_at is not None:
        raise refused
    if record.revoked_at is not None:
        raise StrangerError("fleet.certificate-refused", Stranger(strangers.REPLACED, site.id))
    return site


def authenticate(session: Session, certificate: bytes | None, device_id: str, *, now: datetime) -> Speaker:
    """The site behind both factors. Raises RefusedError: either is wrong; StrangerError: and staff should know."""
    site = certified_site(session, certificate, now=now)
    router = session.get(Router, site.id)
    if router is not None and certificate is not None and routers.proves_device_id(router, device_id):
        return Speaker(site.id, x509.load_der_x509_certificate(certificate))
    hashed = routers.hash_device_id(device_id)
    other = routers.elsewhere(session, site_id=site.id, device_id_sha256=hashed)
    if other is not None:
        raise StrangerError("fleet.device-refused", Stranger(strangers.MOVED, site.id, hashed, other.site_id))
    raise StrangerError("fleet.device-refused", Stranger(strangers.UNKNOWN, site.id, hashed))
