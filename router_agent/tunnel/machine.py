"""The tunnel's states and what to do next. Pure: what was seen goes in, a new state and actions come out.

    idle --connect--> connecting --established--> up --lost|silent--> idle (waits, then the next gateway)

A tunnel that the kernel shows but that carries nothing is lost: three probes without an answer end it.

When another line is used, charon moves the tunnel there by itself (MOBIKE, RFC 4555). One that has not carried a probe
over the new line within `Timing.move_s` is stranded, and a fresh one is made at once.
"""

from dataclasses import dataclass, replace
from enum import Enum

from router_agent.backoff import Backoff


class Phase(Enum):
    """Where the tunnel is."""

    IDLE = "idle"
    CONNECTING = "connecting"
    UP = "up"


class Event(Enum):
    """What happened to it."""

    CONNECT = "connect"
    ESTABLISHED = "established"
    REFUSED = "refused"
    NO_ANSWER = "no-answer"
    LOST = "lost"
    SILENT = "silent"
    STRANDED = "stranded"
    RESTART = "restart"


#: Whatever is not in here is a bug.
TRANSITIONS = {
    (Phase.IDLE, Event.CONNECT): Phase.CONNECTING,
    (Phase.IDLE, Event.ESTABLISHED): Phase.UP,  # the agent was restarted and finds a tunnel
    (Phase.IDLE, Event.RESTART): Phase.IDLE,
    (Phase.CONNECTING, Event.ESTABLISHED): Phase.UP,
    (Phase.CONNECTING, Event.REFUSED): Phase.IDLE,
    (Phase.CONNECTING, Event.NO_ANSWER): Phase.IDLE,
    (Phase.CONNECTING, Event.RESTART): Phase.IDLE,
    (Phase.UP, Event.LOST): Phase.IDLE,
    (Phase.UP, Event.SILENT): Phase.IDLE,
    (Phase.UP, Event.STRANDED): Phase.IDLE,
    (Phase.UP, Event.RESTART): Phase.IDLE,
}


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds. ``probe_s`` between probes of a healthy tunnel, ``probe_wait_s`` for one answer.

    ``move_s``: for a tunnel to carry something over another line. ``move_wait_s``: for one answer meanwhile.
    """

    probe_s: float
    probe_wait_s: float
    connect_s: float
    backoff: Backoff
    move_s: float = 2.0
    move_wait_s: float = 0.7


#: Wired lines answer in tens of milliseconds; a mobile one may sleep for seconds, and each probe costs data.
WIRED_TIMING = Timing(probe_s=5, probe_wait_s=2, connect_s=12, backoff=Backoff(1, 30))
MOBILE_TIMING = Timing(probe_s=20, probe_wait_s=5, connect_s=25, backoff=Backoff(2, 60), move_s=2.5, move_wait_s=1.2)

#: Probes without an answer before the tunnel is started over. After the first one they follow each other at once.
MISSES = 3

#: For how long charon may show no IKE_SA before it counts as gone: one that is being worked on is not listed.
ABSENT_S = 1.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What charon and the probe show now. ``probe``: the outcome of a probe that ended since the last step.

    ``on_line``: the tunnel has an address of the line in use.
    """

    established: bool
    present: bool
    probe: bool | None = None
    on_line: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """Where the tunnel is. Times are monotonic seconds.

    ``gateway`` is the one in use or tried next. ``failures`` in a row. ``proven_at``: when this tunnel last carried a
    probe. ``cause``: why the last one ended, and ``failed_gateway`` with which gateway; None once a tunnel is proven.
    ``moving_at``: since when it is on its way to another line, ``arrived``: it has the address there.
    """

    phase: Phase
    since: float
    gateway: int = 0
    failures: int = 0
    retry_at: float = 0.0
    present_at: float = 0.0
    misses: int = 0
    probe_at: float = 0.0
    proven_at: float | None = None
    cause: Event | None = None
    failed_gateway: int = 0
    moving_at: float | None = None
    arrived: bool = False


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do about it, in this order: ``terminate`` what is there, ``initiate`` to the gateway, ``probe``."""

    terminate: bool = False
    initiate: bool = False
    probe: bool = False


NOTHING = Actions()


def start(now: float) -> State:
    """The state at the agent's start."""
    return State(Phase.IDLE, since=now, retry_at=now)


def step(
    state: State, seen: Seen, *, now: float, roll: float, gateways: int, timing: Timing, line: bool
) -> tuple[State, Actions]:
    """One look at the tunnel. ``line``: there is an uplink. ``roll`` in [0, 1). ``gateways``: how many can be tried."""
    if state.phase is Phase.IDLE:
        if seen.established and not _stale(state, seen):
            return _up(state, now), Actions(probe=True)
        if line and now >= state.retry_at:
            connecting = replace(_move(state, Event.CONNECT, now), gateway=state.gateway % gateways, present_at=now)
            return connecting, Actions(terminate=seen.present, initiate=True)
        return state, NOTHING
    if state.phase is Phase.CONNECTING:
        if seen.established and not _stale(state, seen):
            return _up(state, now), Actions(probe=True)
        if seen.present:
            state = replace(state, present_at=now)
        if now - state.since > timing.connect_s:
            return _failed(state, Event.NO_ANSWER, now, roll, gateways, timing), Actions(terminate=True)
        if now - state.present_at > ABSENT_S:
            return _failed(state, Event.REFUSED, now, roll, gateways, timing), NOTHING
        return state, NOTHING
    return _step_up(state, seen, now=now, roll=roll, gateways=gateways, timing=timing)


