"""What charon has to know to prove itself and to judge its peers: loaded when it is new, again when charon is."""

import hashlib
import json
from typing import Protocol

from cloudside.config import Config
from cloudside.pki.initialise import GATEWAY_IDENTITY
from cloudside.pki.published import GatewayCredentials
from cloudside.vpn.connections import connections
from linux.charon import Connection
from linux.dataplane import Dataplane


class KeyRing(Protocol):
    """The part of charon that is needed here (linux.charon.Charon)."""

    def load_authority(self, pem: str) -> None: ...
    def load_private_key(self, pem: str) -> None: ...
    def load_revocation_list(self, der: bytes) -> None: ...
    def flush_certificates(self) -> None: ...
    def load_connection(self, name: str, connection: Connection) -> None: ...
    def connection_names(self) -> tuple[str, ...]: ...
    def unload_connection(self, name: str) -> None: ...


class CredentialLoader:
    """Remembers what this charon was given, by digest. Methods raise CharonUnavailableError and CharonRefusedError."""

    def __init__(self, charon: KeyRing, config: Config, dataplane: Dataplane) -> None:
        self._charon = charon
        self._config = config
        self._dataplane = dataplane
        self._loaded: set[str] = set()
        self._whole: GatewayCredentials | None = None

    def forget(self) -> None:
        """charon is a new process: it knows nothing."""
        self._loaded.clear()
        self._whole = None

    def load(self, credentials: GatewayCredentials) -> bool:
        """Give charon what it lacks; True when a revocation list was among it. Loading ends no live tunnel."""
        if credentials is self._whole:
            return False
        for pem in (credentials.root, *credentials.authorities):
            if self._is_new("authority", pem.encode()):
                self._charon.load_authority(pem)
                self._keep("authority", pem.encode())
        revoked = [der for der in credentials.revocation_lists if self._is_new("list", der)]
        for der in revoked:
            self._charon.load_revocation_list(der)
            self._keep("list", der)
        if revoked:
            # Verdicts about certificates are cached; without this a list counts only when they expire.
            self._charon.flush_certificates()
        if self._is_new("key", credentials.private_key.encode()):
            self._charon.load_private_key(credentials.private_key)
            self._keep("key", credentials.private_key.encode())
        self._load_connections(credentials)
        self._whole = credentials
        return bool(revoked)

    def _load_connections(self, credentials: GatewayCredentials) -> None:
        wanted = connections(
            self._config,
            identity=GATEWAY_IDENTITY,
            certificate=credentials.certificate,
            root=credentials.root,
            dataplane=self._dataplane,
        )
        whole = json.dumps(wanted).encode()
        if not self._is_new("connections", whole):
            return
        for name, connection in wanted.items():
            self._charon.load_connection(name, connection)
        # Of a configuration before this one: charon may be older than we are.
        for name in set(self._charon.connection_names()) - wanted.keys():
            self._charon.unload_connection(name)
        self._keep("connections", whole)

    def _is_new(self, kind: str, content: bytes) -> bool:
        return _digest(kind, content) not in self._loaded

    def _keep(self, kind: str, content: bytes) -> None:
        self._loaded.add(_digest(kind, content))


def _digest(kind: str, content: bytes) -> str:
    return kind + hashlib.sha256(content).hexdigest()
