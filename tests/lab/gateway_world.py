"""A small world for the gateway's tests: the daemon on its host, bare charons as routers, one cloud server.

tokyo, osaka (acme), nagoya (birch) -- 198.51.100.0/24 -- gateway -- 10.255.0.0/24 -- web
"""

import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import IO

from cloudside.config import Config, Gateway, Listen, Web
from cloudside.pki import initialise, revocation
from cloudside.registry import policies, reports, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell
from cloudside.registry.tables import GatewayState, Tunnel
from lab import enrolled
from lab.network import Host, LabError, Network, Process, address, default_route, wait_until
from linux.charon import Charon, IkeSa
from linux.charon_process import socket_path, strongswan_conf
from linux.dataplane import Dataplane
from linux.errors import CharonRefusedError, CharonUnavailableError

SITES = {
    "tokyo": ("acme", IPv4Network("10.10.1.0/24"), 11),
    "osaka": ("acme", IPv4Network("10.10.2.0/24"), 12),
    "nagoya": ("birch", IPv4Network("10.20.1.0/24"), 13),
}
SERVICE = IPv4Address("10.255.255.1")
PUBLIC = IPv4Address("198.51.100.1")
WEB = IPv4Address("10.255.0.10")

ACME = """
tenant: acme
allow:
  - {name: web, from: [tokyo, osaka], to: web, services: [tcp/80, ping]}
  - {name: mesh, from: tokyo, to: osaka, services: [ping], both: true}
"""
BIRCH = """
tenant: birch
allow:
  - {name: web, from: nagoya, to: web, services: [ping]}
"""
CLOSED = "tenant: acme\nallow: []\n"

_DAEMON = """
import signal, sys, threading
from pathlib import Path
from typing import IO
from cloudside import config
from cloudside.vpn import gateway
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
gateway.run(config.Config.model_validate_json(Path(sys.argv[1]).read_text()), stop)
"""


def _router_options() -> dict[str, str]:
    return {"retransmit_tries": "2", "retransmit_timeout": "0.5", "retransmit_base": "1.0", "install_routes": "yes"}


#: The rules that a change of the rule set exchanges.
FLIP = re.compile(r"-A (KY-POLICY|ky[0-9a-f]{8}) ")


