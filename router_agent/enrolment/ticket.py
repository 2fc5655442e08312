"""The ticket: whom to ask for a site's first certificate, and the one-time token that it is given for. Pure.

A JSON object: format, site, token, endpoints (address, port), endpoint_name, root (PEM). It is a secret until it has
been used. Everything that is wrong with it is reported at once.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509

from router_agent.errors import AgentError, BundleError

FORMAT = 1
#: A ticket is below 2 kB.
TICKET_MAX_BYTES = 100_000
ENDPOINTS_MAX = 32

#: A DNS label: site ids are host names (RFC 1123 section 2.1).
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_NAME = re.compile(r"[A-Za-z0-9.:_%-]{1,253}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9_=-]{16,200}\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cloud listens for routers that have no certificate yet."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """``token`` stays out of every text. ``root``: the only root to trust, PEM."""

    site: str
    token: str = field(repr=False)
    endpoints: tuple[Place, ...]
    endpoint_name: str
    root: bytes


def parse(text: bytes) -> Ticket:
    """Raises BundleError with everything that is wrong."""
    try:
        document = json.loads(text) if len(text) <= TICKET_MAX_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BundleError([AgentError("agent-cli.ticket-damaged")])
    if document.get("format") != FORMAT:
        raise BundleError([AgentError("agent-cli.ticket-format", wanted=FORMAT)])
    wrong = [name for name, fits in _FIELDS.items() if not fits(document.get(name))]
    if wrong:
        raise BundleError([AgentError("agent-cli.ticket-key-wrong", name=name) for name in wrong])
    return Ticket(
        site=document["site"],
        token=document["token"],
        endpoints=tuple(Place(place["address"], place["port"]) for place in document["endpoints"]),
        endpoint_name=document["endpoint_name"],
        root=document["root"].encode(),
    )


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.match(value) is not None


def _are_endpoints(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= ENDPOINTS_MAX and all(map(_is_endpoint, value))


def _is_endpoint(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    address, port = value.get("address"), value.get("port")
    if not isinstance(address, str) or isinstance(port, bool) or not isinstance(port, int):
        return False
    return _NAME.match(address) is not None and 0 < port < 65536


def _is_certificate(value: object) -> bool:
    try:
        x509.load_pem_x509_certificate(value.encode("ascii") if isinstance(value, str) else b"")
    except ValueError:
        return False
    return True


_FIELDS: dict[str, Callable[[object], bool]] = {
    "site": _matches(_SITE),
    "token": _matches(_TOKEN),
    "endpoints": _are_endpoints,
    "endpoint_name": _matches(_NAME),
    "root": _is_certificate,
}
