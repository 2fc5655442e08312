"""What the tests of the PKI share: an installation's parts, and a way to take a bundle apart."""

import secrets
import tarfile
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from cloudside.config import Config, Gateway, Listen, Web
from cloudside.pki.requests import Applicant, read_applicant
from cloudside.registry.database import Database
from router_agent.enrolment.request import make_host_key, make_request


@dataclass(frozen=True)
class Installation:
    """One cloud node. ``now`` is the real time: real tools judge the certificates by it."""

    config: Config
    database: Database
    now: datetime

    @property
    def pki(self) -> Path:
        return self.config.state_directory / "pki"


@dataclass(frozen=True)
class RouterKeys:
    """What a router makes itself, and how it introduces itself with it."""

    key: bytes
    device_id: str
    host_key: str
    applicant: Applicant


def router_keys(device_id: str | None = None) -> RouterKeys:
    made, host_key = make_request("any-name"), make_host_key("any-name")
    chosen = device_id or secrets.token_hex(32)
    applicant = read_applicant(made.csr_pem, chosen, host_key.public)
    return RouterKeys(made.key_pem, chosen, host_key.public, applicant)


def configure(state_directory: Path) -> Config:
    return Config(
        state_directory=state_directory,
        gateway=Gateway(public_addresses=("203.0.113.2", "vpn.example.net")),
        web=Web(
            listen=(
                Listen(address=ip_address("10.255.255.1"), port=8443),
                Listen(address=ip_address("203.0.113.2"), port=8443),
            )
        ),
    )


def unpack(bundle: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    with tarfile.open(bundle) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            (into / member.name).write_bytes(content.read())
