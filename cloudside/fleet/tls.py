"""TLS for routers, mutual but for those being enrolled, and the peer's certificate on its way to the application.

uvicorn has no ASGI TLS extension and hands the application no peer certificate. Trusting a header that a proxy in
front could set would make identity forgeable by whoever reaches the port, so the protocol class is extended in one
place: at connection time it puts the certificate of the finished handshake into the connection's ASGI state.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloudside.errors import ConfigurationError

#: Key in the ASGI scope's ``state`` under which the peer's certificate stands, DER.
PEER_CERTIFICATE = "kyoten_peer_certificate"

#: Connections at once with one certificate. A router needs one; its old ones may still be dying on a bad line. Nobody
#: asks a connection to say anything, and TLS takes revoked certificates too, so one router could hold all places.
CONNECTIONS_PER_CERTIFICATE_MAX = 8
#: Connections at once without a certificate, from one address and from all: routers that are being enrolled. Carriers
#: put many routers behind one address; strangers must leave places to those who have a certificate.
CONNECTIONS_WITHOUT_PER_ADDRESS_MAX = 32
CONNECTIONS_WITHOUT_MAX = 200
#: Seconds that a connection without a certificate may last: one enrolment on a bad line.
WITHOUT_S = 90.0


_Peer = tuple[bytes | None, str]


class PeerCertificateProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, plus the peer's certificate in each request's state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called once a connection, after the TLS handshake: the certificate has been verified by then."""
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        # Each request's scope gets a copy of app_state; this connection's must not be seen by any other.
        self.app_state = {**self.app_state, PEER_CERTIFICATE: certificate}
        super().connection_made(transport)
        if certificate is not None:
            if self._count(lambda other: other == self._peer) > CONNECTIONS_PER_CERTIFICATE_MAX:
                transport.abort()
            return
        self.loop.call_later(WITHOUT_S, transport.abort)
        if (
            self._count(lambda other: other == self._peer) > CONNECTIONS_WITHOUT_PER_ADDRESS_MAX
            or self._count(lambda other: other[0] is None) > CONNECTIONS_WITHOUT_MAX
        ):
            transport.abort()

    @property
    def _peer(self) -> _Peer:
        certificate = self.app_state.get(PEER_CERTIFICATE)
        # By its certificate, wherever it comes from, or else by its address.
        return certificate, "" if certificate is not None or self.client is None else self.client[0]

    def _count(self, fits: Callable[[_Peer], bool]) -> int:
        return sum(isinstance(other, PeerCertificateProtocol) and fits(other._peer) for other in self.connections)


def peer_certificate(request: Request) -> bytes | None:
    """The certificate that the TLS layer verified, DER; None: the peer has shown none."""
    certificate = request.scope.get("state", {}).get(PEER_CERTIFICATE)
    return certificate if isinstance(certificate, bytes) else None


def server_context(certificate_chain: Path, private_key: Path, trusted: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer; a certificate that the peer shows must end at ``trusted`` and be valid now.

    A peer without one gets through the handshake, because a router that is being enrolled has none. What it may ask
    for is the application's business: everything but the enrolment refuses it.
    Raises ConfigurationError: a file is missing or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
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
