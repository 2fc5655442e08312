"""The agent's world with two lines and a second gateway.

plc -- lan0 router wan0  -- 198.51.100.0/24 (wired)  -- internet -- gateway
                   wwan0 -- 192.0.2.0/24    (mobile) --          -- second (another gateway, the same cloud)
"""

import itertools
import re
import subprocess
import time
from dataclasses import dataclass, replace

from agent_world import GATEWAY, ROUTER, SERVICE, AgentWorld, build

from lab.network import Host, address, default_route, wait_until

MOBILE = "192.0.2.11"
SECOND = "203.0.113.130"

_REPLY = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from .* icmp_seq=(\d+)", re.MULTILINE)


@dataclass(slots=True)
class UplinkWorld:
    """The world and what is done to its lines."""

    world: AgentWorld
    second: Host

    def silence(self, line: str) -> None:
        """The provider's box is up, and what is behind it is not: nothing passes either way, nothing is told."""
        for chain, way in (("INPUT", "-i"), ("FORWARD", "-i"), ("FORWARD", "-o"), ("OUTPUT", "-o")):
            self.world.internet.run(["iptables-legacy", "-I", chain, way, _PORTS[line], "-j", "DROP"])

    def mend(self, line: str) -> None:
        """The line passes packets again."""
        for chain, way in (("INPUT", "-i"), ("FORWARD", "-i"), ("FORWARD", "-o"), ("OUTPUT", "-o")):
            self.world.internet.run(["iptables-legacy", "-D", chain, way, _PORTS[line], "-j", "DROP"])

    def unplug(self, line: str) -> None:
        """The carrier goes."""
        self.world.internet.ip("link", "set", _PORTS[line], "down")

    def plug(self, line: str) -> None:
        """The carrier comes back."""
        self.world.internet.ip("link", "set", _PORTS[line], "up")

    def block_udp(self) -> None:
        """Carriers' NATs that know the web only: no UDP in or out."""
        self.world.internet.run(["iptables-legacy", "-I", "FORWARD", "-p", "udp", "-j", "DROP"])

    def pass_udp(self) -> None:
        self.world.internet.run(["iptables-legacy", "-D", "FORWARD", "-p", "udp", "-j", "DROP"])

    def start_second(self) -> None:
        other = replace(self.world, gateway=self.second)
        other.start_gateway()
        other.start_cloud()

    def uplinks(self) -> dict[str, dict[str, object]]:
        return {line["interface"]: line for line in self.world.status().get("uplinks", [])}

    def in_use(self) -> str:
        return str(self.world.status().get("uplink", {}).get("interface", ""))

    def wait_line(self, interface: str, timeout_s: float = 30) -> float:
        return wait_until(f"{interface} in use", lambda: self.in_use() == interface, timeout_s=timeout_s)

    def agent_log(self) -> str:
        return (self.world.state / "agent.log").read_text()

    def count(self, what: str) -> int:
        """How often the agent's log says this."""
        return len(re.findall(what, self.agent_log()))


_PORTS = {"wan0": "site0", "wwan0": "site1"}


def build_uplinks(name: str) -> UplinkWorld:
    """All hosts; gateway and cloud run, the agent does not."""
    world = build(name)
    second = world.network.add_host("second", forwards=True)
    world.network.link(world.internet, "site1", world.router, "wwan0")
    world.network.link(world.internet, "gw1", second, "wan0")
    for host, interface, text in (
        (world.internet, "site1", "192.0.2.1/24"),
        (world.router, "wwan0", f"{MOBILE}/24"),
        (world.internet, "gw1", "203.0.113.129/25"),
        (second, "wan0", f"{SECOND}/25"),
        (second, "lo", f"{SERVICE}/32"),
    ):
        address(host, interface, text)
    default_route(second, "203.0.113.129")
    default_route(world.router, "192.0.2.1", metric=700)
    world.start_gateway()
    world.start_cloud()
    return UplinkWorld(world, second)


class Pinger:
    """Pings the router's overlay address from the gateway, twenty times a second, and finds the gaps."""

    def __init__(self, host: Host) -> None:
        argv = ["ping", "-D", "-n", "-i", "0.05", "-W", "1", "-I", SERVICE, ROUTER]
        self._popen = subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def end(self) -> list[float]:
        """Stop; the times of the answers, seconds since the epoch."""
        time.sleep(0.2)
        self._popen.terminate()
        output, _ = self._popen.communicate(timeout=5)
        return [float(at) for at, _ in _REPLY.findall(output)]


def outage_s(answers: list[float], broken_at: float) -> float:
    """From the moment the line broke to the first answer after the gap; the whole time when none came."""
    after = [at for at in answers if at > broken_at]
    gaps = [(second - first, second) for first, second in itertools.pairwise(answers) if second > broken_at]
    longest = max(gaps, default=(0.0, 0.0))
    if not after:
        return float("inf")
    return longest[1] - broken_at if longest[0] > 0.2 else 0.0


__all__ = ["GATEWAY", "MOBILE", "SECOND", "Pinger", "UplinkWorld", "build_uplinks", "outage_s"]
