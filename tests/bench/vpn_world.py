"""A world for measuring tunnels: one charon plays many sites, `kyoten gateway` or a bare charon answers.

sites (all addresses of all sites, one charon) -- 198.51.100.0/24 -- gateway (Kyoten) -- 10.255.0.0/24 -- web
                                               -- 198.51.101.0/24 -- bare (charon alone)

Both ends share this machine's cores. The two responders have the same strongswan.conf, connection, authorities,
certificate and revocation lists; the bare one has no daemon, no rules and no registry. Sites have a certificate of
their own each, but one key: a thousand keys would measure the load generator.
"""

import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import vici
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloudside.config import Config, Listen, Web
from cloudside.config import Gateway as GatewayConfig
from cloudside.pki import authority, issuing, published
from cloudside.pki.authority import Leaf
from cloudside.pki.published import GatewayCredentials
from cloudside.pki.store import KeyStore, key_to_pem
from cloudside.registry.database import Database
from cloudside.registry.tables import Tenant
from cloudside.vpn.connections import charon_options
from cloudside.vpn.credentials import CredentialLoader
from lab.network import Host, LabError, Network, Process, address, wait_until
from linux.charon import Charon, IkeSa
from linux.charon_process import Section, socket_path, strongswan_conf
from linux.dataplane import Dataplane
from linux.errors import CharonUnavailableError
from router_agent.tunnel.connection import CHILD_REKEY_S, ESP_PROPOSALS, IKE_PROPOSALS, IKE_REKEY_S
from router_agent.tunnel.connection import charon_options as router_options
from rules.model import Inventory, PolicySource, Server
from tests.bench.rules_gateway import fill
from tests.bench.rules_world import in_proportion
from tests.lab.gateway_world import WEB, GatewayWorld

#: Public addresses of the sites, one each.
PUBLIC = IPv4Network("100.64.0.0/10")
OVERLAY = IPv4Network("10.0.0.0/8")
SERVICE = IPv4Address("10.255.255.1")
#: Routers probe their tunnel here; nobody listens, and a refusal is an answer.
PROBE_PORT = 8443
IDENTITY = "vpn.kyoten"
CHILD = "net"
#: The gateway's table of routes to sites (cloudside.datapath.site_routes).
ROUTES = "219"
#: Seconds for a charon to come up, and for a gateway with a large registry to be ready.
CHARON_S, READY_S = 15.0, 180.0

_CARRYING = frozenset({"INSTALLED", "REKEYING", "REKEYED"})


@dataclass(frozen=True, slots=True)
class Site:
    """A site that can connect: its prefix, the address that it comes from, its certificate (PEM)."""

    name: str
    prefix: IPv4Network
    public: IPv4Address
    certificate: str

    @property
    def own(self) -> IPv4Address:
        """The router's overlay address."""
        return self.prefix[1]


def carrying(sa: IkeSa) -> bool:
    """Whether a tunnel is up for traffic."""
    return sa.state == "ESTABLISHED" and any(child.state in _CARRYING for child in sa.children)


