"""The cloud side's configuration: one TOML file, read once, for all processes of one node.

Unknown keys are errors and every mistake is reported at once. No secret stands in the file: it names files that hold
them. Addresses are of either family.
"""

import tomllib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloudside.errors import ConfigurationError

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
    dpd_delay_s: Annotated[int, Field(ge=1)] = 20


class Web(_Section):
    """The agents' endpoint, mutual TLS."""

    listen: tuple[Listen, ...] = (Listen(address=IPv4Address("10.255.255.1"), port=8443),)
    #: Seconds between heartbeats asked of routers, on a wired and on a mobile uplink.
    heartbeat_wired_s: Annotated[float, Field(gt=0)] = 30.0
    heartbeat_mobile_s: Annotated[float, Field(gt=0)] = 120.0
    #: Seconds a router has to reach the cloud after a settings change before it undoes the change.
    settings_confirm_s: Annotated[float, Field(gt=0)] = 120.0


class Relay(_Section):
    """The mail relay."""

    #: Plain SMTP for sites, known by tunnel source address.
    site_listen: Listen = Listen(address=IPv4Address("10.255.255.1"), port=25)
    #: STARTTLS and AUTH.
    submission_listen: Listen = Listen(address=IPv4Address("10.255.255.1"), port=587)
    #: Where the world hands in bounces; none: no bounce listener.
    bounce_listen: Listen | None = None
    #: Domain of the signed return addresses; must not be the smarthost's MAIL FROM domain.
    bounce_domain: str = "bounces.kyoten.invalid"
    host_name: str = "relay.kyoten.invalid"
    smarthost: str = ""
    smarthost_port: Port = 587
    #: File with two lines: user name, password. Mode 0600.
    smarthost_credentials: Path | None = None
    #: PEM file with the authority that signed the smarthost's certificate; none: the system's.
    smarthost_ca: Path | None = None
    queue_directory: Path | None = None
    max_message_bytes: Annotated[int, Field(ge=1024)] = 10_000_000
    #: Seconds before the first and before later attempts after a temporary failure (RFC 5321 4.5.4.1).
    retry_first_s: Annotated[float, Field(gt=0)] = 900.0
    retry_later_s: Annotated[float, Field(gt=0)] = 7200.0
    give_up_s: Annotated[float, Field(gt=0)] = 4 * 86400.0
    hourly_limit_per_site: Annotated[int, Field(ge=1)] = 60


class Policy(_Section):
    """What a change of reachability may do without anybody's explicit yes."""

    #: A plan that opens more (source, destination) pairs than this has to be acknowledged with its code. It stands in
    #: the node's configuration, not in a policy or the platform's file: a plan must not raise its own limit.
    acknowledge_above_pairs: Annotated[int, Field(ge=0)] = 100


class Alerts(_Section):
    """Who is told."""

    #: Mail addresses of the staff in charge.
    staff: tuple[str, ...] = ()
    sender: str = "kyoten@kyoten.invalid"
    #: A site whose last heartbeat is older than this many of its intervals is silent.
    silent_after_intervals: Annotated[int, Field(ge=2)] = 4
    language: str = "en"


class Config(_Section):
    """Everything one cloud node needs to know."""

    #: Keys, the embedded registry, the mail queue. Mode 0700.
    state_directory: Path = Path("/var/lib/kyoten")
    #: Sockets and process ids; may vanish at reboot.
    runtime_directory: Path = Path("/run/kyoten")
    registry: Registry = Registry()
    gateway: Gateway = Gateway()
    web: Web = Web()
    relay: Relay = Relay()
    policy: Policy = Policy()
    alerts: Alerts = Alerts()

    @property
    def registry_url(self) -> str:
        """The SQLAlchemy URL of the registry."""
        return self.registry.url or f"sqlite:///{self.state_directory / 'registry.sqlite'}"

    @property
    def queue_directory(self) -> Path:
        """Where accepted mail lives."""
        return self.relay.queue_directory or self.state_directory / "mail"


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
