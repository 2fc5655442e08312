"""SSH to a router or a device through its tunnel, the host key held to the one pinned in the registry.

Never trust on first use: the first connection is exactly the one that an impostor on a site's LAN would wait for. A
key that is not pinned is refused, and so is one that differs. paramiko's SSHClient keeps lists of known hosts;
a plain Transport and one comparison say the same with nothing to configure wrongly.
"""

import base64
import binascii
import hashlib
import hmac
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import IncompatiblePeer

from cloudside.errors import ConfigurationError, InputError, RefusedError, UnavailableError
from cloudside.registry.addresses import Address

SSH_PORT = 22
#: Seconds for the TCP connection and for each SSH step: 3G round trips of up to 2 s, retransmitted.
CONNECT_S = 15.0
#: Seconds between keep-alives; carrier NAT forgets idle flows after minutes.
KEEPALIVE_S = 20
#: Milliseconds that sent data may stay unacknowledged before the connection counts as dead (tcp(7)).
UNACKNOWLEDGED_MS = 60_000

#: Host key algorithms to ask for, by type of the pinned key: asking for others could bring a key that is not pinned.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True, slots=True)
class PinnedKey:
    """A host key from the registry: type and blob (RFC 4253 section 6.6)."""

    kind: str
    blob: bytes

    @classmethod
    def read(cls, line: str, *, owner: str) -> "PinnedKey":
        """From an OpenSSH one-line public key. Raises ConfigurationError: it is none."""
        fields = line.split()
        try:
            return cls(fields[0], base64.b64decode(fields[1], validate=True))
        except (IndexError, binascii.Error):
            raise ConfigurationError("access.bad-pinned-key", target=owner) from None

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l shows it."""
        return _fingerprint(self.blob)


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, with a key file or a password. The password is never shown."""

    user: str
    identity: Path | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, identity={self.identity!r})"


@contextmanager
def connected(
    name: str, address: Address, pinned: PinnedKey, login: Login, *, source: Address | None, port: int = SSH_PORT
) -> Iterator[paramiko.Transport]:
    """An authenticated SSH connection to ``name`` at ``address``.

    Raises UnavailableError: nothing answers, or it breaks off. RefusedError: another host key than the pinned one
    (nothing of ours has been sent by then), or the login is refused. InputError: the identity file is no key.
    """
    transport = paramiko.Transport(_stream(name, address, port, source))
    try:
        transport.set_keepalive(KEEPALIVE_S)
        _hold_to(transport, name, pinned)
        _log_in(transport, name, login)
        yield transport
    finally:
        transport.close()


def _stream(name: str, address: Address, port: int, source: Address | None) -> socket.socket:
    try:
        stream = socket.create_connection(
            (str(address), port), CONNECT_S, source_address=None if source is None else (str(source), 0)
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnavailableError("access.no-answer", target=name, address=str(address), reason=reason) from None
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    return stream


def _hold_to(transport: paramiko.Transport, name: str, pinned: PinnedKey) -> None:
    try:
        transport.get_security_options().key_types = _ALGORITHMS.get(pinned.kind, (pinned.kind,))
    except ValueError:
        raise ConfigurationError("access.bad-pinned-key", target=name) from None
    try:
        transport.start_client(timeout=CONNECT_S)
        shown = transport.get_remote_server_key()
    except IncompatiblePeer:
        # It has no key of the pinned type at all, so it is not the host that was enrolled, or its keys were remade.
        raise RefusedError("access.host-key-kind", target=name, kind=pinned.kind) from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise UnavailableError("access.no-ssh", target=name, reason=str(error) or type(error).__name__) from None
    if not hmac.compare_digest(shown.asbytes(), pinned.blob):
        raise RefusedError(
            "access.host-key-differs",
            target=name,
            pinned=pinned.fingerprint,
            shown=_fingerprint(shown.asbytes()),
        )


def _log_in(transport: paramiko.Transport, name: str, login: Login) -> None:
    try:
        if login.identity is not None:
            transport.auth_publickey(login.user, _private_key(login.identity))
        else:
            transport.auth_password(login.user, login.password or "")
    except paramiko.AuthenticationException:  # BadAuthenticationType and partial authentication are of it too
        raise RefusedError("access.login-refused", target=name, user=login.user) from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise UnavailableError("access.no-ssh", target=name, reason=str(error) or type(error).__name__) from None


def _private_key(path: Path) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except (OSError, ValueError, paramiko.SSHException, UnknownKeyType) as error:
        raise InputError("access.bad-identity", path=str(path), reason=str(error) or type(error).__name__) from None


def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