class Counter:
    """How many IKE_SAs a charon has established; cheap enough to ask fifty times a second."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._session = vici.Session(self._socket)

    def established(self) -> int:
        """IKE_SAs of this responder that are past authentication."""
        found = self._session.stats()["ikesas"]
        return int(found["total"]) - int(found["half-open"])

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()


class Responder:
    """What the two ends that are measured have in common."""

    def __init__(self, host: Host, public: IPv4Address, directory: Path) -> None:
        self.host = host
        self.public = public
        self.directory = directory

    @contextmanager
    def charon(self) -> Iterator[Charon]:
        """A client of its charon."""
        client = Charon(socket_path(self.directory), timeout_s=30)
        try:
            yield client
        finally:
            client.close()

    def ids(self) -> dict[str, int]:
        """Site -> unique id of the IKE_SA that carries its traffic."""
        with self.charon() as client:
            return {sa.remote_id: sa.unique_id for sa in client.sas() if carrying(sa)}

    def start(self) -> None:
        """Come up from nothing; returns when sites can connect."""
        raise NotImplementedError

    def stop(self) -> None:
        """Be gone, tunnels and all."""
        raise NotImplementedError

    def passable(self) -> int:
        """To how many sites packets find their way."""
        raise NotImplementedError


class Kyoten(Responder):
    """The product: the daemon, its charon, its rules."""

    def __init__(self, world: GatewayWorld) -> None:
        super().__init__(world.gateway, IPv4Address("198.51.100.1"), world.config.runtime_directory / "charon")
        self.world = world

    @property
    def daemon(self) -> Process:
        """The daemon's process."""
        assert self.world.daemon is not None
        return self.world.daemon

    def start(self) -> None:
        self.world.start()
        self.world.wait_ready(timeout_s=READY_S)

    def stop(self) -> None:
        self.daemon.stop(timeout_s=20)
        self.host.run(["kill", "-9", str(self.world.charon_pid())], check=False)

    def passable(self) -> int:
        return self.world.gateway.run(["ip", "route", "show", "table", ROUTES], check=False).stdout.count("ipsec0")

    def processor_s(self) -> float:
        """Processor seconds that the daemon has used."""
        words = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Bare(Responder):
    """The reference: charon by itself, told once what Kyoten tells it."""

    def __init__(self, host: Host, config: Config, credentials: GatewayCredentials) -> None:
        super().__init__(host, IPv4Address("198.51.101.1"), host.directory / "charon")
        self._config = config
        self._credentials = credentials
        self._process: Process | None = None

    def start(self) -> None:
        self._process = start_charon(self.host, self.directory, charon_options())
        with self.charon() as client:
            CredentialLoader(client, self._config, Dataplane.USERLAND).load(self._credentials)

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()

    def passable(self) -> int:
        return len(self.ids())


class Fleet:
    """Many sites' routers in one charon, which starts nothing by itself: whoever holds it says when."""

    def __init__(self, host: Host, sites: Sequence[Site], authorities: Sequence[str], key: str) -> None:
        self.host = host
        self.sites = tuple(sites)
        self._authorities = tuple(authorities)
        self._key = key
        self.directory = host.directory / "charon"
        self.process: Process | None = None
        self.charon = Charon(socket_path(self.directory), timeout_s=30)

    def of(self, host: Host, sites: Sequence[Site]) -> "Fleet":
        """Some of the sites, on a host of their own or this one."""
        return Fleet(host, sites, self._authorities, self._key)

    def start(self, public: IPv4Address, *, dpd_s: int = 30) -> None:
        """A fresh charon that knows all sites and where they connect to."""
        options: Section = {
            **router_options(),
            "ikesa_table_size": "1024",
            "ikesa_table_segments": "16",
            "threads": "32",
        }
        self.charon.close()
        self.process = start_charon(self.host, self.directory, options)
        for pem in self._authorities:
            self.charon.load_authority(pem)
        self.charon.load_private_key(self._key)
        for site in self.sites:
            self.load(site, public, dpd_s=dpd_s)

    def load(self, site: Site, public: IPv4Address, *, dpd_s: int = 30) -> None:
        """A site's connection: the router agent's, but for its fixed source address."""
        child = {
            "local_ts": [str(site.prefix)],
            "remote_ts": [str(OVERLAY)],
            "esp_proposals": list(ESP_PROPOSALS),
            "rekey_time": f"{CHILD_REKEY_S}s",
            "dpd_action": "clear",
        }
        connection = {
            "version": "2",
            "local_addrs": [str(site.public)],
            "remote_addrs": [str(public)],
            "proposals": list(IKE_PROPOSALS),
            "encap": "yes",
            # The gateway does not ask: it would name each tenant's authority, in a packet that cannot be fragmented.
            "send_cert": "always",
            "send_certreq": "no",
            "keyingtries": "1",
            "unique": "replace",
            "dpd_delay": f"{dpd_s}s",
            "rekey_time": f"{IKE_REKEY_S}s",
            "local": {"auth": "pubkey", "id": site.name, "certs": [site.certificate]},
            "remote": {"auth": "pubkey", "id": IDENTITY, "cacerts": [self._authorities[0]], "revocation": "relaxed"},
            "children": {CHILD: child},
        }
        self.charon.load_connection(site.name, connection)

    def begin(self, site: str) -> None:
        """Start a site's tunnel and do not wait for it."""
        self.charon.initiate(site, CHILD)

    def connect(self, site: str, *, wait_s: float = 20.0) -> float:
        """Bring a site's tunnel up; seconds that it took. Raises CharonRefusedError."""
        began = time.perf_counter()
        self.charon.initiate(site, CHILD, wait_s=wait_s)
        return time.perf_counter() - began

    def connect_all(self, responder: Responder, *, timeout_s: float = 120.0) -> None:
        """All sites up, and packets find their way to each."""
        for site in self.sites:
            self.begin(site.name)
        wait_until("all sites", lambda: len(self.up()) == len(self.sites), timeout_s=timeout_s, every_s=0.3)
        wait_until("the ways", lambda: responder.passable() >= len(self.sites), timeout_s=30, every_s=0.1)

    def up(self) -> dict[str, int]:
        """Sites that are up, as their routers see it, with the unique ids of their IKE_SAs there."""
        return {sa.connection: sa.unique_id for sa in self.charon.sas() if carrying(sa)}

    def stop(self) -> None:
        """SIGKILL: all routers lose power."""
        self.charon.close()
        if self.process is not None:
            self.process.kill()


