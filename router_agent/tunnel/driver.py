"""Holds charon against the tunnel's states, once a tick: looks, asks the machine, does what it says.

A tunnel to another gateway than the first goes back there politely: late, in no step with other routers, and only when
the first has answered IKE questions for a while.

A charon that runs already is adopted with its tunnel. One that died is started again; one that hangs is ended first.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from linux.charon import Charon, IkeSa
from linux.charon_process import CharonProcess
from linux.dataplane import Dataplane
from linux.errors import CharonRefusedError, CharonUnavailableError, LinuxError
from router_agent.bundle import Address
from router_agent.errors import StateError
from router_agent.identity import Identity
from router_agent.link.uplinks import Line, UplinkKind
from router_agent.problems import Problem
from router_agent.tunnel import connection, home, machine
from router_agent.tunnel.ahead import load_identity
from router_agent.tunnel.diagnosis import Diagnosis
from router_agent.tunnel.home import Home
from router_agent.tunnel.ike_ping import IkePing, Path
from router_agent.tunnel.machine import Actions, Event, Phase, Seen, Timing
from router_agent.tunnel.probe import Probe
from router_agent.tunnel.takeover import Takeover

_log = logging.getLogger(__name__)

#: A charon that does not answer vici for this many seconds is ended and started again.
HUNG_S = 15.0

#: Seconds before the next try to start a charon that did not start.
START_AGAIN_S = 5.0

_ALIVE_CHILD = frozenset({"INSTALLED", "REKEYING", "REKEYED"})


@dataclass(frozen=True, slots=True)
class TunnelView:
    """The tunnel as the rest of the agent sees it. ``proven_at``: monotonic time of the last answer through it.

    ``own``: the router's address at its outer side. ``moving``: it is on its way to another line.
    """

    up: bool
    gateway: str
    since: float
    suite: str
    proven_at: float | None
    own: str = ""
    moving: bool = False


class TunnelDriver:
    """Drives one charon. ``probe_s`` overrides how often a healthy tunnel is probed, in seconds.

    ``asked``: charon has been asked already for a tunnel to the first gateway (`ahead`).
    """

    def __init__(
        self,
        process: CharonProcess,
        charon: Charon,
        identity: Identity,
        probe: Probe,
        *,
        dataplane: Dataplane = Dataplane.USERLAND,
        probe_s: float | None = None,
        diagnosis: Diagnosis,
        asked: bool = False,
        home_s: float = home.HOME_S,
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
        self._names: tuple[str, ...] = identity.enrolment.gateways
        self._gateways: tuple[str, ...] = ()
        self._dpd_s = connection.DEFAULT_DPD_S
        self._state = machine.start(now)
        if asked:
            self._state = machine.asked(self._state, now)
            diagnosis.attempt()
        self._suite = ""
        self._ready = False
        self._loaded_gateway: str | None = None
        self._answered_at = now
        self._start_at = now
        self._trouble: Problem | None = None
        self._line = True
        self._configured = False
        self._takeover = Takeover()
        self._renewed = False
        self._reopen_log = False
        self._own = ""
        self._line_now: tuple[str, str] | None = None
        self._diagnosis = diagnosis
        self._ping = IkePing()
        self._home_s = home_s
        self._home = Home(home_s)
        self.set_ups = 0

    def configure(self, gateways: tuple[str, ...], dpd_s: float, *, now: float) -> bool:
        """Use these settings; True when that starts the tunnel over. The first call never does: a tunnel that is there
        already was made with them."""
        if (gateways, dpd_s) == (self._names, self._dpd_s):
            self._configured = True
            return False
        self._names, self._dpd_s = gateways, dpd_s
        if not self._configured:
            self._configured = True
            return False
        self._start_over(now)
        return True

    def step(self, now: float, line: Line | None, gateways: Sequence[Address], *, alive: bool) -> None:
        """One look and what follows from it. Raises nothing of charon's: trouble becomes a problem.

        ``gateways``: addresses of those configured, as far as they are known, the preferred one first. ``alive``:
        whether the line is known to carry something.
        """
        self._gateways = tuple(str(gateway) for gateway in gateways)
        self._line = line is not None and bool(self._gateways)
        if line is not None and (line.interface, str(line.address)) != self._line_now:
            self._changed_line(line, now, alive=alive)
        self._guarded(lambda: self._step(now, line), now)

    def view(self) -> TunnelView:
        """Where the tunnel is."""
        state = self._state
        up = state.phase is Phase.UP
        return TunnelView(
            up,
            self._gateway(state.gateway),
            state.since,
            self._suite if up else "",
            state.proven_at,
            self._own if up else "",
            moving=state.moving_at is not None or (state.cause is Event.STRANDED and not up),
        )

    def problems(self, *, heard: Callable[[Address], bool]) -> tuple[Problem, ...]:
        """Why there is no tunnel, or what is wrong with it. ``heard``: whether this gateway's machine has answered
        anything but IKE lately."""
        if self._trouble is not None:
            return (self._trouble,)
        if self._line_now is None:
            return (Problem("agent.no-uplink"),)
        if self._state.cause is not None and self._state.phase is not Phase.UP:
            return (self._diagnosis.problem(self._state.cause, self._gateway(self._state.failed_gateway), heard),)
        if self._state.phase is Phase.UP and self._state.misses:
            return (Problem("agent.tunnel-silent", {"gateway": self.view().gateway}),)
        return ()

    def _gateway(self, number: int) -> str:
        return self._gateways[number % len(self._gateways)] if self._gateways else next(iter(self._names), "")

    def _start_over(self, now: float, *, gateway: int = 0) -> None:
        self._loaded_gateway = None
        self._probe.cancel()
        self._state, actions = machine.restarted(self._state, now, gateway=gateway)
        self._guarded(lambda: self._act(actions, now, machine.WIRED_TIMING), now)

    def _changed_line(self, line: Line, now: float, *, alive: bool) -> None:
        first = self._line_now is None
        self._line_now = (line.interface, str(line.address))
        if first:
            return
        if self._state.phase is Phase.CONNECTING:
            # charon goes on sending over the line that it began with.
            _log.info("line changed while connecting: starting over")
            self._start_over(now, gateway=self._state.gateway)
        elif alive:
            self._state = machine.hurried(self._state, now)

    @property
    def renewed(self) -> bool:
        """Whether the tunnel that stands was made with the certificate installed now."""
        return self._renewed

    def use(self, identity: Identity, *, given_back: bool = False) -> None:
        """Another certificate is installed. New tunnels have it; one that stands gets a successor that takes over.
        ``given_back``: it is the one before again, which the tunnel that stands was made with."""
        self._identity = identity
        self._ready = False
        if given_back:
            self._takeover.give_up()
        else:
            self._takeover.begin()

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

    def _step(self, now: float, line: Line | None) -> None:
        if self._process.pid is None:
            self._ready = False
            if now < self._start_at:
                return
        if not self._ready:
            self._prepare(now)
        self._reopen_log = self._process.set_log_aside() or self._reopen_log
        if self._reopen_log:
            self._charon.reopen_log()
            self._reopen_log = False
        sas = self._charon.sas(connection=connection.CONNECTION)
        carrying = [sa for sa in sas if _carries(sa) and not self._foreign(sa)]
        alive = max(carrying, key=lambda sa: sa.unique_id, default=None)
        self._renewed = self._takeover.is_new(alive)
        for number in self._takeover.outlived(carrying) if self._renewed else ():
            self._charon.terminate(unique_id=number, force=False)
        if self._takeover.due(sas, standing=self._state.phase is Phase.UP and alive is not None):
            self._load_connection(self.view().gateway)
            self._takeover.initiated()
            self._charon.initiate(connection.CONNECTION, connection.CHILD)
            _log.info("making a tunnel with the new certificate beside the one that stands")
        timing = self._timing(UplinkKind.NONE if line is None else line.kind)
        seen = Seen(alive is not None, bool(sas), self._probe.outcome(now), on_line=_on_line(alive, line))
        if alive is not None:
            self._own = alive.local_host
            self._suite = " ".join(dict.fromkeys((alive.suite, *(child.suite for child in alive.children))))
            if self._state.phase is Phase.IDLE and alive.remote_host in self._gateways:
                self._state = replace(self._state, gateway=self._gateways.index(alive.remote_host))
        before = self._state
        self._state, actions = machine.step(
            before,
            seen,
            now=now,
            roll=self._roll(),
            gateways=max(1, len(self._gateways)),
            timing=timing,
            line=self._line,
        )
        if self._state.phase is not before.phase:
            cause = f", because: {self._state.cause.value}" if self._state.cause else ""
            _log.info("tunnel is %s, gateway %s%s", self._state.phase.value, self.view().gateway, cause)
            if self._state.phase is not Phase.UP:
                self._probe.cancel()
            self._changed_phase(before, now)
        elif before.moving_at is not None and self._state.moving_at is None:
            _log.info("tunnel moved to %s within %.1f s", self._own, now - before.moving_at)
        self._act(actions, now, timing)
        self._diagnosis.step(now)
        self._look_for_home(now)

    def _changed_phase(self, before: machine.State, now: float) -> None:
        state = self._state
        if state.phase is Phase.CONNECTING:
            self.set_ups += 1
        elif before.phase is Phase.CONNECTING and state.cause in (Event.NO_ANSWER, Event.REFUSED):
            interface = "" if self._line_now is None else self._line_now[0]
            self._diagnosis.failed(state.cause, self._gateway(state.failed_gateway), interface, now)
        else:
            self._diagnosis.forget()
        self._ping.cancel()
        if state.phase is Phase.UP:
            first = state.gateway % max(1, len(self._gateways)) == 0
            self._home = home.came_up(self._home, now, first=first, base_s=self._home_s, roll=self._roll())

    def _look_for_home(self, now: float) -> None:
        """Whether the first gateway is there again, when the tunnel is with another one."""
        if self._state.phase is not Phase.UP or self._state.moving_at is not None:
            return
        path = self._ping.step(now)
        if path is not None:
            self._home, go = home.heard(self._home, now, answered=path is Path.OPEN, roll=self._roll())
            if go:
                _log.info("gateway %s answers again: going back to it", self._gateways[0])
                self._start_over(now)
        elif home.due(self._home, now) and self._ping.gateway is None and self._line_now and self._gateways:
            self._ping.begin(ip_address(self._gateways[0]), self._line_now[0], now)

    def _act(self, actions: Actions, now: float, timing: Timing) -> None:
        if actions.terminate and self._process.pid is not None:
            self._charon.terminate(connection=connection.CONNECTION, force=True)
        if actions.initiate:
            self._load_connection(self.view().gateway)
            self._takeover.initiated()
            self._diagnosis.attempt()
            self._charon.initiate(connection.CONNECTION, connection.CHILD)
        if actions.probe:
            moving = self._state.moving_at is not None
            self._probe.begin(now, timing.move_wait_s if moving else timing.probe_wait_s)

    def _prepare(self, now: float) -> None:
        started = self._process.ensure()
        if started:
            self._takeover.charon_started()
        self._charon.close()
        load_identity(self._charon, self._identity)
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
        return self._state.phase is Phase.IDLE and bool(self._gateways) and sa.remote_host not in self._gateways

    def _timing(self, kind: UplinkKind) -> Timing:
        timing = machine.MOBILE_TIMING if kind is UplinkKind.MOBILE else machine.WIRED_TIMING
        if self._probe_s is None:
            return timing
        # Who asks more often does not wait longer for an answer than until the next question.
        wait_s = min(timing.probe_wait_s, max(1.0, self._probe_s))
        return replace(timing, probe_s=self._probe_s, probe_wait_s=wait_s)


def _carries(sa: IkeSa) -> bool:
    return sa.state in ("ESTABLISHED", "REKEYING") and any(child.state in _ALIVE_CHILD for child in sa.children)


def _on_line(sa: IkeSa | None, line: Line | None) -> bool:
    """Whether the tunnel leaves by the line in use; without either there is nothing to move."""
    return sa is None or line is None or any(sa.local_host == str(own.ip) for own in line.addresses)
