"""The cloud side's configuration: one TOML file, read once, for all processes of one node.

Unknown keys are errors and every mistake is reported at once. No secret stands in the file: it names files that hold
them. Addresses are of either family.
"""

import re
import tomllib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cloudside.errors import ConfigurationError
from cloudside.vpn import suites

#: Whoever fetches a list to judge a TLS certificate cannot use TLS for it.
_PUBLIC_URL = re.compile(r"http://[A-Za-z0-9.-]+(:\d{1,5})?\Z|http://\[[0-9a-fA-F:]+\](:\d{1,5})?\Z", re.ASCII)

DEFAULT_PATH = Path("/etc/kyoten/kyoten.toml")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """A TCP address to listen on."""

    address: Address
    port: Port


class Registry(_Section):
    """Where the truth is. ``url`` is an SQLAlchemy URL; empty: SQLite in the state directory."""

    url: str = ""


class Gateway(_Section):
    """One VPN server."""

    name: str = "gw1"
    #: Public addresses or names that routers connect to, in the order to try.
    public_addresses: tuple[str, ...] = ()
    #: The gateway's own address inside the overlay (a /32 on lo): relay, agent endpoint, source of remote work.
    service_address: Address = IPv4Address("10.255.255.1")
    #: All of the overlay: tenants' blocks and cloud servers lie in it. What a router may reach through its tunnel.
    overlay: Network = ip_network("10.0.0.0/8")
    #: The interface towards the cloud servers and the one towards the Internet.
    cloud_interface: str = "lan0"
    internet_interface: str = "wan0"
    #: Seconds between full resyncs with registry, charon and kernel; events make most changes much faster.
    resync_s: Annotated[float, Field(gt=0)] = 5.0
    #: Seconds between two tellings of what sites used. What was not told yet outlives the daemon, not the machine.
    usage_s: Annotated[float, Field(gt=0)] = 60.0
    dpd_delay_s: Annotated[int, Field(ge=1)] = 20


def _checked(proposals: tuple[str, ...], protocol: suites.Protocol, *, old: bool) -> tuple[str, ...]:
    found = suites.mistakes(proposals, protocol, old=old)
    if found:
        raise ValueError("; ".join(found))
    if not proposals:
        raise ValueError("there has to be one at least")
    return proposals