def asked(state: State, now: float) -> State:
    """charon has been asked for a tunnel already, by whoever came before."""
    return replace(_move(state, Event.CONNECT, now), present_at=now)


def restarted(state: State, now: float, *, gateway: int = 0) -> tuple[State, Actions]:
    """Start over now, with this gateway: the connection has changed."""
    fresh = replace(_move(state, Event.RESTART, now), gateway=gateway, failures=0, retry_at=now, proven_at=None)
    return fresh, Actions(terminate=True)


def hurried(state: State, now: float) -> State:
    """There is another line, known to be alive: whoever waits need not."""
    return replace(state, retry_at=now) if state.phase is Phase.IDLE else state


def _step_up(
    state: State, seen: Seen, *, now: float, roll: float, gateways: int, timing: Timing
) -> tuple[State, Actions]:
    if seen.established:
        state = replace(state, present_at=now)
    elif now - state.present_at > ABSENT_S:
        return _failed(state, Event.LOST, now, roll, gateways, timing), Actions(terminate=seen.present)
    if not seen.on_line and state.moving_at is None:
        state = replace(state, moving_at=now, arrived=False)
    if state.moving_at is not None:
        return _step_moving(state, seen, now=now, roll=roll, gateways=gateways, timing=timing)
    if seen.probe is True:
        # Only a tunnel that has carried something forgets earlier failures.
        state = replace(state, misses=0, failures=0, proven_at=now, probe_at=now + timing.probe_s, cause=None)
    elif seen.probe is False:
        state = replace(state, misses=state.misses + 1, probe_at=now)
        if state.misses >= MISSES:
            return _failed(state, Event.SILENT, now, roll, gateways, timing), Actions(terminate=True)
    if now >= state.probe_at:
        # Not again before the outcome of this one.
        return replace(state, probe_at=now + timing.probe_wait_s + timing.probe_s), Actions(probe=True)
    return state, NOTHING


def _step_moving(
    state: State, seen: Seen, *, now: float, roll: float, gateways: int, timing: Timing
) -> tuple[State, Actions]:
    """On its way to another line. Misses do not count; an answer from before it was there proves nothing."""
    assert state.moving_at is not None  # noqa: S101 - the caller has looked
    if seen.probe is True and seen.on_line and state.arrived:
        moved = replace(state, moving_at=None, misses=0, failures=0, cause=None)
        return replace(moved, proven_at=now, probe_at=now + timing.probe_s), NOTHING
    if now - state.moving_at > timing.move_s:
        return _failed(state, Event.STRANDED, now, roll, gateways, timing), Actions(terminate=True)
    if seen.on_line is not state.arrived:
        return replace(state, arrived=seen.on_line, probe_at=now + timing.move_wait_s), Actions(probe=seen.on_line)
    if seen.on_line and seen.probe is False:
        return state, Actions(probe=True)
    return state, NOTHING


def _stale(state: State, seen: Seen) -> bool:
    """Whether what is shown is the stranded tunnel, which charon is about to end."""
    return state.cause is Event.STRANDED and not seen.on_line


def _move(state: State, event: Event, now: float) -> State:
    return replace(state, phase=TRANSITIONS[state.phase, event], since=now, moving_at=None, arrived=False)


def _up(state: State, now: float) -> State:
    return replace(_move(state, Event.ESTABLISHED, now), present_at=now, misses=0, probe_at=now + 60, proven_at=None)


def _failed(state: State, event: Event, now: float, roll: float, gateways: int, timing: Timing) -> State:
    """Back to idle. The next gateway is tried at once while there are untried ones; then it waits, longer each round.

    A tunnel that was up and got lost tries the same gateway first: mostly it was restarted, or our address changed.
    """
    was_up = state.phase is Phase.UP
    if event is Event.STRANDED:
        # No fault of the gateway's: at once, and with the same.
        stranded = replace(_move(state, event, now), retry_at=now, misses=0, proven_at=None, cause=event)
        return replace(stranded, failed_gateway=state.gateway)
    failures = state.failures + 1
    gateway = state.gateway if was_up and state.failures == 0 else (state.gateway + 1) % gateways
    rounds = failures // gateways if not was_up else failures
    return replace(
        _move(state, event, now),
        gateway=gateway,
        failures=failures,
        retry_at=now + timing.backoff.delay_s(rounds, roll),
        misses=0,
        proven_at=None,
        cause=event,
        failed_gateway=state.gateway,
    )
