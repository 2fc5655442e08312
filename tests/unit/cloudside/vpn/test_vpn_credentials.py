from dataclasses import replace

import pytest

from cloudside.config import Config, OldRouters, Vpn
from cloudside.pki.published import GatewayCredentials
from cloudside.vpn.credentials import CredentialLoader
from linux.charon import Connection
from linux.dataplane import Dataplane
from linux.errors import CharonUnavailableError

CREDENTIALS = GatewayCredentials("KEY", "CERT", "ROOT", ("CLOUD", "ACME"), (b"list 1",))


class _Charon:
    """Remembers in order what it is given; forgets its verdicts when told."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.away = False
        self.connections: dict[str, Connection] = {}

    def _take(self, what: str) -> None:
        if self.away:
            raise CharonUnavailableError("away")
        self.given.append(what)

    def load_authority(self, pem: str) -> None:
        self._take(f"authority {pem}")

    def load_private_key(self, pem: str) -> None:
        self._take("key")

    def load_revocation_list(self, der: bytes) -> None:
        self._take(der.decode())

    def flush_certificates(self) -> None:
        self._take("flush")

    def load_connection(self, name: str, connection: Connection) -> None:
        self._take(f"connection {name}")
        self.connections[name] = connection

    def connection_names(self) -> tuple[str, ...]:
        return tuple(self.connections)

    def unload_connection(self, name: str) -> None:
        self._take(f"unload {name}")
        del self.connections[name]


@pytest.fixture
def charon() -> _Charon:
    return _Charon()


@pytest.fixture
def loader(charon: _Charon) -> CredentialLoader:
    return CredentialLoader(charon, Config(), Dataplane.USERLAND)


def test_everything_is_loaded_once_and_the_connection_last(charon: _Charon, loader: CredentialLoader) -> None:
    assert loader.load(CREDENTIALS)
    first = ["authority ROOT", "authority CLOUD", "authority ACME", "list 1", "flush", "key", "connection sites"]
    assert charon.given == first
    assert not loader.load(CREDENTIALS)
    assert charon.given == first


def test_new_list_is_loaded_and_verdicts_are_forgotten(charon: _Charon, loader: CredentialLoader) -> None:
    loader.load(CREDENTIALS)
    charon.given.clear()
    assert loader.load(replace(CREDENTIALS, revocation_lists=(b"list 2",)))
    assert charon.given == ["list 2", "flush"]


def test_new_charon_is_told_everything_again(charon: _Charon, loader: CredentialLoader) -> None:
    loader.load(CREDENTIALS)
    before = list(charon.given)
    charon.given.clear()
    loader.forget()
    loader.load(CREDENTIALS)
    assert charon.given == before


def test_class_that_the_configuration_names_no_more_is_taken_from_a_charon_that_still_has_it(charon: _Charon) -> None:
    with_old = Config(vpn=Vpn(old_routers=OldRouters(sites=("tokyo",))))
    CredentialLoader(charon, with_old, Dataplane.USERLAND).load(CREDENTIALS)
    assert charon.connections.keys() == {"sites", "old-routers"}
    CredentialLoader(charon, Config(), Dataplane.USERLAND).load(CREDENTIALS)
    assert charon.connections.keys() == {"sites"}


def test_new_certificate_loads_the_connections_again_and_no_key_twice(
    charon: _Charon, loader: CredentialLoader
) -> None:
    loader.load(CREDENTIALS)
    charon.given.clear()
    loader.load(replace(CREDENTIALS, certificate="CERT 2"))
    assert charon.given == ["connection sites"]


def test_what_failed_is_tried_again(charon: _Charon, loader: CredentialLoader) -> None:
    charon.away = True
    with pytest.raises(CharonUnavailableError):
        loader.load(CREDENTIALS)
    charon.away = False
    loader.load(CREDENTIALS)
    assert "connection sites" in charon.given
