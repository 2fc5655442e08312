"""Holds the lines together, once a tick: looks, asks, judges, chooses, and puts the chosen line's route first."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linux.routes import Address, InterfaceState, Network, Route, Routes
from router_agent.link import choice as choosing
from router_agent.link import health, policy, uplinks
from router_agent.link.choice import Candidate, Choice
from router_agent.link.echo import LineProbe, Target
from router_agent.link.health import PACES, Health, Pace, Verdict
from router_agent.link.uplinks import NO_UPLINK, Line, Uplink, UplinkKind, UplinkReport
from router_agent.problems import Problem

_log = logging.getLogger(__name__)

#: An answer of a gateway's machine counts as recent for this many seconds: then a gateway that does not answer IKE is
#: there.
RECENT_S = 30.0


@dataclass(slots=True)
class _State:
    line: Line
    health: Health
    probe: LineProbe
    target: int = 0


class Lines:
    """All lines of this router. ``hold_s``: how long the preferred one must be well before it is used again."""

    def __init__(
        self,
        kinds: Mapping[str, UplinkKind],
        *,
        hold_s: float = choosing.HOLD_S,
        near: Sequence[Network] = (),
        now: float,
    ) -> None:
        self._kinds = dict(kinds)
        self._hold_s = hold_s
        self._near = tuple(near)
        self._states = {
            name: _State(Line(kind, name), health.unproven(now), LineProbe(name)) for name, kind in kinds.items()
        }
        self._choice = Choice(since=now)
        self._prefer = UplinkKind.WIRED
        self._default_routes: tuple[Route, ...] = ()
        self._heard: dict[tuple[str, Address], float] = {}
        self.switches = 0

    @property
    def uplink(self) -> Uplink:
        """The line in use."""
        state = self._chosen()
        return NO_UPLINK if state is None or not state.line.usable else state.line.uplink

    @property
    def line(self) -> Line | None:
        """The same with all that the kernel shows of it; None when there is none."""
        state = self._chosen()
        return None if state is None or not state.line.usable else state.line

    @property
    def alive(self) -> bool:
        """Whether the line in use is known to carry something."""
        state = self._chosen()
        return state is not None and state.health.verdict is Verdict.ALIVE

    def urgent(self, now: float) -> bool:
        """Whether something is about to be decided: then the loop turns faster."""
        state = self._chosen()
        if state is None or not state.line.usable or state.health.silent_since is None:
            return False
        # A dead line that nothing can stand in for is nothing to hurry about.
        return self._pace(state).suspect_s <= now - state.health.silent_since <= 3 * self._pace(state).dead_after_s

    def look(self, interfaces: Sequence[InterfaceState], default_routes: Sequence[Route], now: float) -> None:
        """Take in what the kernel shows."""
        self._default_routes = tuple(default_routes)
        for line in uplinks.lines(self._kinds, interfaces, default_routes):
            state = self._states[line.interface]
            if (line.usable, line.address) != (state.line.usable, state.line.address):
                shown = f"up, {line.address}" if line.usable else "down"
                _log.info("line %s (%s) is %s", line.interface, line.kind.value, shown)
                state.health = health.unproven(now, state.health)
                state.probe.close()
            state.line = line

    def step(
        self,
        now: float,
        targets: Sequence[Target],
        *,
        prefer: UplinkKind,
        tunnel_down: bool,
        proven: tuple[str, float] | None,
        roll: float,
    ) -> bool:
        """Ask, judge, choose; True when another line is in use now.

        ``tunnel_down``: then each line asks all targets, so that it is known which of them answer. ``proven``: own
        address and time of the last answer through the tunnel: life of the line that has the address.
        """
        self._prefer = prefer
        for state in self._states.values():
            self._hear(state, now, proven)
        for state in self._states.values():
            self._ask(state, targets, now, thorough=tunnel_down)
        candidates = [Candidate(state.line, state.health) for state in self._states.values()]
        before = self._choice
        self._choice = choosing.choose(before, candidates, prefer=prefer, hold_s=self._hold_s, now=now, roll=roll)
        if self._choice.interface == before.interface:
            return False
        self.switches += before.interface is not None
        found = self.uplink
        _log.info("uplink: %s %s %s", found.kind.value, found.interface, found.address or "")
        return True

    def route(self, kernel: Routes) -> None:
        """Bring the kernel's default routes and the lines' own tables to what was chosen. Raises RouteError."""
        for change in uplinks.metric_changes(self._kinds, self._default_routes, self._choice.interface):
            kernel.replace_route(change.wanted)
            kernel.delete_route(change.found)
            _log.info("default route of %s moved to metric %d", change.wanted.interface, change.wanted.metric)
        policy.reconcile(kernel, policy.plan([state.line for state in self._states.values()], near=self._near))

    def heard(self, address: Address, now: float) -> bool:
        """Whether this machine has answered a probe through the line in use lately."""
        return now - self._heard.get((self._choice.interface or "", address), float("-inf")) <= RECENT_S

    def report(self, now: float) -> tuple[UplinkReport, ...]:
        """Every line, for the heartbeat."""
        return tuple(self._report(state, now) for state in self._states.values())

    def problems(self) -> tuple[Problem, ...]:
        """Lines that have a carrier and an address and carry nothing."""
        return tuple(
            Problem("agent.uplink-dead", {"interface": state.line.interface, "kind": state.line.kind.value})
            for state in self._states.values()
            if state.line.usable and state.health.verdict is Verdict.DEAD
        )

    def close(self) -> None:
        """Give the sockets back."""
        for state in self._states.values():
            state.probe.close()

    def _chosen(self) -> _State | None:
        return self._states.get(self._choice.interface or "")

    def _pace(self, state: _State) -> Pace:
        """Who stands in for a dead line, or is to be used again, is asked as if it were in use: between two
        rare questions a line can go and come back unnoticed."""
        chosen = self._chosen()
        stands_in = chosen is not None and chosen.health.verdict is Verdict.DEAD
        return PACES[state.line.kind, stands_in or state is chosen or state.line.kind is self._prefer]

    def _hear(self, state: _State, now: float, proven: tuple[str, float] | None) -> None:
        pace = self._pace(state)
        for answer in state.probe.answers(now, wait_s=pace.dead_after_s):
            self._heard[state.line.interface, answer.address] = now
            self._judge(state, health.answered(state.health, now, answer.rtt_s))
        if proven is not None and state.line.usable and any(proven[0] == str(one.ip) for one in state.line.addresses):
            silent_since = state.health.silent_since
            if proven[1] > (state.health.answered_at or 0.0) and (silent_since is None or proven[1] > silent_since):
                self._judge(state, health.answered(state.health, proven[1], None))
        self._judge(state, health.judged(state.health, now, pace))

    def _ask(self, state: _State, targets: Sequence[Target], now: float, *, thorough: bool) -> None:
        address = state.line.address
        if address is None or not state.line.usable:
            return
        suited = [target for target in targets if target.address.version == address.version]
        if not suited or not (health.due(state.health, now, self._pace(state)) or self._is_needed(state, now)):
            return
        silent = state.health.silent_since is not None
        if silent:
            state.target += 1  # the one that did not answer may be down: any other will do
        asked = suited if thorough or silent else [suited[state.target % len(suited)]]
        for target in asked:
            state.probe.ask(target, now=now, connect=silent)
        state.health = health.asked(state.health, now)

    def _is_needed(self, state: _State, now: float) -> bool:
        """Whether this line is to be asked now because the one in use has fallen silent: its answer decides."""
        chosen = self._chosen()
        if chosen is None or chosen is state or chosen.health.silent_since is None:
            return False
        silent_since = chosen.health.silent_since
        if now - silent_since < self._pace(chosen).suspect_s + 2 * (chosen.health.rtt_s or 0.0):
            return False
        return state.health.asked_at is None or state.health.asked_at < silent_since

    def _judge(self, state: _State, judged: Health) -> None:
        if judged.verdict is not state.health.verdict:
            _log.log(
                logging.WARNING if judged.verdict is Verdict.DEAD else logging.INFO,
                "line %s (%s) is %s", state.line.interface, state.line.kind.value, judged.verdict.value,
            )  # fmt: skip
        state.health = judged

    def _report(self, state: _State, now: float) -> UplinkReport:
        known = {Verdict.ALIVE: True, Verdict.DEAD: False, Verdict.UNPROVEN: None}
        line, seen = state.line, state.health
        return UplinkReport(
            kind=line.kind,
            interface=line.interface,
            address=line.address,
            carrier=line.carrier,
            healthy=known[seen.verdict] if line.usable else False,
            since_s=now - seen.since,
            rtt_ms=None if seen.rtt_s is None else seen.rtt_s * 1000,
            in_use=state is self._chosen() and line.usable,
            probes_sent=seen.sent,
            probes_lost=seen.lost(now, self._pace(state)),
        )
