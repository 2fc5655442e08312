"""A flood of junk IKE_SA_INIT: do sites still get in, and how fast?

``python -m tests.bench.vpn_flood`` inside a lab box prints JSON; `run` is what the bench calls.

Junk is a complete, well-formed first message (RFC 7296 section 1.2) that nobody goes on with: the dearest packet that
a stranger can send. It comes from 65,536 forged addresses in turn (``forged``), or all from one (``one``); ``ikev1``
is the same for a gateway that has a class for old routers, where there are no cookies. Sender, gateway and sites share
this machine's cores, so what the flood costs them includes making it.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Literal

from cloudside.config import OldRouters, Vpn
from lab.network import Host
from linux.errors import LinuxError
from tests.bench.vpn_world import VpnWorld, build

Kind = Literal["forged", "one", "ikev1"]

#: Junk messages a second, and for how long, in seconds.
RATE_PER_S, FLOOD_S = 5000, 20.0
#: Sites that connect one after the other in each part, and how long each of them may take.
SITES, WAIT_S = 60, 15.0
#: Forged addresses lie in the part of the sites' public network that no site has.
_FORGED = IPv4Address("100.127.0.0")
_ONE = IPv4Address("100.126.0.1")
_IKE_PORT = 500


def junk(number: int, source: IPv4Address, target: IPv4Address) -> bytes:
    """An IPv4 packet with an IKE_SA_INIT: AES-GCM, Curve25519, and a public value and nonce that mean nothing."""

    def transform(more: int, kind: int, name: int, attributes: bytes = b"") -> bytes:
        return struct.pack("!BBHBBH", more, 0, 8 + len(attributes), kind, 0, name) + attributes

    transforms = (
        transform(3, 1, 20, struct.pack("!HH", 0x800E, 256))  # ENCR_AES_GCM_16, key length 256
        + transform(3, 2, 5)  # PRF_HMAC_SHA2_256
        + transform(0, 4, 31)  # Curve25519
    )
    proposal = struct.pack("!BBHBBBB", 0, 0, 8 + len(transforms), 1, 1, 0, 3) + transforms
    association = struct.pack("!BBH", 34, 0, 4 + len(proposal)) + proposal
    exchange = struct.pack("!BBHHH", 40, 0, 40, 31, 0) + os.urandom(32)
    nonce = struct.pack("!BBH", 0, 0, 36) + os.urandom(32)
    body = association + exchange + nonce
    # Initiator's SPI, no responder's; next payload SA, version 2.0, exchange 34, flag initiator, message 0.
    message = struct.pack("!QQBBBBII", number + 1, 0, 33, 0x20, 34, 0x08, 0, 28 + len(body)) + body
    return _packet(number, source, target, message)


def junk_ikev1(number: int, source: IPv4Address, target: IPv4Address) -> bytes:
    """The first message of IKEv1's main mode (RFC 2409 section 5): AES-256, SHA-256, ECDSA, group 14."""
    attributes = ((1, 7), (14, 256), (2, 4), (3, 9), (4, 14), (11, 1), (12, 3600))
    written = b"".join(struct.pack("!HH", 0x8000 | kind, value) for kind, value in attributes)
    transform = struct.pack("!BBHBBH", 0, 0, 8 + len(written), 1, 1, 0) + written
    proposal = struct.pack("!BBHBBBB", 0, 0, 8 + len(transform), 1, 1, 0, 1) + transform
    body = struct.pack("!BBHII", 0, 0, 12 + len(proposal), 1, 1) + proposal
    message = struct.pack("!QQBBBBII", number + 1, 0, 1, 0x10, 2, 0, 0, 28 + len(body)) + body
    return _packet(number, source, target, message)


def _packet(number: int, source: IPv4Address, target: IPv4Address, message: bytes) -> bytes:
    datagram = struct.pack("!HHHH", 1024 + number % 60000, _IKE_PORT, 8 + len(message), 0) + message
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP, 0)
    return header + source.packed + target.packed + datagram