@dataclass(slots=True)
class VpnWorld:
    """One registry with all its sites, those of them that connect, and what they connect to."""

    network: Network
    kyoten: Kyoten
    bare: Bare
    fleet: Fleet
    inventory: Inventory

    def close(self) -> None:
        """End everything."""
        self.fleet.charon.close()
        self.kyoten.world.close()


def start_charon(host: Host, directory: Path, options: Section) -> Process:
    """A charon on a host, answering."""
    directory.mkdir(exist_ok=True)
    socket_path(directory).unlink(missing_ok=True)
    conf = directory / "strongswan.conf"
    conf.write_text(strongswan_conf(directory, Dataplane.USERLAND, options))
    process = host.start("charon", ["/usr/sbin/charon-systemd"], environment={"STRONGSWAN_CONF": str(conf)})
    client = Charon(socket_path(directory))

    def answers() -> bool:
        try:
            return bool(client.version())
        except CharonUnavailableError:
            return False

    try:
        wait_until(f"charon of {host.name}", answers, timeout_s=CHARON_S)
    finally:
        client.close()
    return process


def build(name: str, *, registered: int, connecting: int, mesh: bool = False) -> VpnWorld:
    """Hosts, registry with ``registered`` sites and certificates; ``connecting`` of them, spread over all tenants,
    are in the fleet. Nothing runs yet. With ``mesh`` a tenant's sites may open anything to each other.
    """
    inventory, sources = _inventory(registered, mesh=mesh)
    network = Network(name)
    sites, gateway, bare, web = (network.add_host(one) for one in ("sites", "gateway", "bare", "web"))
    network.link(sites, "wan0", gateway, "wan0")
    network.link(sites, "wan1", bare, "wan0")
    network.link(gateway, "lan0", web, "eth0")
    for host, interface, text in (
        (sites, "wan0", "198.51.100.2/24"),
        (sites, "wan1", "198.51.101.2/24"),
        (gateway, "wan0", "198.51.100.1/24"),
        (bare, "wan0", "198.51.101.1/24"),
        (bare, "lo", f"{SERVICE}/32"),
        (gateway, "lan0", "10.255.0.1/24"),
        (web, "eth0", f"{WEB}/24"),
    ):
        address(host, interface, text)
    web.ip("route", "add", "default", "via", "10.255.0.1")
    gateway.ip("route", "add", str(PUBLIC), "via", "198.51.100.2")
    bare.ip("route", "add", str(PUBLIC), "via", "198.51.101.2")
    config = Config(
        state_directory=network.directory / "state",
        runtime_directory=network.directory / "run",
        gateway=GatewayConfig(public_addresses=("198.51.100.1",)),
        web=Web(listen=(Listen(address=SERVICE, port=PROBE_PORT),)),
    )
    config.state_directory.mkdir(mode=0o700)
    config.runtime_directory.mkdir()
    database = Database(config.registry_url)
    database.migrate()
    fill(database, config, inventory, sources)
    step = len(inventory.sites) // connecting
    chosen = {site.name for site in inventory.sites[::step][:connecting]}
    key, found = _certificates(database, config, inventory, chosen)
    with database.read() as session:
        credentials = published.load_gateway(session, config, now=datetime.now(UTC))
    # Addresses before charon: it looks at every change.
    lines = [f"addr add {site.public}/32 dev wan0\naddr add {site.own}/32 dev lo" for site in found]
    sites.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n", timeout_s=120)
    world = GatewayWorld(network, config, database, gateway, web, {})
    fleet = Fleet(sites, found, (credentials.root,), key)
    return VpnWorld(network, Kyoten(world), Bare(bare, config, credentials), fleet, inventory)