@dataclass(slots=True)
class Router:
    """A bare charon as initiator; its overlay address stands on its loopback."""

    site: str
    prefix: IPv4Network
    host: Host
    charon: Charon
    process: Process

    @property
    def own(self) -> IPv4Address:
        return self.prefix.network_address + 1

    def connect(self, *, selector: str | None = None, wait_s: float = 5.0) -> bool:
        """Bring the tunnel up (anew if it is up); False when the gateway refuses."""
        if self.sas():
            self.charon.terminate(connection="gw")
            wait_until("the old tunnel to end", lambda: not self.sas(), timeout_s=5)
        child = dict(self._child, local_ts=[selector or str(self.prefix)])
        self.charon.load_connection("gw", {**self._connection, "children": {"net": child}})
        try:
            self.charon.initiate("gw", "net", wait_s=wait_s)
        except CharonRefusedError:
            return False
        return True

    def selectors(self) -> set[str]:
        return {str(one) for sa in self.sas() for child in sa.children for one in child.local}

    def sas(self) -> tuple[IkeSa, ...]:
        try:
            return self.charon.sas(connection="gw")
        except CharonUnavailableError:
            return ()

    def ping(self, destination: IPv4Address, *, source: IPv4Address | None = None) -> bool:
        argv = ["ping", "-c", "1", "-W", "1", "-I", str(source or self.own), str(destination)]
        return self.host.run(argv, check=False).status == 0

    _connection: dict[str, object] = field(default_factory=dict)
    _child: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class GatewayWorld:
    """The world and what tests do with it."""

    network: Network
    config: Config
    database: Database
    gateway: Host
    web: Host
    routers: dict[str, Router]
    daemon: Process | None = None

    def start(self) -> Process:
        file = self.network.directory / "config.json"
        file.write_text(self.config.model_dump_json())
        self.daemon = self.gateway.start("gateway", [sys.executable, "-c", _DAEMON, str(file)])
        return self.daemon

    def ring(self) -> None:
        Doorbell(self.config.runtime_directory, "gateway").ring()

    def put_policy(self, tenant: str, text: str) -> None:
        with self.database.write() as session:
            policies.add_version(
                session, OPERATOR, tenant_id=tenant, text=text, file_name="p.yaml", author="t", now=datetime.now(UTC)
            )
        self.ring()

    def revoke(self, site: str) -> None:
        with self.database.write() as session:
            revocation.revoke_site(session, self.config, OPERATOR, site_id=site, now=datetime.now(UTC))
        self.ring()

    def enrol_again(self, site: str) -> None:
        """The site gets a new bundle; the router that has the old one is shut out."""
        with self.database.write() as session:
            output = self.network.directory / f"{site}.tar"
            enrolled.enrol(session, self.config, site_id=site, output=output, now=datetime.now(UTC))
        self.ring()

    def state(self) -> GatewayState | None:
        with self.database.read() as session:
            return next(iter(reports.gateways(session, OPERATOR)), None)

    def problem_keys(self) -> set[str]:
        state = self.state()
        return {found["key"] for found in state.report["problems"]} if state is not None else set()

    def tunnels(self) -> dict[str, Tunnel]:
        with self.database.read() as session:
            return {tunnel.site_id: tunnel for tunnel in reports.tunnels(session, OPERATOR)}

    def rules(self) -> str:
        return self.gateway.run(["iptables-legacy-save", "-t", "filter"]).stdout

    def marking(self) -> str:
        """The mangle table, with the chains of each tenant.

        ``iptables-save`` asks for each set's name after it has read the rules: while the gateway exchanges a version,
        a set may have gone in between, and the whole reading fails. Then it is read again.
        """
        for _ in range(20):
            saved = self.gateway.run(["iptables-legacy-save", "-t", "mangle"], check=False)
            if saved.status == 0:
                return saved.stdout
            if "in kernel doesn't exist" not in saved.stderr:
                break
        raise LabError(f"the gateway's rules cannot be read: {saved.stderr.strip()}")

    def flip(self) -> str:
        """What is in force: the way to the top, and each tenant's gate."""
        return "\n".join(line for line in self.marking().splitlines() if FLIP.match(line))

    def routes(self) -> str:
        return self.gateway.run(["ip", "route", "show", "table", "219"], check=False).stdout

    def charon_sas(self) -> dict[str, int]:
        """Site -> unique id, as the gateway's charon has it."""
        charon = Charon(socket_path(self.config.runtime_directory / "charon"))
        try:
            return {
                sa.remote_id: sa.unique_id
                for sa in charon.sas(connection="sites")
                if sa.state == "ESTABLISHED" and sa.children
            }
        except CharonUnavailableError:
            return {}
        finally:
            charon.close()

    def charon_pid(self) -> int:
        return int((self.config.runtime_directory / "charon" / "charon.pid").read_text())

    def wait_ready(self, timeout_s: float = 15.0) -> None:
        """Wait until rules are in force and sites can connect."""
        try:
            wait_until("the first rule set", lambda: bool(self.flip()), timeout_s=timeout_s)
            wait_until("the connection", self._listens, timeout_s=timeout_s)
        except LabError as error:
            assert self.daemon is not None
            raise LabError(f"{error}\n{self.daemon.tail()}") from None

    def _listens(self) -> bool:
        charon = Charon(socket_path(self.config.runtime_directory / "charon"))
        try:
            return "sites" in charon.connection_names()
        except CharonUnavailableError:
            return False
        finally:
            charon.close()

    def close(self) -> None:
        for router in self.routers.values():
            router.charon.close()
        self.database.close()
        self.network.close()


@contextmanager
def running(name: str, *, connected: bool = False) -> Iterator[GatewayWorld]:
    """A world whose gateway is ready; with ``connected`` all tunnels are up."""
    world = build(name)
    try:
        world.start()
        world.wait_ready()
        if connected:
            for router in world.routers.values():
                assert router.connect()
            wait_until("the routes", lambda: world.routes().count("ipsec0") == len(SITES), timeout_s=3)
        yield world
    finally:
        world.close()