def send(kind: Kind, target: IPv4Address, rate_per_s: int, seconds: float) -> dict[str, float]:
    """Send junk at that rate; what was reached."""
    sources = [_ONE] if kind == "one" else [_FORGED + number for number in range(65536)]
    # Made before: making a packet takes longer than sending it. Sent in turn; the SPI tells charon they are new.
    make = junk_ikev1 if kind == "ikev1" else junk
    packets = [make(number, sources[number % len(sources)], target) for number in range(65536)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    where = (str(target), 0)
    began, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        while sent < elapsed * rate_per_s:
            sender.sendto(packets[sent % len(packets)], where)
            sent += 1
        time.sleep(0.002)
    sender.close()
    return {"sent": sent, "per_s": round(sent / (time.perf_counter() - began), 1)}


@dataclass(frozen=True, slots=True)
class Part:
    """Set-ups while something went on. ``took_ms`` in order of set-up; ``failed`` took longer than `WAIT_S`."""

    took_ms: tuple[float, ...]
    failed: int
    charon_cpu: float

    def figures(self, name: str) -> dict[str, float]:
        """As the bench's figures."""
        ordered = sorted(self.took_ms) or [float("inf")]
        return {
            f"setup_{name}_p50_ms": round(median(ordered), 1),
            f"setup_{name}_p95_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 1),
            f"setup_{name}_max_ms": round(ordered[-1], 1),
            f"setup_{name}_n": len(self.took_ms),
            f"setup_{name}_failed": self.failed,
            f"charon_{name}_cores": round(self.charon_cpu, 2),
        }


def run(*, rate_per_s: int = RATE_PER_S, seconds: float = FLOOD_S, sites: int = SITES) -> dict[str, float]:
    """Measure in quiet and under each kind of junk. Needs a lab box."""
    world = build("vf", registered=4 * sites, connecting=4 * sites)
    inner = world.kyoten.world
    inner.config = inner.config.model_copy(update={"vpn": Vpn(old_routers=OldRouters())})
    figures: dict[str, float] = {}
    try:
        world.kyoten.start()
        world.fleet.start(world.kyoten.public)
        names = [site.name for site in world.fleet.sites]
        parts: tuple[tuple[str, Kind | None], ...] = (
            ("quiet", None), ("forged", "forged"), ("one", "one"), ("ikev1", "ikev1"),
        )  # fmt: skip
        for at, (name, kind) in enumerate(parts):
            mine = names[at * sites : (at + 1) * sites]
            sender = _start(world.fleet.host, kind, world.kyoten.public, rate_per_s, seconds) if kind else None
            part = _connect(world, mine, seconds)
            figures |= part.figures(name)
            if sender is not None:
                tracked = world.kyoten.host.run(["conntrack", "-C"], check=False).stdout.strip()
                figures[f"flood_{name}_conntrack"] = float(tracked or "nan")
                figures[f"flood_{name}_per_s"] = json.loads(sender.communicate(timeout=90)[0])["per_s"]
        # All of those that got in are still there: the flood cost no tunnel.
        figures["tunnels_lost"] = sum(int(figures[f"setup_{name}_n"]) for name, _ in parts) - len(world.kyoten.ids())
    finally:
        world.close()
    return figures


def _start(host: Host, kind: Kind, target: IPv4Address, rate_per_s: int, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.bench.vpn_flood", "send", kind, str(target), str(rate_per_s), str(seconds)]
    sender = subprocess.Popen(["ip", "netns", "exec", host.namespace, *argv], stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    sender.stdout.readline()  # its packets are made
    time.sleep(1.0)  # half-open SAs have reached their threshold
    return sender


def _connect(world: VpnWorld, names: list[str], seconds: float) -> Part:
    """One site after the other for as long as the flood goes on."""
    pid = world.kyoten.world.charon_pid()
    began, used = time.perf_counter(), _used_s(pid)
    took: list[float] = []
    failed = 0
    pace_s = (seconds - 3.0) / len(names)
    for at, name in enumerate(names):
        time.sleep(max(0.0, began + at * pace_s - time.perf_counter()))
        if time.perf_counter() - began > seconds - 2.0:
            break  # the flood is about to end: what comes now is no measurement
        try:
            took.append(1000 * world.fleet.connect(name, wait_s=WAIT_S))
        except LinuxError:
            failed += 1
    return Part(tuple(took), failed, (_used_s(pid) - used) / (time.perf_counter() - began))


def _used_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main(words: list[str]) -> None:
    """``send KIND TARGET RATE SECONDS``, or nothing: measure."""
    if words[:1] == ["send"]:
        kind: Kind = "one" if words[1] == "one" else "ikev1" if words[1] == "ikev1" else "forged"
        found = send(kind, IPv4Address(words[2]), int(words[3]), float(words[4]))
    else:
        found = run()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
