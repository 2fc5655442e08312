"""Asks an endpoint the time though its certificate does not count by our clock.

Everything else of TLS is checked: the chain up to our authority, the name, that it has the key. Nothing of ours is
shown: no certificate, no device id.
"""

import http.client
import socket
import ssl
import time
from dataclasses import dataclass

#: X509_V_FLAG_NO_CHECK_TIME, X509_VERIFY_PARAM_set_flags(3): Python has no name for it.
_NO_CHECK_TIME = 0x200000
_PATH = "/agent/v1/heartbeat"


@dataclass(frozen=True, slots=True)
class Voucher:
    """``date``: the answer's header; ``took_s``: from the question to the answer; ``leaf``: who said so, DER."""

    date: str | None
    took_s: float
    leaf: bytes


def timeless(authority: str, *, partial: bool) -> ssl.SSLContext:
    """TLS below this authority (PEM), dates aside; ``partial``: it is not self-signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= _NO_CHECK_TIME
    if partial:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority)
    return context


def ask(plain: socket.socket, context: ssl.SSLContext, name: str) -> Voucher | None:
    """Over this connection, which is closed after; None: no answer that counts."""
    connection = http.client.HTTPConnection(name, timeout=plain.gettimeout())
    try:
        secured = context.wrap_socket(plain, server_hostname=name)
        leaf = secured.getpeercert(binary_form=True)
        connection.sock = secured
        began = time.monotonic()
        connection.request("HEAD", _PATH)
        date = connection.getresponse().getheader("Date")
        return None if leaf is None else Voucher(date, time.monotonic() - began, leaf)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
        plain.close()
