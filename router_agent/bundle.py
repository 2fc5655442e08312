"""The enrolment bundle: what the cloud writes for a site. Pure: bytes in, a typed object out.

One uncompressed tar where a person carries it, a JSON object of texts where the router asked over the network. It holds
no private key: that was made here. (Bundles of before had keys and device id in them; they are still read.)

Nothing is extracted by name: members are read into memory by a fixed list, so a path in the archive can lead nowhere.
All that is wrong is reported at once.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

from router_agent.errors import AgentError, BundleError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORMAT = 1

#: A bundle is about 12 kB. Larger than this is not one.
BUNDLE_MAX_BYTES = 1_000_000
MEMBER_MAX_BYTES = 100_000

CONFIGURATION = "bundle.json"
#: The public half of what logins at the serial console are answered with.
CONSOLE_KEY = "console.pub"
#: What each member has to begin with; None: looked at elsewhere.
_BEGINNINGS: Mapping[str, str | None] = {
    CONFIGURATION: "{",
    "site.key": "-----BEGIN ",
    "site.crt": "-----BEGIN CERTIFICATE-----",
    "tenant-authority.crt": "-----BEGIN CERTIFICATE-----",
    "cloud-authority.crt": "-----BEGIN CERTIFICATE-----",
    "root.crt": "-----BEGIN CERTIFICATE-----",
    "device_id": None,
    "ssh_host_ed25519_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "ssh_host_ed25519_key.pub": "ssh-ed25519 ",
    "authorized_keys": None,
    CONSOLE_KEY: "-----BEGIN PUBLIC KEY-----",
}
MEMBERS = tuple(_BEGINNINGS)
#: Of these the router has its own; a bundle holds all of them or none.
OWN_MEMBERS = frozenset({"site.key", "device_id", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"})
#: Not in bundles of before; the cloud gives it with an answer, too.
OPTIONAL_MEMBERS = frozenset({CONSOLE_KEY})
SECRET_MEMBERS = frozenset({"site.key", "device_id", "ssh_host_ed25519_key"})

_DEVICE_ID = re.compile(r"[0-9a-f]{64}\Z")
#: A DNS label: site ids are host names (RFC 1123 section 2.1).
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")

#: A network, the router and one device.
SMALLEST_OVERLAY = 4

#: Then nothing is known of the members.
_NOT_READ = frozenset({"agent-cli.bundle-too-large", "agent-cli.bundle-not-an-archive"})

_NOWHERE = ip_network("0.0.0.0/32")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the cloud listens for agents; ``in_tunnel``: reachable through the tunnel only."""

    address: str
    port: int
    in_tunnel: bool


@dataclass(frozen=True, slots=True)
class Enrolment:
    """bundle.json: who this router is, and where its cloud is."""

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

    @property
    def router_address(self) -> Address:
        """The router's own overlay address: the first host of the overlay prefix."""
        return self.overlay.network_address + 1

    @property
    def mapped(self) -> bool:
        """Whether LAN addresses are translated, one to one, into the overlay."""
        return self.lan != self.overlay


@dataclass(frozen=True, slots=True)
class Bundle:
    """A whole bundle. ``members`` may hold secrets and stays out of every text. ``digest``: SHA-256 of the file it came
    in, empty when it came over the network."""

    enrolment: Enrolment
    members: Mapping[str, bytes] = field(repr=False)
    digest: str = ""


def is_site(name: str) -> bool:
    """Whether this can be a site's name."""
    return _SITE.match(name) is not None


def read(archive: bytes) -> Bundle:
    """Read a bundle. Raises BundleError with everything that is wrong."""
    problems: list[AgentError] = []
    return replace(_bundle(_unpacked(archive, problems), problems), digest=hashlib.sha256(archive).hexdigest())


def of_files(files: Mapping[str, bytes]) -> Bundle:
    """The same out of files that came over the network. Raises BundleError with everything that is wrong."""
    problems: list[AgentError] = []
    for name, content in files.items():
        if name not in _BEGINNINGS or name in OWN_MEMBERS:
            problems.append(AgentError("agent-cli.bundle-member-unexpected", member=name[:100]))
        elif len(content) > MEMBER_MAX_BYTES:
            problems.append(AgentError("agent-cli.bundle-member-too-large", member=name))
    return _bundle(dict(files), problems)


def _bundle(members: dict[str, bytes], problems: list[AgentError]) -> Bundle:
    if not any(found.key in _NOT_READ for found in problems):
        _check_members(members, problems)
    enrolment = parse_enrolment(members.get(CONFIGURATION, b""), problems)
    if problems or enrolment is None:
        raise BundleError(problems)
    return Bundle(enrolment, members)


def _unpacked(archive: bytes, problems: list[AgentError]) -> dict[str, bytes]:
    if len(archive) > BUNDLE_MAX_BYTES:
        problems.append(AgentError("agent-cli.bundle-too-large", limit=BUNDLE_MAX_BYTES))
        return {}
    # At each start the agent reads what is installed, which is no archive.
    import tarfile

    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for info in tar:
                if info.name not in _BEGINNINGS or not info.isreg() or info.name in members:
                    problems.append(AgentError("agent-cli.bundle-member-unexpected", member=info.name[:100]))
                elif info.size > MEMBER_MAX_BYTES:
                    problems.append(AgentError("agent-cli.bundle-member-too-large", member=info.name))
                else:
                    stream = tar.extractfile(info)
                    members[info.name] = b"" if stream is None else stream.read()
    except (tarfile.TarError, OSError, ValueError, EOFError):
        problems.append(AgentError("agent-cli.bundle-not-an-archive"))
        return {}
    return members


