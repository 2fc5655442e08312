"""Do the LAN's essential devices answer? Asked by ICMP echo and TCP, and the kernel is asked whom it has heard.

Any answer counts: an echo, an accepted or refused connection, an ARP answer that the question brought about. So a
device that has a firewall of its own answers, too, while it is there.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from linux.errors import LinuxError
from linux.neighbours import neighbours
from router_agent.bundle import Address
from router_agent.link.echo import LineProbe, Target

_log = logging.getLogger(__name__)

#: Seconds between questions; without an answer for so long a device is silent; until `silent` means something.
ASK_S = 5.0
SILENT_S = 60.0
KNOWN_S = 20.0

#: For one TCP connect, in seconds.
_CONNECT_S = 3.0

#: What controllers listen to: HTTP, HTTPS, Modbus/TCP, SSH.
PORTS = (80, 443, 502, 22)


def heard_on(interface: str) -> Mapping[Address, float]:
    """Whom the kernel has heard on the interface: seconds since."""
    try:
        return {found.address: found.heard_s for found in neighbours(interface)}
    except LinuxError as error:
        _log.debug("neighbours: %s", error)
        return {}


class EssentialDevices:
    """Those of the setting ``lan.essential``. Nothing is asked while nobody wants to know."""

    def __init__(
        self,
        interface: str,
        *,
        probe: LineProbe | None = None,
        heard: Callable[[str], Mapping[Address, float]] = heard_on,
    ) -> None:
        self._interface = interface
        self._probe = probe or LineProbe(interface)
        self._heard = heard
        self._addresses: tuple[IPv4Address, ...] = ()
        self._answered: dict[Address, float] = {}
        self._since: float | None = None
        self._ask_at = 0.0

    def configure(self, addresses: Iterable[IPv4Address]) -> None:
        """Ask these from now on."""
        wanted = tuple(addresses)
        if wanted != self._addresses:
            self._addresses = wanted
            self.rest()

    def step(self, now: float) -> None:
        """Ask them when it is time, and take in what they say."""
        if self._since is None:
            self._since = now
        for answer in self._probe.answers(now, wait_s=_CONNECT_S):
            self._answered[answer.address] = now
        if now < self._ask_at or not self._addresses:
            return
        self._ask_at = now + ASK_S
        heard = self._heard(self._interface)
        for address in self._addresses:
            # A device that is asked is heard within seconds. What was heard long ago is no answer to that.
            if heard.get(address, SILENT_S) < ASK_S and now - self._since > ASK_S:
                self._answered[address] = now
            quiet = now - self._answered.get(address, float("-inf")) > ASK_S
            self._probe.ask(Target(address, PORTS), now=now, connect=quiet)

    def rest(self) -> None:
        """Nobody wants to know for now."""
        if self._since is not None:
            self._probe.close()
        self._since = None
        self._answered.clear()

    def silent(self, now: float) -> frozenset[str]:
        """Those that have not answered for a minute, or not yet."""
        return frozenset(
            str(address) for address in self._addresses if now - self._answered.get(address, float("-inf")) > SILENT_S
        )

    def all_silent(self, now: float) -> bool:
        """Whether there are some, and none of them answers."""
        return bool(self._addresses) and len(self.silent(now)) == len(self._addresses)

    def known(self, now: float) -> bool:
        """Whether they have been asked long enough for `silent` to mean something."""
        return self._since is not None and now - self._since >= KNOWN_S