class OldRouters(_Section):
    """A class of its own for routers that cannot do IKEv2. It is there only when the configuration names it."""

    #: Main mode with certificates; aggressive mode and shared secrets are not offered.
    ike_version: Literal[1] = 1
    ike_proposals: tuple[str, ...] = ("aes256-sha256-modp2048", "aes128-sha256-modp2048")
    esp_proposals: tuple[str, ...] = ("aes256gcm16", "aes128gcm16", "aes256-sha256", "aes128-sha256")
    #: The sites that may use it. Anybody else's tunnel of this class is ended.
    sites: tuple[str, ...] = ()

    @field_validator("ike_proposals")
    @classmethod
    def _ike(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(value, "ike", old=True)

    @field_validator("esp_proposals")
    @classmethod
    def _esp(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(value, "esp", old=True)


class Vpn(_Section):
    """How sites may connect, and when a gateway worries about charon."""

    #: In order of preference, as strongSwan writes them. AES-GCM only by default; a PRF is named with it (RFC 5282).
    ike_proposals: tuple[str, ...] = (
        "aes256gcm16-prfsha384-ecp384",
        "aes256gcm16-prfsha256-curve25519",
        "aes256gcm16-prfsha256-ecp256",
        "aes128gcm16-prfsha256-curve25519",
        "aes128gcm16-prfsha256-ecp256",
    )
    esp_proposals: tuple[str, ...] = (
        "aes256gcm16-curve25519", "aes256gcm16", "aes128gcm16-curve25519", "aes128gcm16",
    )  # fmt: skip
    old_routers: OldRouters | None = None
    #: A site has one CHILD_SA, two while it rekeys. A router that makes more than this is ended.
    child_sas_per_site: Annotated[int, Field(ge=2)] = 16
    #: A site whose tunnel comes back so often to a peer that it had been taken away from, within so many seconds, is
    #: two routers with one identity.
    contested_returns: Annotated[int, Field(ge=2)] = 6
    contested_window_s: Annotated[float, Field(gt=0)] = 300.0
    #: Seconds without an answer after which charon is reported, and after which it is ended and started anew if it
    #: does nothing meanwhile; 0: never.
    hung_report_s: Annotated[float, Field(gt=0)] = 15.0
    hung_restart_s: Annotated[float, Field(ge=0)] = 60.0
    #: charon's worker threads. Takes a restart of charon.
    charon_threads: Annotated[int, Field(ge=8, le=256)] = 16

    @field_validator("ike_proposals")
    @classmethod
    def _ike(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(value, "ike", old=False)

    @field_validator("esp_proposals")
    @classmethod
    def _esp(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(value, "esp", old=False)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if 0 < self.hung_restart_s < self.hung_report_s:
            raise ValueError("hung_restart_s must not be shorter than hung_report_s: a report comes first")
        return self


class Pki(_Section):
    """Where the root's key is, and where everybody finds what was revoked."""

    #: The PKCS#11 URI of the root's key (RFC 7512), with module-path and, for a daemon, pin-source; empty: ``root.key``
    #: in the state directory. It may be absent but when an authority is made.
    root_key: str = ""
    #: Where everybody reaches `public_listen`, such as "http://pki.example.net". New certificates then say where their
    #: revocation list and OCSP responder are; empty: they say nothing, and only our own gateways know.
    public_url: str = ""
    #: Plain HTTP for lists and OCSP, which are signed themselves (RFC 5280 section 4.2.1.13); none: not served.
    public_listen: tuple[Listen, ...] = ()

    @field_validator("public_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if value and not _PUBLIC_URL.match(value):
            raise ValueError("an http:// address without a path and without a slash at its end is wanted")
        return value

    @field_validator("root_key")
    @classmethod
    def _uri(cls, value: str) -> str:
        if value and not value.startswith("pkcs11:"):
            raise ValueError("a PKCS#11 URI is wanted, which begins with pkcs11:")
        return value


#: `fleet.diagnostics` has them; written out, because that imports the registry. A test holds the two equal.
DIAGNOSTIC_COMMANDS = (
    "ping", "traceroute", "routes", "addresses", "lan", "connections", "tunnels", "modem", "restart-agent", "reboot",
)  # fmt: skip


class Web(_Section):
    """The agents' endpoint, mutual TLS."""

    listen: tuple[Listen, ...] = (Listen(address=IPv4Address("10.255.255.1"), port=8443),)
    #: Seconds between heartbeats asked of routers, on a wired and on a mobile uplink.
    heartbeat_wired_s: Annotated[float, Field(gt=0)] = 30.0
    heartbeat_mobile_s: Annotated[float, Field(gt=0)] = 120.0
    #: Seconds a router has to reach the cloud after a settings change before it undoes the change.
    settings_confirm_s: Annotated[float, Field(gt=0)] = 120.0
    #: Diagnostic commands that tenants' administrators may give on their own sites; operators may give all of them.
    tenant_commands: tuple[str, ...] = ()

    @field_validator("tenant_commands")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in DIAGNOSTIC_COMMANDS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such command; there are {', '.join(DIAGNOSTIC_COMMANDS)}")
        return value


class Ses(_Section):
    """Amazon SES's API (v2), asked for the account's rate and quota. Without it the smarthost is any other."""

    region: str = "ap-northeast-1"
    #: For a region's own address; empty: the one of ``region``.
    endpoint: str = ""
    #: File with two lines: access key id, secret access key. Mode 0600.
    credentials: Path
    #: PEM file with the authority of the endpoint's certificate; none: the system's.
    ca: Path | None = None
    poll_s: Annotated[float, Field(gt=0)] = 300.0
    #: Per cent of the daily quota that only urgent mail may use.
    reserve_pct: Annotated[float, Field(ge=0, le=90)] = 10.0


class Notices(_Section):
    """Bounces and complaints as SES tells them through Amazon SNS: HTTPS, with the relay's own certificate."""

    listen: Listen
    #: The topics that are believed (ARN). Others are refused, whoever signed them.
    topics: tuple[str, ...]
    #: PEM file with the authority of the hosts that signing certificates come from; none: the system's.
    ca: Path | None = None
    #: Hosts that signing certificates and confirmations come from: ``sns.<region>.amazonaws.com``.
    hosts: tuple[str, ...] = ()


class Dkim(_Section):
    """Signing what we send (RFC 6376), for smarthosts that do not do it."""

    domain: str
    selector: str
    #: PEM, RSA or Ed25519. Mode 0600.
    key: Path


class UrgentRule(_Section):
    """Which mail goes first and may use the reserve of the quota. All that is stated must match."""

    #: Sites, or ``server/<id>``; empty: any.
    origins: tuple[str, ...] = ()
    #: A regular expression found in the subject, in any case; empty: any subject.
    subject: str = ""
    #: A header field that must be there, as ``Name: value`` (the value as a regular expression).
    header: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.origins or self.subject or self.header):
            raise ValueError("a rule must state origins, subject or header")
        for expression in (self.subject, self.header.partition(":")[2].strip()):
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
        return self


class Relay(_Section):
    """The mail relay."""

    #: Tells relays of one queue apart.
    name: str = "relay1"
    #: Plain SMTP for sites, known by tunnel source address.
    site_listen: Listen = Listen(address=IPv4Address("10.255.255.1"), port=25)
    #: STARTTLS and AUTH.
    submission_listen: Listen = Listen(address=IPv4Address("10.255.255.1"), port=587)
    #: TLS from the first byte, and AUTH (RFC 8314); none: no such listener.
    tls_listen: Listen | None = Listen(address=IPv4Address("10.255.255.1"), port=465)
    #: Where the world hands in bounces; none: no bounce listener.
    bounce_listen: Listen | None = None
    #: Bounces and complaints over HTTPS; none: by mail only.
    notices: Notices | None = None
    #: Prometheus metrics over HTTP; none: none.
    metrics_listen: Listen | None = None
    #: Processes beside the first one that take mail, behind the same ports: Python runs on one core a process. 0: the
    #: first one takes it itself, enough for some hundred mails a second. Limits of connections and rates are then
    #: shared out evenly, with a half more for each process.
    intake_processes: Annotated[int, Field(ge=0, le=16)] = 0
    #: Domain of the signed return addresses; must not be the smarthost's MAIL FROM domain.
    bounce_domain: str = "bounces.kyoten.invalid"
    host_name: str = "relay.kyoten.invalid"
    smarthost: str = ""
    smarthost_port: Port = 587
    #: File with two lines: user name, password. Mode 0600.
    smarthost_credentials: Path | None = None
    #: PEM file with the authority that signed the smarthost's certificate; none: the system's.
    smarthost_ca: Path | None = None
    #: STARTTLS and a login. False: neither, for a smarthost on this machine or in a network of its own. Then there are
    #: no credentials.
    smarthost_tls: bool = True
    #: Connections to the smarthost at once.
    smarthost_connections: Annotated[int, Field(ge=1, le=100)] = 8
    #: Mails a second that the smarthost's account may send; 0: what SES says, or as fast as it takes them.
    smarthost_rate: Annotated[float, Field(ge=0)] = 0.0
    ses: Ses | None = None
    dkim: Dkim | None = None
    urgent: tuple[UrgentRule, ...] = ()
    #: SQLAlchemy URL of a PostgreSQL that several relays share; empty: SQLite in the queue directory.
    queue_url: str = ""
    #: Large bodies, and the embedded queue.
    queue_directory: Path | None = None
    max_message_bytes: Annotated[int, Field(ge=1024)] = 10_000_000
    #: Mail that is being received and is larger than this goes to a file; the memory of all together is bounded.
    spill_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    connections_max: Annotated[int, Field(ge=1)] = 1000
    connections_per_site: Annotated[int, Field(ge=1)] = 40
    #: Mails that one site may hand over in a minute; more get 450 and come again.
    rate_per_minute: Annotated[int, Field(ge=1)] = 600
    recipients_max: Annotated[int, Field(ge=1, le=1000)] = 100
    #: Offer CRAM-MD5 for devices that can do nothing else; their credentials must be made for it.
    cram_md5: bool = False
    #: Seconds before the first two attempts after a temporary failure, and before later ones (RFC 5321 4.5.4.1).
    retry_first_s: Annotated[float, Field(gt=0)] = 900.0
    retry_later_s: Annotated[float, Field(gt=0)] = 7200.0
    give_up_s: Annotated[float, Field(gt=0)] = 4 * 86400.0
    #: Days that finished mail is remembered (headers and what happened, no bodies), and counts of mail.
    retention_days: Annotated[int, Field(ge=6)] = 14
    counts_days: Annotated[int, Field(ge=35)] = 400
    #: Days that an address stays suppressed after it bounced for good; complaints stay until somebody removes them.
    suppression_days: Annotated[int, Field(ge=1)] = 30
    #: Recipients before staff are told, for sites without limits of their own.
    hourly_limit_per_site: Annotated[int, Field(ge=1)] = 60
    daily_limit_per_site: Annotated[int, Field(ge=1)] = 500


class Policy(_Section):
    """What a change of reachability may do without anybody's explicit yes."""

    #: A plan that opens more (source, destination) pairs than this has to be acknowledged with its code. It stands in
    #: the node's configuration, not in a policy or the platform's file: a plan must not raise its own limit.
    acknowledge_above_pairs: Annotated[int, Field(ge=0)] = 100


class SecondSmarthost(_Section):
    """Another smarthost, for alarms only: with the first one's queue flooded or stuck they would not arrive."""

    host: str
    port: Port = 587
    #: File with two lines: user name, password. Mode 0600. None: no login.
    credentials: Path | None = None
    ca: Path | None = None


class Webhook(_Section):
    """An HTTPS address that alarms are posted to as JSON."""

    #: File with the address in its first line: it often holds a secret. Mode 0600.
    url: Path
    #: File with a key; the body's HMAC-SHA256 goes into ``X-Kyoten-Signature``. None: not signed.
    key: Path | None = None
    ca: Path | None = None


class Alerts(_Section):
    """Who is told, and on which ways beside the mail queue."""

    smarthost: SecondSmarthost | None = None
    webhooks: tuple[Webhook, ...] = ()
    #: Mail addresses of the staff in charge.
    staff: tuple[str, ...] = ()
    sender: str = "kyoten@kyoten.invalid"
    #: A site whose last heartbeat is older than this many of its intervals is silent.
    silent_after_intervals: Annotated[int, Field(ge=2)] = 4
    language: str = "en"


class Firmware(_Section):
    """Releases of routers' firmware: where they are served from, and the keys that this node signs with."""

    #: What is published and what is being signed; none: ``firmware`` in the state directory.
    directory: Path | None = None
    #: The keys that sign snapshot and timestamp, mode 0600; none: ``firmware-keys`` in the state directory. A node
    #: without them serves and does not renew.
    keys: Path | None = None
    #: Kinds of hardware that releases are made for: a slip of the pen is told when a release is staged.
    hardware: tuple[str, ...] = ("generic-x86-64", "generic-arm64")
    #: Days that what is signed now is good for.
    root_days: Annotated[float, Field(gt=0, le=3660)] = 365.0
    targets_days: Annotated[float, Field(gt=0, le=3660)] = 90.0
    snapshot_days: Annotated[float, Field(gt=0, le=366)] = 14.0
    timestamp_days: Annotated[float, Field(gt=0, le=366)] = 2.0
    #: Staff are told so many days before root or targets expire: their holders have to sign anew.
    warn_days: Annotated[float, Field(ge=0)] = 21.0
    #: Payload bytes a second to one site; 0: as fast as the line goes.
    rate_per_site_bytes_s: Annotated[int, Field(ge=0)] = 0


class Config(_Section):
    """Everything one cloud node needs to know."""

    #: Keys, the embedded registry, the mail queue. Mode 0700.
    state_directory: Path = Path("/var/lib/kyoten")
    #: Sockets and process ids; may vanish at reboot.
    runtime_directory: Path = Path("/run/kyoten")
    #: Days that the ups and downs of sites are kept.
    history_days: Annotated[int, Field(ge=1)] = 400
    #: Whole months that hourly usage is kept, besides the current one.
    usage_months: Annotated[int, Field(ge=1)] = 26
    registry: Registry = Registry()
    gateway: Gateway = Gateway()
    vpn: Vpn = Vpn()
    pki: Pki = Pki()
    web: Web = Web()
    relay: Relay = Relay()
    policy: Policy = Policy()
    alerts: Alerts = Alerts()
    firmware: Firmware = Firmware()

    @property
    def registry_url(self) -> str:
        """The SQLAlchemy URL of the registry."""
        return self.registry.url or f"sqlite:///{self.state_directory / 'registry.sqlite'}"

    @property
    def queue_directory(self) -> Path:
        """Where accepted mail lives."""
        return self.relay.queue_directory or self.state_directory / "mail"

    @property
    def firmware_directory(self) -> Path:
        """The repository of firmware releases: ``metadata``, ``targets`` and ``payload`` in it are served."""
        return self.firmware.directory or self.state_directory / "firmware"

    @property
    def firmware_keys(self) -> Path:
        """Where this node's signing keys for snapshot and timestamp are."""
        return self.firmware.keys or self.state_directory / "firmware-keys"


def load(path: Path) -> Config:
    """Read the file at ``path``.

    Raises ConfigurationError: unreadable, not TOML, or wrong values, all of them named in one error.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError("config.missing", path=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("config.unreadable", path=str(path), reason=str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError("config.not-toml", path=str(path), reason=str(error)) from None
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigurationError("config.invalid", path=str(path), problems=_problems(error)) from None


def _problems(error: ValidationError) -> str:
    """Each wrong place once. An address of either family fails twice, and pydantic adds inner names."""
    found: dict[str, str] = {}
    for problem in error.errors():
        written = takewhile(lambda part: isinstance(part, int) or _is_key(part), problem["loc"])
        found.setdefault(".".join(str(part) for part in written), problem["msg"])
    return "; ".join(f"{place}: {message}" for place, message in found.items())


def _is_key(part: str) -> bool:
    # Keys in the file are TOML bare keys; the names of pydantic's inner validators hold brackets.
    return not any(sign in part for sign in "[]()")
