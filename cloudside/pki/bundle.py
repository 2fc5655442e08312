"""What a router gets at enrolment: one uncompressed tar archive with everything it needs to come up. Pure.

It holds the router's private keys and its device id, so the file is as secret as the router itself.
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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agents' endpoint is. ``in_tunnel``: reachable through the tunnel only."""

    address: Address
    port: int
    in_tunnel: bool


@dataclass(frozen=True, slots=True)
class Description:
    """The open part of a bundle. ``gateways`` are addresses or names in the order to try."""

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


def pack(description: Description, files: Sequence[tuple[str, bytes]], *, now: datetime) -> bytes:
    """The archive: bundle.json first, then ``files`` (name, content), all readable by their owner alone."""
    text = json.dumps(document(description), indent=2, ensure_ascii=False) + "\n"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in [("bundle.json", text.encode()), *files]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o600
            member.mtime = int(now.timestamp())
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()