def _check_members(members: Mapping[str, bytes], problems: list[AgentError]) -> None:
    own = any(name in members for name in OWN_MEMBERS)
    for name, beginning in _BEGINNINGS.items():
        if name not in members:
            if name in OPTIONAL_MEMBERS or (name in OWN_MEMBERS and not own):
                continue
            problems.append(AgentError("agent-cli.bundle-member-missing", member=name))
        elif beginning is not None and not members[name].lstrip().startswith(beginning.encode()):
            problems.append(AgentError("agent-cli.bundle-member-damaged", member=name))
    if "device_id" in members and not _DEVICE_ID.match(members["device_id"].strip().decode("ascii", "replace")):
        problems.append(AgentError("agent-cli.bundle-member-damaged", member="device_id"))


def parse_enrolment(text: bytes, problems: list[AgentError]) -> Enrolment | None:
    """bundle.json as a typed object; what is wrong goes to ``problems``, and then the answer is None."""
    before = len(problems)
    if not text:
        return None  # reported as missing by the caller
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        problems.append(AgentError("agent-cli.bundle-member-damaged", member=CONFIGURATION))
        return None
    if not isinstance(document, dict):
        problems.append(AgentError("agent-cli.bundle-member-damaged", member=CONFIGURATION))
        return None
    fields = _Fields(document, problems)
    if fields.take("format", _integer, FORMAT) != FORMAT:
        problems.append(AgentError("agent-cli.bundle-format", wanted=FORMAT))
    enrolment = Enrolment(
        site=fields.take("site", _label, ""),
        tenant=fields.take("tenant", _label, ""),
        overlay=fields.take("overlay", _network, _NOWHERE),
        lan=fields.take("lan", _network, _NOWHERE),
        gateways=fields.take("gateways", _names, ()),
        gateway_identity=fields.take("gateway_identity", _name, ""),
        service_address=fields.take("service_address", _address, _NOWHERE.network_address),
        reachable=fields.take("reachable", _network, _NOWHERE),
        endpoints=fields.take("endpoints", _endpoints, ()),
        endpoint_name=fields.take("endpoint_name", _name, ""),
        heartbeat_s=fields.take("heartbeat_s", _seconds, 0.0),
    )
    fields.finish()
    if len(problems) == before:
        _check_prefixes(enrolment, problems)
    return enrolment if len(problems) == before else None


def _check_prefixes(enrolment: Enrolment, problems: list[AgentError]) -> None:
    if enrolment.overlay.num_addresses < SMALLEST_OVERLAY:
        problems.append(AgentError("agent-cli.bundle-prefix-too-small", name="overlay"))
    if enrolment.lan.prefixlen != enrolment.overlay.prefixlen or enrolment.lan.version != enrolment.overlay.version:
        params = {"lan": str(enrolment.lan), "overlay": str(enrolment.overlay)}
        problems.append(AgentError("agent-cli.bundle-prefixes-differ", **params))


class _WantedError(Exception):
    """The value is not what it should be; the text is the last word of the message key."""


class _Fields:
    """Takes fields out of a JSON object one by one; what is missing, wrong or left over becomes a problem."""

    def __init__(self, document: dict[str, object], problems: list[AgentError]) -> None:
        self._left = dict(document)
        self._problems = problems

    def take(self, name: str, reader: Callable[[object], T], otherwise: T) -> T:
        """The field's value; ``otherwise`` when it is missing or wrong, which is then a problem."""
        if name not in self._left:
            self._problems.append(AgentError("agent-cli.bundle-key-missing", name=name))
            return otherwise
        try:
            return reader(self._left.pop(name))
        except _WantedError as error:
            self._problems.append(AgentError(f"agent-cli.bundle-wants-{error}", name=name))
            return otherwise

    def finish(self) -> None:
        """What nobody took is unknown."""
        for name in self._left:
            self._problems.append(AgentError("agent-cli.bundle-key-unknown", name=name[:100]))


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _WantedError("number")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 253 or not value.isprintable() or " " in value:
        raise _WantedError("name")
    return value


def _label(value: object) -> str:
    if not isinstance(value, str) or not _SITE.match(value):
        raise _WantedError("label")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise _WantedError("names")
    return tuple(_name(item) for item in value)


def _address(value: object) -> Address:
    try:
        return ip_address(_name(value))
    except ValueError:
        raise _WantedError("address") from None


def _network(value: object) -> Network:
    try:
        return ip_network(_name(value))
    except ValueError:
        raise _WantedError("prefix") from None


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 3600:
        raise _WantedError("seconds")
    return float(value)


def _endpoint(value: object) -> Endpoint:
    if not isinstance(value, dict) or set(value) != {"address", "port", "in_tunnel"}:
        raise _WantedError("endpoints")
    port = _integer(value["port"])
    if not 0 < port < 65536 or not isinstance(value["in_tunnel"], bool):
        raise _WantedError("endpoints")
    return Endpoint(_name(value["address"]), port, value["in_tunnel"])


def _endpoints(value: object) -> tuple[Endpoint, ...]:
    if not isinstance(value, list) or not value:
        raise _WantedError("endpoints")
    return tuple(_endpoint(item) for item in value)
