"""An update's stages, what moves it from one to the next, and what a start makes of what it finds. Pure.

    idle --offer--> offered --accept--> judged --fetch--> fetching --assembled--> assembled --install--> installing
      --verified--> installed --try--> (reboot) trial --commit--> committed
                                                      --return--> returned
    any before the trial: --refuse--> refused, --withdraw--> idle, --lose--> offered (what was there is no good)

The journal has the stage that the next act belongs to before that act is done. Whatever happens in between, `recover`
finds the stage from which to go on: the boot state's partition decides whether a trial was begun, tried or committed,
the journal everything else.
"""

from dataclasses import dataclass, replace
from enum import Enum

from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer


class Stage(Enum):
    """Where the update is; the values are the report's words."""

    IDLE = "idle"
    OFFERED = "offered"
    JUDGED = "judged"
    FETCHING = "fetching"
    ASSEMBLED = "assembled"
    INSTALLING = "installing"
    INSTALLED = "installed"
    TRIAL = "trial"
    COMMITTED = "committed"
    RETURNED = "returned"
    REFUSED = "refused"


class Event(Enum):
    """What happened to it."""

    OFFER = "offer"
    ACCEPT = "accept"
    FETCH = "fetch"
    ASSEMBLED = "assembled"
    INSTALL = "install"
    INTERRUPT = "interrupt"
    VERIFIED = "verified"
    TRY = "try"
    UNTRIED = "untried"
    COMMIT = "commit"
    RETURN = "return"
    WITHDRAW = "withdraw"
    REFUSE = "refuse"
    LOSE = "lose"


#: Before the trial: whatever these have made can be thrown away.
PREPARING = (
    Stage.OFFERED,
    Stage.JUDGED,
    Stage.FETCHING,
    Stage.ASSEMBLED,
    Stage.INSTALLING,
    Stage.INSTALLED,
)

#: At rest: nothing is done until a release is offered.
RESTING = (Stage.IDLE, Stage.COMMITTED, Stage.RETURNED, Stage.REFUSED)

#: Whatever is not in here is a bug.
TRANSITIONS: dict[tuple[Stage, Event], Stage] = {
    **{(stage, Event.OFFER): Stage.OFFERED for stage in RESTING},
    **{(stage, Event.WITHDRAW): Stage.IDLE for stage in PREPARING},
    **{(stage, Event.REFUSE): Stage.REFUSED for stage in PREPARING},
    **{(stage, Event.LOSE): Stage.OFFERED for stage in PREPARING},
    (Stage.OFFERED, Event.ACCEPT): Stage.JUDGED,
    (Stage.JUDGED, Event.FETCH): Stage.FETCHING,
    (Stage.FETCHING, Event.ASSEMBLED): Stage.ASSEMBLED,
    (Stage.ASSEMBLED, Event.INSTALL): Stage.INSTALLING,
    (Stage.INSTALLING, Event.INTERRUPT): Stage.ASSEMBLED,
    (Stage.INSTALLING, Event.VERIFIED): Stage.INSTALLED,
    (Stage.INSTALLED, Event.TRY): Stage.TRIAL,
    (Stage.TRIAL, Event.UNTRIED): Stage.INSTALLED,
    (Stage.TRIAL, Event.COMMIT): Stage.COMMITTED,
    (Stage.TRIAL, Event.RETURN): Stage.RETURNED,
}

#: A slot that was set up for a trial this often and was never booted will not be.
TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What a verified release document says that the router judges by. Sizes in bytes.

    ``delta_bytes`` None: none applies to what runs here. ``permitted``: a signed permit for this downgrade was
    verified. ``document_sha256``: of the document itself, kept beside for the next steps.
    """

    version: str
    counter: int
    hardware: tuple[str, ...]
    minimum_from: int
    disk_mib: int
    mains_power: bool
    bundle_bytes: int
    root_hash: str
    full_bytes: int
    delta_bytes: int | None
    delta_memory_mib: int
    document_sha256: str
    permitted: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of slot ``target``; ``origin`` is the slot to return to, with the release that it holds.

    ``hold_s``: for how long health must hold; ``deadline_s``: seconds after the boot at which it is over either way.
    ``silent``: essential devices that did not answer before the trial; they do not count against it.
    ``begun_in``: the kernel's id of the boot that set the trial up.
    """

    trial_id: str
    target: str
    origin: str
    origin_version: str
    hold_s: float
    deadline_s: float
    silent: tuple[str, ...]
    begun_in: str


