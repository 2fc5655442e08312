"""The lab's small world on a kernel that does ESP: the gateway's daemon, two routers with agents. For tests inside.

Two sites with the same LAN, one of them behind a NAT. The registry and the bundles were made before (see prepared.py).
Imports are kept few on purpose: emulated, each costs seconds.
"""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import ground, topology
from lab.ground import Ground
from lab.network import Host, LabError, Network, wait_until

BINARIES = Path(sys.executable).parent
SITES = tuple(site.name for site in topology.SMALL.sites)
WEB = "10.255.0.10"

#: Generous: the machine is emulated, and the host's cores may be busy.
UP_S = 420.0
ANSWER_S = 15
#: For what must not get through. A wrong answer would have come by then: the others take well under a second.
SILENCE_S = 3


@dataclass(frozen=True, slots=True)
class EspWorld:
    """What tests ask and do."""

    ground: Ground

    @property
    def gateway(self) -> Host:
        return self.ground.gateway

    def router(self, site: str) -> Host:
        return self.ground.sites[site].router

    def plc(self, site: str) -> Host:
        return self.ground.sites[site].controllers["plc"]

    def log(self, host: Host, name: str) -> str:
        return host.processes[name].log.read_text()


def build(prepared: Path) -> EspWorld:
    """Lay the ground and start everything; returns when both sites reach the cloud server."""
    directory = Path("/var/tmp/kyoten-world")
    directory.mkdir()
    network = Network("w", directory)
    # The gateway's daemon takes longest to start: it does so while the sites' hosts are still being made.
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(_start_gateway, network, prepared)
        world = EspWorld(ground.build(topology.SMALL, network))
        started.result()
    for host in (world.ground.servers["web"], *(world.plc(site) for site in SITES)):
        answer_on_80(host)
    # Agents that find no gateway yet take its processor time and then wait longer and longer.
    wait_until("the rule set", lambda: '"rule-set"' in world.log(world.gateway, "gateway"), timeout_s=UP_S, every_s=1)
    for site in SITES:
        router = world.router(site)
        bundle = shutil.copy(prepared / f"{site}.bundle", router.directory / "bundle")
        router.start("agent", [
            str(BINARIES / "kyoten-agent"), "run", "--bundle", str(bundle),
            "--state", str(router.directory / "state"), "--runtime", str(router.directory / "run"),
            "--probe-s", "20", "--check-s", "20",
        ])  # fmt: skip
    try:
        wait_until("both sites' tunnels", lambda: tunnels(world) >= len(SITES), timeout_s=UP_S, every_s=1)
        for site in SITES:
            what = f"the route to {site}"
            wait_until(what, lambda: routed(world, site), timeout_s=UP_S, every_s=1)  # noqa: B023 - ends before
    except LabError as error:
        raise LabError(f"{error}\n{state(world)}") from None
    return world


def _start_gateway(network: Network, prepared: Path) -> None:
    # ground.build makes the mail hosts after the cloud's.
    wait_until("the cloud's hosts", lambda: "ses" in network.hosts, timeout_s=UP_S)
    argv = [str(BINARIES / "kyoten"), "--config", str(prepared / "kyoten.toml"), "gateway"]
    network.hosts["gateway"].start("gateway", argv)


def tunnels(world: EspWorld) -> int:
    """ESP SAs of the gateway by which packets come in."""
    shown = world.gateway.run(["ip", "xfrm", "state", "list", "dst", str(topology.GATEWAY_PUBLIC)], check=False).stdout
    return shown.count("proto esp")


def routed(world: EspWorld, site: str) -> bool:
    """Whether the gateway sends this site's packets into the tunnel."""
    prefix = world.ground.sites[site].plan.overlay
    return f"{prefix} dev ipsec0" in world.gateway.run(["ip", "route", "show", "table", "219"], check=False).stdout


def answer_on_80(host: Host) -> None:
    """Accept connections to TCP port 80, one after the other, and close them."""
    server = "import socket\ns=socket.create_server(('',80),backlog=64)\nwhile True: s.accept()[0].close()"
    host.start("answer", [sys.executable, "-S", "-c", server])


def reaches(source: Host, address: str, port: int = 80, *, wait_s: int = ANSWER_S) -> bool:
    """Whether a TCP connection is made."""
    argv = ["timeout", str(wait_s), "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    return source.run(argv, check=False, timeout_s=wait_s + 60).status == 0


def pings(source: Host, address: str, *, own: str | None = None, wait_s: int = ANSWER_S) -> bool:
    """Whether one of two pings is answered."""
    argv = ["ping", "-q", "-c", "2", "-i", "0.5", "-W", str(wait_s), *(["-I", own] if own else []), address]
    return source.run(argv, check=False, timeout_s=wait_s + 60).status == 0


def watch(host: Host, chain: str, rule: str) -> None:
    """Count packets without doing anything about them."""
    host.run(["iptables-legacy", "-t", "mangle", "-A", chain, *rule.split()])


def counted(host: Host, chain: str, rule: str) -> int:
    """How many packets `watch` has counted."""
    shown = host.run(["iptables-legacy-save", "-c", "-t", "mangle"]).stdout
    line = next(line for line in shown.splitlines() if line.endswith(f"-A {chain} {rule}"))
    return int(line[1:].partition(":")[0])


def state(world: EspWorld) -> str:
    """Everything that tells why the world did not come up."""
    parts = []
    for host in (world.gateway, *(world.router(site) for site in SITES)):
        for argv in (["ip", "-d", "link"], ["ip", "xfrm", "state"], ["ip", "xfrm", "policy"], ["ip", "rule"],
                     ["ip", "route", "show", "table", "all"], ["iptables-legacy-save", "-c"]):  # fmt: skip
            parts.append(f"--- {host.name}: {' '.join(argv)}\n{host.run(argv, check=False).stdout}")
        parts += [f"--- {path}\n{path.read_text(errors='replace')[-4000:]}" for path in host.directory.rglob("*.log")]
    parts += [f"--- {path}\n{path.read_text(errors='replace')[-4000:]}" for path in Path("/run/kyoten").rglob("*.log")]
    return "\n".join(parts)
