"""A router on a bad mobile line, and a cloud with a payload behind it: slow, lossy, cut off, with ever new addresses.

    cloud ---- carrier ==== router      ==== is shaped: 384 kbit/s down, 64 up, 300 ms of queue, loss both ways

What crosses the line towards the router is counted by the kernel at the router's end, after the losses: what arrived is
what a customer pays for.
"""

import datetime
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firmware import chunks
from firmware.release import CHUNK_BYTES, File
from lab.network import Host, Network, Process, address, default_route, wait_until

CLOUD, PORT = "203.0.113.2", 8443
DOWN_KBIT, UP_KBIT = 384, 64
LOSS = 0.01
#: Of IP and TCP with time stamps, in octets: not what anybody asked for, so not counted as fetched.
_HEADERS_BYTES = 20 + 32
_PEM = serialization.Encoding.PEM


class BadLine:
    """The world. ``content``: the payload."""

    def __init__(self, name: str, content: bytes, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.network = Network(name)
        self.content = content
        place = self.network.directory
        self.papers, self.published, self.state = place / "papers", place / "published", place / "state"
        for directory in (self.papers, self.published / "payload", self.state):
            directory.mkdir(parents=True)
        make_papers(self.papers)
        (place / "payload").write_bytes(content)
        self.file: File = chunks.describe(place / "payload", suffix=".zst", chunk_bytes=chunk_bytes)
        (place / "payload").rename(self.published / "payload" / self.file.name)
        self.cloud, self.carrier, self.router = self._hosts()
        self._addresses = 10
        self.new_address()
        self.serve()
        self.router.run([
            "iptables-legacy", "-A", "INPUT", "-p", "tcp", "--sport", str(PORT), "-m", "comment", "--comment", "came",
        ])  # fmt: skip

    def serve(self) -> None:
        """Start the cloud's endpoint."""
        argv = [sys.executable, "-m", "lab.payload_server", str(self.published), str(self.papers), str(PORT)]
        server = self.cloud.start("server", argv)
        wait_until("the cloud", lambda: "listens" in server.log.read_text(), timeout_s=30)

    def shape(self, *, down_kbit: float = DOWN_KBIT, up_kbit: float = UP_KBIT, loss: float = LOSS) -> None:
        """Make the line bad. (It is a good one until then.)"""
        slow(self.carrier, "air", down_kbit)
        slow(self.router, "wwan0", up_kbit)
        self.carrier.run(["iptables-legacy", "-F", "FORWARD"])
        lose(self.carrier, loss)

    def drop(self) -> None:
        """The line is gone, and nobody is told."""
        self.carrier.ip("link", "set", "air", "down")

    def new_address(self) -> None:
        """The line is there, with another address."""
        self._addresses += 1
        self.carrier.ip("link", "set", "air", "up")
        self.router.ip("addr", "flush", "dev", "wwan0")
        address(self.router, "wwan0", f"100.64.0.{self._addresses}/24")
        default_route(self.router, "100.64.0.1")

    def start(self, *, silence_s: float = 15.0, rate_bytes_s: float = 0, receive_buffer_bytes: int = 0) -> Process:
        """A fetcher; what it said before is kept in its log."""
        request = {
            "file": asdict(self.file),
            "directory": str(self.state),
            "papers": str(self.papers),
            "endpoints": [[CLOUD, PORT]],
            "silence_s": silence_s,
            "rate_bytes_s": rate_bytes_s,
            "receive_buffer_bytes": receive_buffer_bytes,
        }
        path = self.network.directory / "request.json"
        path.write_text(json.dumps(request))
        return self.router.start("fetcher", [sys.executable, "-m", "lab.payload_fetcher", str(path)])

    def said(self) -> list[dict[str, object]]:
        """What fetchers said, the last line of a killed one left out if it is torn."""
        log = self.network.directory / "router" / "fetcher.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line) for line in lines if re.fullmatch(r"\{.*\}", line)]

    def done_bytes(self) -> int:
        """How far the last fetcher says it is."""
        return next((int(str(one["done"])) for one in reversed(self.said()) if "done" in one), 0)

    def came_bytes(self) -> int:
        """TCP's octets that arrived at the router from the cloud: payload, TLS, HTTP and all that came twice."""
        listed = self.router.run(["iptables-legacy", "-nvxL", "INPUT"]).stdout
        packets, octets = next(line.split()[:2] for line in listed.splitlines() if "came" in line)
        return int(octets) - int(packets) * _HEADERS_BYTES

    def fetched(self) -> bytes:
        """The payload on the router's disk."""
        return (self.state / "payload" / self.file.name).read_bytes()

    def excess_pct(self) -> float:
        """What came beyond the payload itself, per cent of it."""
        return 100.0 * (self.came_bytes() / len(self.content) - 1)

    def close(self) -> None:
        """End it."""
        self.network.close()

    def _hosts(self) -> tuple[Host, Host, Host]:
        network = self.network
        cloud, carrier, router = (
            network.add_host("cloud"),
            network.add_host("carrier", forwards=True),
            network.add_host("router"),
        )
        network.link(cloud, "wan0", carrier, "core")
        network.link(carrier, "air", router, "wwan0")
        for host, interface in ((carrier, "air"), (carrier, "core"), (router, "wwan0"), (cloud, "wan0")):
            send_packets(host, interface)
        address(cloud, "wan0", f"{CLOUD}/24")
        address(carrier, "core", "203.0.113.1/24")
        address(carrier, "air", "100.64.0.1/24")
        default_route(cloud, "203.0.113.1")
        return cloud, carrier, router


def send_packets(host: Host, interface: str) -> None:
    """Packets as long as on a real line, so that losses hit packets and not bursts of 64 kB."""
    host.run(["ethtool", "-K", interface, "tso", "off", "gso", "off", "gro", "off"], check=False)


def slow(host: Host, interface: str, kbit: float) -> None:
    """So much leaves by the interface, with 300 ms of queue before it."""
    rate = ["rate", f"{kbit:g}kbit", "burst", "3200", "latency", "300ms"]
    host.run(["tc", "qdisc", "replace", "dev", interface, "root", "tbf", *rate])


def lose(host: Host, share: float, *which: str) -> None:
    """Of what is forwarded, or of what iptables' words say of it, this share is lost, whatever other rules say."""
    chance = ["-m", "statistic", "--mode", "random", "--probability", f"{share}"]
    host.run(["iptables-legacy", "-I", "FORWARD", *which, *chance, "-j", "DROP"])


def make_papers(place: Path) -> None:
    """An authority, the cloud's certificate and a router's, each with its key."""
    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "cloud", "router")}
    names = {"authority": "lab", "cloud": "agent.kyoten", "router": "tokyo-1"}
    for name, key in keys.items():
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[name])]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names["authority"])]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(names[name])]), critical=False)
        )
        made = builder.sign(keys["authority"], hashes.SHA256())
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (place / f"{name}.pem").write_bytes(made.public_bytes(_PEM) + (private if name != "authority" else b""))