def _inventory(registered: int, *, mesh: bool) -> tuple[Inventory, list[PolicySource]]:
    """The rules' world of that size, and a server that every site may ping."""
    inventory, sources = in_proportion(registered)
    web = Server("web", None, WEB)
    return replace(inventory, servers=(*inventory.servers, web)), [
        replace(one, text=one.text + _more(_names(inventory, one.tenant), mesh=mesh)) for one in sources
    ]


def _more(names: list[str], *, mesh: bool) -> str:
    every = ", ".join(names)
    text = f"  - {{name: web, from: [{every}], to: web, services: [ping, tcp/80]}}\n"
    return text + (f"  - {{name: mesh, from: [{every}], to: [{every}], services: any}}\n" if mesh else "")


def _names(inventory: Inventory, tenant: str) -> list[str]:
    return [site.name for site in inventory.sites if site.tenant == tenant]


def _certificates(
    database: Database, config: Config, inventory: Inventory, connecting: set[str]
) -> tuple[str, list[Site]]:
    """Certificates for all sites, in the registry. The key, and the sites that connect."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    store = KeyStore(config.state_directory)
    usages = (authority.CLIENT_AUTH, authority.IPSEC_IKE)
    found: list[Site] = []
    with database.write() as session:
        authorities = {}
        for name in inventory.tenants:
            tenant = session.get(Tenant, name)
            assert tenant is not None
            authorities[name] = issuing.ensure_tenant_authority(session, store, tenant=tenant, now=now)
        for site in inventory.sites:
            leaf = Leaf(site.name, (site.name,), usages, blocks=(site.prefix,))
            made = issuing.issue(session, authorities[site.tenant], leaf, kind="site", key=key.public_key(), now=now)
            if site.name in connecting:
                assert isinstance(site.prefix, IPv4Network)
                public = PUBLIC[256 + len(found)]
                found.append(Site(site.name, site.prefix, public, made.public_bytes(Encoding.PEM).decode()))
    return key_to_pem(key).decode(), found


def ping_loss(text: str) -> tuple[int, int]:
    """Sent and lost, from what ping prints at its end."""
    counted = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", text)
    if counted is None:
        raise LabError(f"ping says: {text[-300:]}")
    return int(counted[1]), int(counted[1]) - int(counted[2])