def build(name: str) -> GatewayWorld:
    """Hosts, registry, certificates; routers' charons run, the gateway does not yet."""
    network = Network(name)
    internet = network.add_host("internet")
    gateway = network.add_host("gateway")
    web = network.add_host("web")
    routers = {site: network.add_host(site) for site in SITES}
    network.switch(internet, "br0", [(gateway, "wan0"), *((host, "wan0") for host in routers.values())])
    network.link(gateway, "lan0", web, "eth0")
    address(gateway, "wan0", f"{PUBLIC}/24")
    address(gateway, "lan0", "10.255.0.1/24")
    address(web, "eth0", f"{WEB}/24")
    default_route(web, "10.255.0.1")
    config = Config(
        state_directory=network.directory / "state",
        runtime_directory=network.directory / "run",
        gateway=Gateway(public_addresses=(str(PUBLIC),), resync_s=1.0, usage_s=2.0, dpd_delay_s=5),
        web=Web(listen=(Listen(address=SERVICE, port=8443),)),
    )
    config.state_directory.mkdir(mode=0o700)
    config.runtime_directory.mkdir()
    database = Database(config.registry_url)
    database.migrate()
    _fill(database, config)
    started = {site: _router(site, host, config, database) for site, host in routers.items()}
    return GatewayWorld(network, config, database, gateway, web, started)


def _fill(database: Database, config: Config) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        initialise.initialise(session, config, now=now)
        for tenant, block in (("acme", "10.10.0.0/16"), ("birch", "10.20.0.0/16")):
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=config.gateway.overlay, block=block, now=now)
        for site, (tenant, prefix, _) in SITES.items():
            sites.add(session, OPERATOR, site_id=site, tenant_id=tenant, lan=prefix, overlay=prefix, now=now)
        servers.add(session, OPERATOR, server_id="web", address=WEB, overlay=config.gateway.overlay, tenant_id=None)
        for tenant, text in (("acme", ACME), ("birch", BIRCH)):
            policies.add_version(
                session, OPERATOR, tenant_id=tenant, text=text, file_name="p.yaml", author="test", now=now
            )


def _router(site: str, host: Host, config: Config, database: Database) -> Router:
    _, prefix, number = SITES[site]
    bundle = host.directory / "bundle"
    with database.write() as session:
        enrolled.enrol(session, config, site_id=site, output=bundle, now=datetime.now(UTC))
    files: dict[str, str] = {}
    with tarfile.open(bundle) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member)
            assert stream is not None
            files[member.name] = stream.read().decode()
    address(host, "wan0", f"198.51.100.{number}/24")
    address(host, "lo", f"{prefix.network_address + 1}/32")
    directory = host.directory / "charon"
    directory.mkdir()
    conf = directory / "strongswan.conf"
    conf.write_text(strongswan_conf(directory, Dataplane.USERLAND, _router_options()))
    environment = {"STRONGSWAN_CONF": str(conf)}
    process = host.start("charon", ["/usr/sbin/charon-systemd"], environment=environment)
    wait_until(f"charon of {site}", socket_path(directory).exists, timeout_s=10)
    charon = Charon(socket_path(directory))
    for name in ("root.crt", "cloud-authority.crt", "tenant-authority.crt"):
        charon.load_authority(files[name])
    charon.load_private_key(files["site.key"])
    router = Router(site, prefix, host, charon, process)
    router._connection = {
        "version": "2",
        "remote_addrs": [str(PUBLIC)],
        "proposals": ["aes256gcm16-prfsha256-curve25519"],
        "dpd_delay": "1",
        "send_cert": "always",
        "local": {"auth": "pubkey", "id": site, "certs": [files["site.crt"]]},
        "remote": {"auth": "pubkey", "id": "vpn.kyoten", "cacerts": [files["root.crt"]], "revocation": "relaxed"},
    }
    router._child = {"remote_ts": ["10.0.0.0/8"], "esp_proposals": ["aes256gcm16"], "dpd_action": "clear"}
    return router


def background(host: Host, argv: list[str], *, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    """A program on a host whose output the test reads."""
    return subprocess.Popen(
        ["ip", "netns", "exec", host.namespace, *argv], stdout=stdout, stdin=subprocess.DEVNULL, text=True
    )


def pause(seconds: float) -> None:
    """Let time pass in which something must *not* happen."""
    time.sleep(seconds)
