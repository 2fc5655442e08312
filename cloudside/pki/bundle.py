"""What a router gets at enrolment: certificates, the operators' public key, and where its cloud is. Pure.

No private key is in it, nor the device id: the router has both already. The file opens nothing without them.
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Raised when an old agent could no longer read the archive.
FORMAT = 1

CONFIGURATION = "bundle.json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agents' endpoint is. ``in_tunnel``: reachable through the tunnel only."""

    address: Address
    port: int
    in_tunnel: bool


@dataclass(frozen=True, slots=True)
class Description:
    """``bundle.json``. ``gateways`` are addresses or names in the order to try."""

    site: str
    tenant: str
    overlay: Network
    lan: Network
    gateways: tuple[str, ...]
    gateway_identity: str
    service_address: Address
    reachable: Network
    endpoints: tuple[Endpoint, ...]
    endpoint_name: str
    heartbeat_s: float


def document(description: Description) -> Mapping[str, Any]:
    """``bundle.json``."""
    return {
        "format": FORMAT,
        "site": description.site,
        "tenant": description.tenant,
        "overlay": str(description.overlay),
        "lan": str(description.lan),
        "gateways": list(description.gateways),
        "gateway_identity": description.gateway_identity,
        "service_address": str(description.service_address),
        "reachable": str(description.reachable),
        "endpoints": [
            {"address": str(endpoint.address), "port": endpoint.port, "in_tunnel": endpoint.in_tunnel}
            for endpoint in description.endpoints
        ],
        "endpoint_name": description.endpoint_name,
        "heartbeat_s": description.heartbeat_s,
    }


def document_text(description: Description) -> str:
    """``bundle.json`` as text."""
    return json.dumps(document(description), indent=2, ensure_ascii=False) + "\n"


def pack(description: Description, files: Sequence[tuple[str, bytes]], *, now: datetime) -> bytes:
    """The archive: bundle.json first, then ``files`` (name, content), all readable by their owner alone."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in [(CONFIGURATION, document_text(description).encode()), *files]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o600
            member.mtime = int(now.timestamp())
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()
