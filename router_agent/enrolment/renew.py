"""When the next certificate is due, and whether a new one has proven itself. Pure; times of the calendar in UTC.

resting --due, asked--> asking --answered--> trying --a tunnel stands with it--> resting
                          |                     +--refused while the old one counts--> resting, with the old one
                          +--refused, unreachable, nothing new--> resting, for longer each time
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from router_agent.backoff import Backoff
from router_agent.enrolment.certificates import Validity

#: A certificate is renewed in the last third of its life.
RENEWAL_PART = 1 / 3
#: Over this part of its life, from the beginning of that third on, a fleet enrolled in one day is spread.
SPREAD_PART = 0.1

#: After a try that brought nothing: minutes at first, then four times a day.
AGAIN = Backoff(first_s=600, most_s=6 * 3600)

#: How long a new certificate has to bring a tunnel up while the gateways answer, in seconds. charon gives a try that is
#: not answered up after 26.
TRIAL_S = 45.0

#: A clock that is off by more decides nothing. (Less matters little in a third of a year.)
CLOCK_TRUSTED_S = 86_400.0


class Stage(Enum):
    """Where the renewal is."""

    RESTING = "resting"
    ASKING = "asking"
    TRYING = "trying"


class Verdict(Enum):
    """What became of a trial."""

    WAIT = "wait"
    KEEP = "keep"
    UNDO = "undo"


@dataclass(frozen=True, slots=True)
class State:
    """Monotonic seconds: ``retry_at``: not before; ``since``: when this stage began. ``failures`` in a row."""

    stage: Stage
    since: float
    retry_at: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """``proven``: a tunnel stands with the certificate on trial. ``unanswered``: no gateway can be reached at all."""

    proven: bool
    unanswered: bool


def spread(device_id: str, serial: int) -> float:
    """A number in [0, 1) of this router and certificate: the same after a restart, another for each router."""
    digest = hashlib.sha256(f"{device_id}/{serial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def due_at(validity: Validity, roll: float) -> datetime:
    """From when on the certificate is to be renewed; ``roll`` in [0, 1)."""
    life = validity.ends - validity.begins
    return validity.ends - life * RENEWAL_PART + life * SPREAD_PART * roll


def start(now: float, *, on_trial: bool) -> State:
    """At the agent's start. A trial that a restart interrupted begins again."""
    return State(Stage.TRYING if on_trial else Stage.RESTING, now, now)


def wants(
    state: State, validity: Validity, *, now: float, clock: datetime, skew_s: float | None, roll: float, asked: bool
) -> bool:
    """Whether to ask now. ``skew_s``: how far our clock is ahead of the cloud's, None: not known."""
    if state.stage is not Stage.RESTING or now < state.retry_at:
        return False
    if asked:
        return True  # the cloud goes by its own clock
    if skew_s is not None and abs(skew_s) > CLOCK_TRUSTED_S:
        return False
    return due_at(validity, roll) <= clock <= validity.ends


def asking(state: State, now: float) -> State:
    """The request is on its way."""
    return replace(state, stage=Stage.ASKING, since=now)


def failed(state: State, now: float, roll: float) -> State:
    """Nothing came of it: the next try is later, and never in step with other routers'."""
    failures = state.failures + 1
    return State(Stage.RESTING, now, now + AGAIN.delay_s(failures, roll), failures)


def trying(now: float) -> State:
    """A new certificate is installed and has to prove itself."""
    return State(Stage.TRYING, now, now)


def kept(now: float) -> State:
    """It has."""
    return State(Stage.RESTING, now, now)


def judge(state: State, line: Line, *, now: float, clock: datetime, old_ends: datetime) -> Verdict:
    """Of the certificate on trial. Undone only when the gateways answer and the old one still counts."""
    if line.proven:
        return Verdict.KEEP
    if line.unanswered or now - state.since < TRIAL_S or clock > old_ends - timedelta(minutes=1):
        return Verdict.WAIT
    return Verdict.UNDO
