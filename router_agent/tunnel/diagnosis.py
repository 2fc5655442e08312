"""Why there is no tunnel, in the report's words: from charon's log, and by asking the gateway itself."""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from router_agent.bundle import Address
from router_agent.problems import Problem
from router_agent.tunnel.causes import LogEnd, cause
from router_agent.tunnel.ike_ping import IkePing
from router_agent.tunnel.ike_ping import Path as Way
from router_agent.tunnel.machine import Event

#: Causes of a missing tunnel; {gateway} fills them.
CAUSES = {
    Event.NO_ANSWER: "agent.tunnel-no-answer",
    Event.REFUSED: "agent.tunnel-refused",
    Event.LOST: "agent.tunnel-lost",
    Event.SILENT: "agent.tunnel-silent",
    Event.STRANDED: "agent.tunnel-lost",
}


class Diagnosis:
    """What is known of the last failure. ``log``: charon's."""

    def __init__(self, log: Path) -> None:
        self._log = LogEnd(log)
        self._why: str | None = None
        self._way: Way | None = None
        self._interface = ""
        self._ping = IkePing()

    def attempt(self) -> None:
        """An attempt begins."""
        self._log.mark()

    def failed(self, event: Event, gateway: str, interface: str, now: float) -> None:
        """An attempt has ended without a tunnel; ``gateway`` is an address, ``interface`` the line's."""
        self._why, self._interface = cause(self._log.lines()), interface
        if self._why is None and event is Event.NO_ANSWER:
            self._ping.begin(ip_address(gateway), interface, now)

    def step(self, now: float) -> None:
        """Take in what the gateway answers."""
        self._way = self._ping.step(now) or self._way

    def forget(self) -> None:
        """There is a tunnel, or it was lost for another reason."""
        self._why = self._way = None
        self._ping.cancel()

    def problem(self, event: Event, gateway: str, heard: Callable[[Address], bool]) -> Problem:
        """``heard``: whether this gateway's machine has answered anything but IKE lately."""
        params = {"gateway": gateway}
        if event in (Event.NO_ANSWER, Event.REFUSED) and self._why is not None:
            return Problem(self._why, params)
        if event is Event.NO_ANSWER and self._way is Way.REFUSED:
            return Problem("agent.ike-down", params)
        if event is Event.NO_ANSWER and self._way is Way.SILENT and heard(ip_address(gateway)):
            return Problem("agent.udp-blocked", {**params, "interface": self._interface})
        return Problem(CAUSES[event], params)
