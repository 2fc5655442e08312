"""Holds charon against the tunnel's states, once a tick: looks, asks the machine, does what it says.

A charon that runs already is adopted with its tunnel. One that died is started again; one that hangs is ended first.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from linux.charon import Charon, IkeSa
from linux.charon_process import CharonProcess
from linux.dataplane import Dataplane
from linux.errors import CharonRefusedError, CharonUnavailableError, LinuxError
from router_agent.errors import StateError
from router_agent.identity import Identity
from router_agent.link.uplinks import Uplink, UplinkKind
from router_agent.problems import Problem
from router_agent.tunnel import connection, machine
from router_agent.tunnel.machine import Actions, Event, Phase, Seen, Timing
from router_agent.tunnel.probe import Probe

_log = logging.getLogger(__name__)

#: A charon that does not answer vici for this many seconds is ended and started again.
HUNG_S = 15.0

#: Seconds before the next try to start a charon that did not start.
START_AGAIN_S = 5.0

_ALIVE_CHILD = frozenset({"INSTALLED", "REKEYING", "REKEYED"})

#: Causes of a missing tunnel in the report's words; {gateway} fills them.
CAUSES = {
    Event.NO_ANSWER: "agent.tunnel-no-answer",
    Event.REFUSED: "agent.tunnel-refused",
    Event.LOST: "agent.tunnel-lost",
    Event.SILENT: "agent.tunnel-silent",
}


@dataclass(frozen=True, slots=True)
class TunnelView:
    """The tunnel as the rest of the agent sees it. ``proven_at``: monotonic time of the last answer through it."""

    up: bool
    gateway: str
    since: float
    suite: str
    proven_at: float | None


class TunnelDriver:
    """Drives one charon. ``probe_s`` overrides how often a healthy tunnel is probed, in seconds."""

    def __init__(
        self,
        process: CharonProcess,
        charon: Charon,
        identity: Identity,
        probe: Probe,
        *,
        dataplane: Dataplane = Dataplane.USERLAND,
        probe_s: float | None = None,
        roll: Callable[[], float] = random.random,
        now: float,
    ) -> None:
        self._process = process
        self._charon = charon
        self._identity = identity
        self._probe = probe
        self._dataplane = dataplane
        self._probe_s = probe_s
        self._roll = roll
        self._gateways: tuple[str, ...] = identity.enrolment.gateways
        self._dpd_s = connection.DEFAULT_DPD_S
        self._state = machine.start(now)
        self._suite = ""
        self._ready = False
        self._loaded_gateway: str | None = None
        self._answered_at = now
        self._start_at = now
        self._trouble: Problem | None = None
        self._line = True
        self._configured = False

    def configure(self, gateways: tuple[str, ...], dpd_s: float, *, now: float) -> bool:
        """Use these settings; True when that starts the tunnel over. The first call never does: a tunnel that is there
        already was made with them."""
        if (gateways, dpd_s) == (self._gateways, self._dpd_s):
            self._configured = True
            return False
        self._gateways, self._dpd_s = gateways, dpd_s
        if not self._configured:
            self._configured = True
            return False
        self._loaded_gateway = None
        self._probe.cancel()
        self._state, actions = machine.restarted(self._state, now)
        self._guarded(lambda: self._act(actions, now, machine.WIRED_TIMING), now)
        return True

    def step(self, now: float, uplink: Uplink) -> None:
        """One look and what follows from it. Raises nothing of charon's: trouble becomes a problem."""
        self._line = uplink.kind is not UplinkKind.NONE
        self._guarded(lambda: self._step(now, uplink), now)

    def view(self) -> TunnelView:
        """Where the tunnel is."""
        up = self._state.phase is Phase.UP
        gateway = self._gateways[self._state.gateway % len(self._gateways)]
        return TunnelView(up, gateway, self._state.since, self._suite if up else "", self._state.proven_at)

    def problems(self) -> tuple[Problem, ...]:
        """Why there is no tunnel, or what is wrong with it."""
        if self._trouble is not None:
            return (self._trouble,)
        if not self._line:
            return (Problem("agent.no-uplink"),)
        if self._state.cause is not None and self._state.phase is not Phase.UP:
            gateway = self._gateways[self._state.failed_gateway % len(self._gateways)]
            return (Problem(CAUSES[self._state.cause], {"gateway": gateway}),)
        if self._state.phase is Phase.UP and self._state.misses:
            return (Problem("agent.tunnel-silent", {"gateway": self.view().gateway}),)
        return ()

    def take_down(self) -> None:
        """End the tunnel, telling the gateway, and charon with it."""
        self._probe.cancel()
        self._charon.close()
        self._process.stop()

    def _guarded(self, work: Callable[[], None], now: float) -> None:
        try:
            work()
        except CharonUnavailableError as error:
            self._ready = False
            self._trouble = Problem("agent.charon-silent")
            if now - self._answered_at > HUNG_S and self._process.pid is not None:
                _log.warning("charon does not answer for %.0f s: ending it (%s)", now - self._answered_at, error)
                self._process.stop(timeout_s=1)
        except CharonRefusedError as error:
            self._trouble = Problem("agent.charon-refused", {"reason": str(error)[:200]})
            _log.warning("charon refused: %s", error)
        except (LinuxError, StateError, OSError) as error:
            self._trouble = Problem("agent.charon-down", {"reason": str(error)[:200]})
            self._start_at = now + START_AGAIN_S
            _log.error("charon cannot be run: %s", error)
        else:
            self._trouble = None
            self._answered_at = now

    def _step(self, now: float, uplink: Uplink) -> None:
        if self._process.pid is None:
            self._ready = False
            if now < self._start_at:
                return
        if not self._ready:
            self._prepare(now)
        if self._process.set_log_aside():
            self._charon.reopen_log()
        sas = self._charon.sas(connection=connection.CONNECTION)
        alive = next((sa for sa in sas if _carries(sa) and not self._foreign(sa)), None)
        timing = self._timing(uplink.kind)
        seen = Seen(alive is not None, bool(sas), self._probe.outcome(now))
        if alive is not None:
            self._suite = " ".join(dict.fromkeys((alive.suite, *(child.suite for child in alive.children))))
            if self._state.phase is Phase.IDLE and alive.remote_host in self._gateways:
                self._state = replace(self._state, gateway=self._gateways.index(alive.remote_host))
        before = self._state
        self._state, actions = machine.step(
            before, seen, now=now, roll=self._roll(), gateways=len(self._gateways), timing=timing, line=self._line
        )
        if self._state.phase is not before.phase:
            cause = f", because: {self._state.cause.value}" if self._state.cause else ""
            _log.info("tunnel is %s, gateway %s%s", self._state.phase.value, self.view().gateway, cause)
            if self._state.phase is not Phase.UP:
                self._probe.cancel()
        self._act(actions, now, timing)

    def _act(self, actions: Actions, now: float, timing: Timing) -> None:
        if actions.terminate and self._process.pid is not None:
            self._charon.terminate(connection=connection.CONNECTION, force=True)
        if actions.initiate:
            self._load_connection(self.view().gateway)
            self._charon.initiate(connection.CONNECTION, connection.CHILD)
        if actions.probe:
            self._probe.begin(now, timing.probe_wait_s)

    def _prepare(self, now: float) -> None:
        started = self._process.ensure()
        self._charon.close()
        for authority in ("root.crt", "cloud-authority.crt", "tenant-authority.crt"):
            self._charon.load_authority(self._identity.text(authority))
        self._charon.load_certificate(self._identity.text("site.crt"))
        self._charon.load_private_key(self._identity.text("site.key"))
        self._loaded_gateway = None
        self._ready = True
        _log.info("charon %s %s", self._charon.version(), "started" if started else "adopted")
        self._answered_at = now

    def _load_connection(self, gateway: str) -> None:
        if gateway == self._loaded_gateway:
            return
        self._charon.load_connection(
            connection.CONNECTION,
            connection.connection(
                self._identity.enrolment,
                gateway=gateway,
                dpd_s=self._dpd_s,
                site_certificate=self._identity.text("site.crt"),
                cloud_authority=self._identity.text("cloud-authority.crt"),
                dataplane=self._dataplane,
            ),
        )
        self._loaded_gateway = gateway

    def _foreign(self, sa: IkeSa) -> bool:
        """Whether a tunnel found at the start leads to none of our gateways: one of a trial that was interrupted."""
        return (
            self._state.phase is Phase.IDLE
            and sa.remote_host not in self._gateways
            and all(map(_is_address, self._gateways))
        )

    def _timing(self, kind: UplinkKind) -> Timing:
        timing = machine.MOBILE_TIMING if kind is UplinkKind.MOBILE else machine.WIRED_TIMING
        if self._probe_s is None:
            return timing
        # Who asks more often does not wait longer for an answer than until the next question.
        wait_s = min(timing.probe_wait_s, max(1.0, self._probe_s))
        return replace(timing, probe_s=self._probe_s, probe_wait_s=wait_s)


def _carries(sa: IkeSa) -> bool:
    return sa.state in ("ESTABLISHED", "REKEYING") and any(child.state in _ALIVE_CHILD for child in sa.children)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
