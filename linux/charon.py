"""charon, strongSwan's IKE daemon: its vici interface as typed calls.

All of vici's ordered dicts of bytes end here. One `Charon` belongs to one thread; for events use a second one
(`listen`), because vici answers commands and events on the same socket. No call subscribes to log events: with many
initiations at once that deadlocks charon 5.9.8.
"""

import contextlib
import socket
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network, summarize_address_range
from pathlib import Path
from typing import Any, Literal

import vici
from vici.exception import CommandException, SessionException

from linux.errors import CharonRefusedError, CharonUnavailableError

Network = IPv4Network | IPv6Network

#: A connection as vici's load-conn takes it: swanctl.conf's names, nested sections and lists.
Connection = Mapping[str, Any]

EVERYTHING: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))

#: How long charon may take over one command, in seconds. Initiation has its own limit.
COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ChildSa:
    """One CHILD_SA. Traffic selectors are networks; selectors narrowed by port are not used here."""

    name: str
    state: str
    local: tuple[Network, ...]
    remote: tuple[Network, ...]
    bytes_in: int
    bytes_out: int
    suite: str
    #: Names it within this charon process; 0: nobody said.
    unique_id: int = 0


@dataclass(frozen=True, slots=True)
class IkeSa:
    """One IKE_SA with its CHILD_SAs. ``unique_id`` names it within this charon process."""

    unique_id: int
    connection: str
    state: str
    local_host: str
    remote_host: str
    remote_port: int
    remote_id: str
    established_s: int
    suite: str
    children: tuple[ChildSa, ...]
    #: 1 or 2; 0: nobody said.
    ike_version: int = 0


@dataclass(frozen=True, slots=True)
class SaEvent:
    """An IKE_SA or CHILD_SA came up or went away."""

    kind: Literal["ike", "child"]
    up: bool
    sa: IkeSa


