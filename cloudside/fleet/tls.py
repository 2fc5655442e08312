"""Mutual TLS for routers, and the peer's certificate on its way to the application.

uvicorn has no ASGI TLS extension and hands the application no peer certificate. Trusting a header that a proxy in
front could set would make identity forgeable by whoever reaches the port, so the protocol class is extended in one
place: at connection time it puts the certificate of the finished handshake into the connection's ASGI state.
"""

import asyncio
import ssl
from pathlib import Path

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloudside.errors import ConfigurationError

#: Key in the ASGI scope's ``state`` under which the peer's certificate stands, DER.
PEER_CERTIFICATE = "kyoten_peer_certificate"

#: Connections at once with one certificate. A router needs one; its old ones may still be dying on a bad line. Nobody
#: asks a connection to say anything, and TLS takes revoked certificates too, so one router could hold all places.
CONNECTIONS_PER_CERTIFICATE_MAX = 8


class PeerCertificateProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, plus the peer's certificate in each request's state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called once a connection, after the TLS handshake: the certificate has been verified by then."""
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        # Each request's scope gets a copy of app_state; this connection's must not be seen by any other.
        self.app_state = {**self.app_state, PEER_CERTIFICATE: certificate}
        super().connection_made(transport)
        if certificate is not None and self._count(certificate) > CONNECTIONS_PER_CERTIFICATE_MAX:
            transport.abort()

    def _count(self, certificate: bytes) -> int:
        return sum(
            isinstance(other, PeerCertificateProtocol) and other.app_state.get(PEER_CERTIFICATE) == certificate
            for other in self.connections
        )


def peer_certificate(request: Request) -> bytes | None:
    """The certificate that the TLS layer verified, DER; None: the connection is not mutual TLS."""
    certificate = request.scope.get("state", {}).get(PEER_CERTIFICATE)
    return certificate if isinstance(certificate, bytes) else None


def server_context(certificate_chain: Path, private_key: Path, trusted: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer; the peer must show a certificate that ends at ``trusted`` and is valid now.

    Raises ConfigurationError: a file is missing or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # A session ticket would let a resumed connection skip the certificate check after a revocation.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    path = certificate_chain
    try:
        context.load_cert_chain(certificate_chain, private_key)
        path = trusted
        context.load_verify_locations(trusted)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError("fleet.tls-files", path=str(path), reason=str(error)) from None
    return context