@dataclass(frozen=True, slots=True)
class UpdateState:
    """``offer``, ``facts``, ``problem``: of the release that ``stage`` speaks of. ``entered_at``: seconds since the
    epoch, by a clock that may be wrong. ``full_only``: no delta does. ``failures``: of this stage's work, in a row.

    ``fetched_bytes``: over the lines, what came twice counted twice. ``arrived_bytes``: of what travels, at least so
    much is here. ``metered_bytes``: of those that were fetched, over metered lines.
    """

    stage: Stage = Stage.IDLE
    offer: FirmwareOffer | None = None
    facts: ReleaseFacts | None = None
    trial: Trial | None = None
    problem: Problem | None = None
    entered_at: float = 0.0
    full_only: bool = False
    failures: int = 0
    tries: int = 0
    fetched_bytes: int = 0
    arrived_bytes: int = 0
    metered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BootSight:
    """What is known of how this machine has booted, and how it will. ``trial`` empty: none is set up.

    ``attempted``: the boot loader has given this trial its one boot. ``boot_id``: /proc/sys/kernel/random/boot_id.
    """

    running: str
    primary: str
    trial: str
    trial_id: str
    attempted: bool
    boot_id: str


def move(state: UpdateState, event: Event, *, at: float, problem: Problem | None = None) -> UpdateState:
    """The next stage. Failures are counted anew there, but not those of writing the slot: each is a way back and
    forth. Raises KeyError: no such transition, a bug."""
    failures = state.failures if event in (Event.INTERRUPT, Event.INSTALL) else 0
    return replace(state, stage=TRANSITIONS[state.stage, event], problem=problem, entered_at=at, failures=failures)


def offer(state: UpdateState, wanted: FirmwareOffer, *, running_counter: int, at: float) -> UpdateState:
    """The cloud wants this release. One that runs already, or whose fate is decided, changes nothing; another one than
    that under way ends that first. Never touches a trial: it decides itself."""
    before = state.offer
    if state.stage is Stage.TRIAL:
        return state
    same = is_same(before, wanted)
    if same and state.stage in PREPARING:
        return state if before == wanted else replace(state, offer=wanted)
    if wanted.counter == running_counter:
        return withdraw(state, at=at)
    if same and state.stage is not Stage.IDLE and not (state.stage is Stage.REFUSED and before != wanted):
        return state
    fresh = UpdateState(stage=Stage.IDLE if state.stage in PREPARING else state.stage)
    return replace(move(fresh, Event.OFFER, at=at), offer=wanted)


def is_same(before: FirmwareOffer | None, wanted: FirmwareOffer | None) -> bool:
    """Whether it is the same release in the same rollout, on whatever terms."""
    if before is None or wanted is None:
        return False
    return (before.release, before.rollout) == (wanted.release, wanted.rollout)


def withdraw(state: UpdateState, *, at: float) -> UpdateState:
    """The cloud wants nothing any more: what has not been tried yet is given up."""
    if state.stage not in PREPARING:
        return state
    return UpdateState(stage=TRANSITIONS[state.stage, Event.WITHDRAW], entered_at=at)


def on_trial(state: UpdateState, sight: BootSight) -> bool:
    """Whether this very boot is the trial."""
    trial = state.trial
    return (
        state.stage is Stage.TRIAL
        and trial is not None
        and sight.running == trial.target != sight.primary
        and (sight.trial, sight.trial_id) == (trial.target, trial.trial_id)
    )


def recover(state: UpdateState, sight: BootSight, why: Problem, *, running_counter: int, at: float) -> UpdateState:
    """The state to go on with after a start of the agent or of the machine. ``why``: why a trial came back, if it has.

    The caller takes a set-up trial away when the answer is not a trial (`leftover`).
    """
    if state.stage is Stage.INSTALLING:
        return move(state, Event.INTERRUPT, at=at)  # the idle slot is half written: from the start
    if state.stage in PREPARING and state.offer is not None and state.offer.counter == running_counter:
        return withdraw(state, at=at)  # the boot loader has fallen back to the slot that was ready
    trial = state.trial
    if state.stage is not Stage.TRIAL or trial is None:
        return state
    set_up = (sight.trial, sight.trial_id) == (trial.target, trial.trial_id)
    if sight.running == trial.target:
        if sight.primary == trial.target:
            return move(state, Event.COMMIT, at=at)  # the power failed between the commit and its record
        return state if set_up else move(state, Event.RETURN, at=at, problem=why)
    if set_up and not sight.attempted and sight.boot_id == trial.begun_in:
        return state  # everything is ready for the reboot
    if set_up and sight.attempted:
        return move(state, Event.RETURN, at=at, problem=why)
    if state.tries >= TRIES_MAX:
        return move(state, Event.RETURN, at=at, problem=why)
    return replace(move(state, Event.UNTRIED, at=at), trial=None)


def leftover(state: UpdateState, sight: BootSight) -> bool:
    """Whether a trial is set up that this state knows nothing of: it is taken away, and not booted (again)."""
    return bool(sight.trial) and not (
        state.stage is Stage.TRIAL
        and state.trial is not None
        and (sight.trial, sight.trial_id) == (state.trial.target, state.trial.trial_id)
    )
