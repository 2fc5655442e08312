"""What the tests of the PKI share: an installation's parts, and a way to take a bundle apart."""

import tarfile
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from cloudside.config import Config, Gateway, Listen, Web
from cloudside.registry.database import Database


@dataclass(frozen=True)
class Installation:
    """One cloud node. ``now`` is the real time: real tools judge the certificates by it."""

    config: Config
    database: Database
    now: datetime

    @property
    def pki(self) -> Path:
        return self.config.state_directory / "pki"


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