class Charon:
    """A vici client. Connects at first use and again after charon was restarted.

    Every method raises CharonUnavailableError when the socket does not answer and CharonRefusedError when charon
    says no.
    """

    def __init__(self, socket_path: Path, *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s
        self._session: vici.Session | None = None
        self._socket: socket.socket | None = None

    def version(self, *, timeout_s: float = 0) -> str:
        """charon's version, such as ``5.9.8``; the cheapest question. ``timeout_s``: another limit than usual."""
        return _text(self._command("version", timeout_s=timeout_s), "version")

    def load_connection(self, name: str, connection: Connection) -> None:
        """Load or replace a connection. Ends no live SA."""
        self._command("load-conn", {name: connection})

    def unload_connection(self, name: str) -> None:
        """Take a connection away; nobody can connect by it any more. Ends no live SA."""
        self._command("unload-conn", {"name": name})

    def connection_names(self) -> tuple[str, ...]:
        """Names of the connections that are loaded."""
        answer = self._command("get-conns")
        return tuple(_decode(name) for name in answer.get("conns", []))

    def load_authority(self, pem: str) -> None:
        """Trust a CA certificate."""
        self._command("load-cert", {"type": "X509", "flag": "CA", "data": pem})

    def load_certificate(self, pem: str) -> None:
        """Make an end certificate known."""
        self._command("load-cert", {"type": "X509", "flag": "NONE", "data": pem})

    def load_private_key(self, pem: str) -> None:
        """Make a private key known."""
        self._command("load-key", {"type": "any", "data": pem})

    def load_revocation_list(self, der: bytes) -> None:
        """Make a CRL known; the newest of an issuer counts."""
        self._command("load-cert", {"type": "X509_CRL", "flag": "NONE", "data": der})

    def flush_certificates(self) -> None:
        """Forget cached certificates, CRLs and verdicts, so that a new CRL counts at once.

        Without a type: flushing X509 alone leaves the old CRL in the cache, and charon 5.9.8 goes on using it.
        """
        self._command("flush-certs")

    def initiate(self, connection: str, child: str, *, wait_s: float | None = None) -> None:
        """Start a CHILD_SA, and its IKE_SA. With ``wait_s`` wait for the outcome, at most that long; else not."""
        timeout_ms = "-1" if wait_s is None else str(int(wait_s * 1000))
        message = {"ike": connection, "child": child, "timeout": timeout_ms, "init-limits": "no", "loglevel": "-1"}
        self._command("initiate", message, timeout_s=self._timeout_s + (wait_s or 0))

    def terminate(self, *, unique_id: int | None = None, connection: str | None = None, force: bool = True) -> None:
        """End IKE_SAs by id or by connection name. Nothing that matches is not an error. Does not wait for the peer."""
        message = {"force": "yes" if force else "no", "timeout": "-1", "loglevel": "-1"}
        if unique_id is not None:
            message["ike-id"] = str(unique_id)
        if connection is not None:
            message["ike"] = connection
        try:
            self._command("terminate", message)
        except CharonRefusedError as error:
            if "no matching SAs" not in str(error):
                raise

    def rekey(self, *, child: str = "", ike: str = "") -> None:
        """Begin to replace the keys of CHILD_SAs or IKE_SAs of this name. Does not wait for it."""
        self._command("rekey", {"child": child} if child else {"ike": ike})

    def sas(self, *, connection: str | None = None) -> tuple[IkeSa, ...]:
        """All IKE_SAs, or those of one connection.

        Of all, those that are being worked on at the moment are left out: a gateway's listing must not wait for one of
        thousands, and an absence says nothing yet. Those of one connection are waited for: an absence is the truth.
        """
        message = {"noblock": "yes"} if connection is None else {"ike": connection}
        found: list[IkeSa] = []
        with _translated():
            try:
                # The generator must be run to its end, or the session stays registered for the event.
                for entry in self._connected().list_sas(message):
                    found.extend(_ike_sa(_decode(name), section) for name, section in entry.items())
            except (OSError, SessionException, CommandException):
                self.close()
                raise
        return tuple(found)

    def listen(self, *, idle_s: float) -> Generator[SaEvent | None, None, None]:
        """Yield events as they come, and None after each ``idle_s`` seconds without one, to check on life.

        Ends by CharonUnavailableError when charon goes away.
        """
        stream = self._connected().listen(["ike-updown", "child-updown", "ike-rekey"], idle_s)
        with _translated():
            try:
                for kind, message in stream:
                    if kind is None:
                        yield None
                        continue
                    up = message.pop("up", b"no") == b"yes"
                    which: Literal["ike", "child"] = "child" if _decode(kind) == "child-updown" else "ike"
                    for name, section in message.items():
                        if _decode(kind) == "ike-rekey":
                            # The new one has another number, and no other event tells of it.
                            up, section = True, section["new"]
                        yield SaEvent(which, up, _ike_sa(_decode(name), section))
            except (OSError, SessionException):
                self.close()
                raise
            finally:
                # It asks charon to send no more, on a connection that may be gone.
                with contextlib.suppress(OSError, SessionException):
                    stream.close()

    def reload_settings(self) -> None:
        """Read strongswan.conf anew, where charon takes a setting while it runs, and open the log anew. Ends no SA."""
        self._command("reload-settings")

    def reopen_log(self) -> None:
        """Open the log file anew, after it was renamed. Ends no SA."""
        self.reload_settings()

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._session = None

    def _connected(self) -> vici.Session:
        if self._session is None:
            with _translated():
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(self._timeout_s)
                try:
                    self._socket.connect(str(self._path))
                except OSError:
                    self._socket.close()
                    raise
                self._session = vici.Session(self._socket)
        return self._session

    def _command(
        self, command: str, message: Mapping[str, Any] | None = None, *, timeout_s: float = 0
    ) -> dict[str, Any]:
        session = self._connected()
        assert self._socket is not None  # noqa: S101 - set together with the session
        self._socket.settimeout(timeout_s or self._timeout_s)
        with _translated():
            try:
                answer: dict[str, Any] = session.request(command, message)
            except (OSError, SessionException):
                self.close()  # what is left of the answer would be taken for the next one's
                raise
        return answer


class _translated:
    """Turns vici's and the socket's errors into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, CommandException):
            raise CharonRefusedError(str(error)) from error
        if isinstance(error, OSError | SessionException):
            raise CharonUnavailableError(f"charon does not answer: {error}") from error


def _decode(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _text(section: Mapping[str, Any], key: str, default: str = "") -> str:
    return _decode(section.get(key, default))


def _number(section: Mapping[str, Any], key: str) -> int:
    return int(_text(section, key, "0") or 0)


def _networks(selectors: list[bytes]) -> tuple[Network, ...]:
    return tuple(network for selector in selectors for network in _selected(_decode(selector)))


def _selected(selector: str) -> Iterator[Network]:
    """The networks of a selector: ``10.1.0.0/16``, ``10.1.0.0/16[tcp/80]``, ``10.1.0.1..10.1.0.9``.

    A peer may propose any range (RFC 7296 section 3.13.1), and charon shows one that is no prefix as such. What cannot
    be read counts as everything: whoever holds it against a prefix refuses it, and no peer can end the reader.
    """
    addresses = selector.split("[")[0]
    first, dots, last = addresses.partition("..")
    try:
        if dots:
            yield from summarize_address_range(ip_address(first), ip_address(last))
        else:
            yield ip_network(addresses)
    except (ValueError, TypeError):
        yield from EVERYTHING


def _suite(section: Mapping[str, Any]) -> str:
    """The negotiated algorithms as strongSwan writes proposals: ``AES_GCM_16-256/PRF_HMAC_SHA2_256/CURVE_25519``."""
    cipher = "-".join(_text(section, key) for key in ("encr-alg", "encr-keysize") if key in section)
    parts = [cipher, *(_text(section, key) for key in ("integ-alg", "prf-alg", "dh-group") if key in section)]
    return "/".join(part for part in parts if part)


def _child_sa(section: Mapping[str, Any]) -> ChildSa:
    return ChildSa(
        name=_text(section, "name"),
        state=_text(section, "state"),
        local=_networks(section.get("local-ts", [])),
        remote=_networks(section.get("remote-ts", [])),
        bytes_in=_number(section, "bytes-in"),
        bytes_out=_number(section, "bytes-out"),
        suite=_suite(section),
        unique_id=_number(section, "uniqueid"),
    )


def _ike_sa(connection: str, section: Mapping[str, Any]) -> IkeSa:
    return IkeSa(
        unique_id=_number(section, "uniqueid"),
        connection=connection,
        state=_text(section, "state"),
        local_host=_text(section, "local-host"),
        remote_host=_text(section, "remote-host"),
        remote_port=_number(section, "remote-port"),
        remote_id=_text(section, "remote-id"),
        established_s=_number(section, "established"),
        suite=_suite(section),
        children=tuple(_child_sa(child) for child in section.get("child-sas", {}).values()),
        ike_version=_number(section, "version"),
    )
