"""A small world for the agent's tests: one router with a real agent, a bare charon as gateway, a small cloud.

plc (192.168.1.20) -- lan0 router wan0 -- internet -- wan0 gateway (10.255.255.1 on lo)
"""

import gzip
import json
import secrets
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloudside.pki import authority, bundle, ssh_keys
from cloudside.pki.authority import Authority, Leaf
from cloudside.pki.store import key_to_pem
from lab.network import Host, Network, Process, address, default_route, wait_until
from linux.charon import Charon
from linux.charon_process import socket_path, strongswan_conf
from linux.dataplane import Dataplane
from linux.errors import CharonUnavailableError

SITE = "tokyo-1"
OVERLAY = IPv4Network("10.10.1.0/24")
ROUTER = "10.10.1.1"
SERVICE = "10.255.255.1"
GATEWAY = "203.0.113.2"
WAN = "198.51.100.11"
PORT = 8443
NEW = timedelta()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@dataclass(slots=True)
class AgentWorld:
    """The world and what tests do with it."""

    network: Network
    gateway: Host
    router: Host
    plc: Host
    internet: Host
    cloud: Path
    bundle: Path
    operator_key: Path
    lan: IPv4Network
    credentials: dict[str, str] = field(repr=False, default_factory=dict)
    tenant: Authority | None = field(repr=False, default=None)
    agent: Process | None = None

    @property
    def state(self) -> Path:
        return self.router.directory / "state"

    @property
    def runtime(self) -> Path:
        return self.router.directory / "run"

    def start_gateway(self) -> None:
        """A charon as the gateway has it: one wildcard connection, prefixes by address block."""
        directory = self.gateway.directory / "charon"
        directory.mkdir(exist_ok=True)
        socket_path(directory).unlink(missing_ok=True)
        conf = directory / "strongswan.conf"
        conf.write_text(strongswan_conf(directory, Dataplane.USERLAND, {}))
        self.gateway.start("charon", ["/usr/sbin/charon-systemd"], environment={"STRONGSWAN_CONF": str(conf)})
        charon = Charon(socket_path(directory))
        wait_until("the gateway's charon", lambda: _answers(charon), timeout_s=10)
        for name in ("root", "cloud", "tenant"):
            charon.load_authority(self.credentials[name])
        charon.load_private_key(self.credentials["gateway.key"])
        charon.load_connection(
            "sites",
            {
                "version": "2",
                "proposals": ["aes256gcm16-prfsha256-curve25519"],
                "unique": "replace",
                "local": {"auth": "pubkey", "id": "vpn.kyoten", "certs": [self.credentials["gateway"]]},
                "remote": {"auth": "pubkey", "id": "%any", "cacerts": [self.credentials["root"]]},
                "children": {
                    "site": {
                        "local_ts": ["10.0.0.0/8"],
                        "remote_ts": ["0.0.0.0/0"],
                        "esp_proposals": ["aes256gcm16-curve25519", "aes256gcm16"],
                    }
                },
            },
        )
        charon.close()

    def requests(self) -> list[Path]:
        """The requests for certificates that came in, in their order."""
        return sorted((self.cloud / "requests").glob("*.pem"), key=lambda path: int(path.stem))

    def issue(self, request: Path, *, overlay: str = str(OVERLAY), now: datetime | None = None) -> x509.Certificate:
        """Answer a request: a certificate and bundle.json for this overlay."""
        csr = x509.load_pem_x509_csr(request.read_bytes())
        assert self.tenant is not None
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        leaf = Leaf(SITE, (SITE,), (authority.CLIENT_AUTH, authority.IPSEC_IKE), blocks=(ip_network(overlay),))
        made = authority.make_leaf(
            self.tenant, leaf, key=key, now=now or datetime.now(UTC), serial=secrets.randbits(100)
        )
        files = {
            "site.crt": _pem(made).decode(),
            "tenant-authority.crt": self.credentials["tenant"],
            "bundle.json": json.dumps(dict(bundle.document(_description(self.lan, ip_network(overlay))))),
        }
        fresh = request.with_suffix(".new")
        fresh.write_text(json.dumps({"format": 1, "files": files}))
        fresh.rename(request.with_suffix(".json"))
        return made

    def kill_gateway(self) -> None:
        """SIGKILL: no farewell to anyone."""
        self.gateway.processes["charon"].kill()

    def start_cloud(self) -> None:
        script = Path(__file__).with_name("agent_endpoint.py")
        self.gateway.start("cloud", [sys.executable, str(script), str(self.cloud), str(PORT)])

    def start_agent(self, *more: str) -> Process:
        self.agent = self.router.start(
            "agent",
            [sys.executable, "-m", "router_agent.cli", "run", "--bundle", str(self.bundle), "--state", str(self.state),
             "--runtime", str(self.runtime), "--probe-s", "1", "--check-s", "1", *more],
        )  # fmt: skip
        return self.agent

    def answer(self, **parts: Any) -> None:
        """What the cloud answers from now on."""
        fresh = self.cloud / "answer.new"
        fresh.write_text(json.dumps({"protocol": 1, "heartbeat_s": 1, **parts}))
        fresh.rename(self.cloud / "answer.json")

    def heartbeats(self) -> list[dict[str, Any]]:
        try:
            lines = (self.cloud / "heartbeats.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def last(self) -> dict[str, Any]:
        found = self.heartbeats()
        return found[-1] if found else {}

    def wait_heartbeat(self, what: str, condition: Any, *, timeout_s: float = 20) -> dict[str, Any]:
        """Wait for a heartbeat written from now on of which the condition holds."""
        seen = len(self.heartbeats())
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [one for one in self.heartbeats()[seen:] if condition(one)]
            return bool(found)

        wait_until(what, look, timeout_s=timeout_s)
        return found[0]

    def status(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.runtime / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return document

    def log(self, identifier: str) -> str:
        return gzip.decompress((self.cloud / "logs" / f"{identifier}.gz").read_bytes()).decode()

    def ping(self, host: Host, target: str, *, source: str | None = None) -> bool:
        argv = ["ping", "-c", "1", "-W", "1", *(["-I", source] if source else []), target]
        return host.run(argv, check=False).status == 0

    def wait_carries(self, timeout_s: float = 20) -> float:
        """Until the router answers the gateway through the tunnel; seconds."""
        return wait_until(
            "the tunnel carries", lambda: self.ping(self.gateway, ROUTER, source=SERVICE), timeout_s=timeout_s
        )

    def charon_pid(self) -> int:
        return int((self.runtime / "charon.pid").read_text())

    def rules(self) -> str:
        return self.router.run(["iptables-legacy-save", "-t", "filter"]).stdout

    def close(self) -> None:
        self.network.close()


def _answers(charon: Charon) -> bool:
    try:
        return bool(charon.version())
    except CharonUnavailableError:
        return False


def build(name: str, *, lan: str = "192.168.1.0/24", aged: timedelta = NEW) -> AgentWorld:
    """Hosts, certificates, bundle; nothing runs yet. ``lan`` equal to the overlay: nothing is mapped. ``aged``: how old
    the site's certificate is."""
    network = Network(name)
    internet = network.add_host("internet", forwards=True)
    gateway = network.add_host("gateway", forwards=True)
    router = network.add_host("router")
    plc = network.add_host("plc")
    network.link(internet, "gw0", gateway, "wan0")
    network.link(internet, "site0", router, "wan0")
    network.link(router, "lan0", plc, "eth0")
    prefix = IPv4Network(lan)
    for host, interface, text in (
        (internet, "gw0", "203.0.113.1/24"),
        (gateway, "wan0", f"{GATEWAY}/24"),
        (gateway, "lo", f"{SERVICE}/32"),
        (internet, "site0", "198.51.100.1/24"),
        (router, "wan0", f"{WAN}/24"),
        (router, "lan0", f"{prefix[1]}/24"),
        (plc, "eth0", f"{prefix[20]}/24"),
    ):
        address(host, interface, text)
    default_route(gateway, "203.0.113.1")
    default_route(router, "198.51.100.1")
    default_route(plc, str(prefix[1]))
    cloud = network.directory / "cloud"
    (cloud / "logs").mkdir(parents=True)
    world = AgentWorld(
        network, gateway, router, plc, internet, cloud,
        bundle=router.directory / "bundle.tar", operator_key=network.directory / "operator", lan=prefix,
    )  # fmt: skip
    _credentials(world, aged)
    world.answer()
    return world


def _description(lan: IPv4Network, overlay: IPv4Network | IPv6Network) -> bundle.Description:
    return bundle.Description(
        site=SITE,
        tenant="acme",
        overlay=overlay,
        lan=lan,
        gateways=(GATEWAY,),
        gateway_identity="vpn.kyoten",
        service_address=ip_address(SERVICE),
        reachable=ip_network("10.0.0.0/8"),
        endpoints=(
            bundle.Endpoint(ip_address(SERVICE), PORT, True),
            bundle.Endpoint(ip_address(GATEWAY), PORT, False),
        ),
        endpoint_name="agent.kyoten",
        heartbeat_s=1,
    )


def _credentials(world: AgentWorld, aged: timedelta) -> None:
    now = datetime.now(UTC)

    def key() -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    def serial() -> int:
        return secrets.randbits(100)

    root_key = key()
    root = Authority("root", authority.make_root(root_key, now=now, serial=serial()), root_key)

    def below(name: str, block: str) -> Authority:
        own = key()
        made = authority.make_authority(
            root, name=name, block=ip_network(block), key=own.public_key(), now=now, serial=serial()
        )
        return Authority(name, made, own)

    def leaf(issuer: Authority, what: Leaf, aged: timedelta = NEW) -> tuple[bytes, bytes]:
        own = key()
        made = authority.make_leaf(issuer, what, key=own.public_key(), now=now - aged, serial=serial())
        return _pem(made), key_to_pem(own)

    cloud, tenant = below("cloud", "10.0.0.0/8"), below("tenant-acme", "10.10.0.0/16")
    everything = (ip_network("10.0.0.0/8"),)
    gateway = leaf(
        cloud, Leaf("gw1", ("gw1", "vpn.kyoten"), (authority.SERVER_AUTH, authority.IPSEC_IKE), blocks=everything)
    )
    endpoint = leaf(cloud, Leaf("agent.kyoten", ("agent.kyoten",), (authority.SERVER_AUTH,)))
    usages = (authority.CLIENT_AUTH, authority.IPSEC_IKE)
    site = leaf(tenant, Leaf(SITE, (SITE,), usages, blocks=(OVERLAY,)), aged)
    world.tenant = tenant
    device_id = secrets.token_hex(32)
    host_key, operator = ssh_keys.make_pair(SITE), ssh_keys.make_pair("operator")
    world.credentials = {
        "root": _pem(root.certificate).decode(),
        "cloud": _pem(cloud.certificate).decode(),
        "tenant": _pem(tenant.certificate).decode(),
        "gateway": gateway[0].decode(),
        "gateway.key": gateway[1].decode(),
    }
    (world.cloud / "endpoint.crt").write_bytes(endpoint[0] + _pem(cloud.certificate))
    (world.cloud / "endpoint.key").write_bytes(endpoint[1])
    (world.cloud / "tenants.crt").write_bytes(_pem(root.certificate))
    (world.cloud / "device_id").write_text(device_id)
    world.operator_key.touch(mode=0o600)
    world.operator_key.write_bytes(operator.private)
    description = _description(world.lan, OVERLAY)
    files = [
        ("site.key", site[1]),
        ("site.crt", site[0]),
        ("tenant-authority.crt", _pem(tenant.certificate)),
        ("cloud-authority.crt", _pem(cloud.certificate)),
        ("root.crt", _pem(root.certificate)),
        ("device_id", device_id.encode()),
        ("ssh_host_ed25519_key", host_key.private),
        ("ssh_host_ed25519_key.pub", host_key.public.encode()),
        ("authorized_keys", operator.public.encode()),
    ]
    world.bundle.write_bytes(bundle.pack(description, files, now=now))
