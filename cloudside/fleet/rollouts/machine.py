"""States of a rollout and of its targets: the tables, and nothing else. An illegal move is a bug and raises."""

from enum import StrEnum


class State(StrEnum):
    """Of a rollout."""

    #: Stated; begins when its time has come.
    PLANNED = "planned"
    #: The current ring gets its offers.
    RUNNING = "running"
    #: The current ring has it, and is watched before the next one's turn.
    SOAKING = "soaking"
    #: By a person: nobody new gets an offer. Who has begun goes on.
    PAUSED = "paused"
    #: By itself, because too many failed: all offers are withdrawn until a person resumes or aborts.
    HALTED = "halted"
    ABORTED = "aborted"
    FINISHED = "finished"


class Move(StrEnum):
    """What happens to a rollout."""

    BEGIN = "begin"
    SOAK = "soak"
    NEXT_RING = "next-ring"
    #: A site of the last ring came online while it soaked.
    MORE = "more"
    PAUSE = "pause"
    RESUME = "resume"
    HALT = "halt"
    ABORT = "abort"
    FINISH = "finish"


TRANSITIONS: dict[State, dict[Move, State]] = {
    State.PLANNED: {Move.BEGIN: State.RUNNING, Move.PAUSE: State.PAUSED, Move.ABORT: State.ABORTED},
    State.RUNNING: {
        Move.SOAK: State.SOAKING,
        Move.PAUSE: State.PAUSED,
        Move.HALT: State.HALTED,
        Move.ABORT: State.ABORTED,
    },
    State.SOAKING: {
        Move.NEXT_RING: State.RUNNING,
        Move.MORE: State.RUNNING,
        Move.PAUSE: State.PAUSED,
        Move.HALT: State.HALTED,
        Move.ABORT: State.ABORTED,
        Move.FINISH: State.FINISHED,
    },
    State.PAUSED: {Move.RESUME: State.RUNNING, Move.HALT: State.HALTED, Move.ABORT: State.ABORTED},
    State.HALTED: {Move.RESUME: State.RUNNING, Move.ABORT: State.ABORTED},
    State.ABORTED: {},
    State.FINISHED: {},
}

#: What happens to sites is still looked at.
ALIVE = frozenset({State.PLANNED, State.RUNNING, State.SOAKING, State.PAUSED, State.HALTED})
#: New sites may get an offer, and the rollout goes on by itself.
MOVING = frozenset({State.RUNNING, State.SOAKING})
#: Sites whose turn it is have their offer in each answer.
OFFERING = frozenset({State.RUNNING, State.SOAKING, State.PAUSED})


def moved(state: State, move: Move) -> State:
    """The state after a move. Raises ValueError: a bug of ours; people's wishes are held against the table first."""
    found = TRANSITIONS[state].get(move)
    if found is None:
        raise ValueError(f"a rollout that is {state} cannot {move}")
    return found


class TargetState(StrEnum):
    """Of a site of a rollout."""

    #: Its turn has not come, or it is not there.
    WAITING = "waiting"
    #: Its turn: at work, as far as it is there.
    OFFERED = "offered"
    #: Runs the version and is well.
    UPDATED = "updated"
    #: Went back by itself, or left the version after it had it.
    FAILED = "failed"
    #: Was there when its turn came, and has not been heard for too long.
    SILENT = "silent"
    #: Refused the release before anything was installed: no harm, no verdict about the release.
    DECLINED = "declined"
    #: The rollout ended without it: by a person, or because it never came online.
    WITHDRAWN = "withdrawn"
    MISSED = "missed"


TARGET_TRANSITIONS: dict[TargetState, frozenset[TargetState]] = {
    TargetState.WAITING: frozenset(
        {TargetState.OFFERED, TargetState.UPDATED, TargetState.WITHDRAWN, TargetState.MISSED}
    ),
    # Back to waiting: it went away before it can have seen the offer.
    TargetState.OFFERED: frozenset(
        {
            TargetState.WAITING,
            TargetState.UPDATED,
            TargetState.FAILED,
            TargetState.SILENT,
            TargetState.DECLINED,
            TargetState.WITHDRAWN,
        }
    ),
    TargetState.UPDATED: frozenset({TargetState.FAILED, TargetState.SILENT}),
    TargetState.FAILED: frozenset({TargetState.UPDATED}),
    # It is heard again: with the version, without it, or still at it.
    TargetState.SILENT: frozenset(
        {TargetState.UPDATED, TargetState.FAILED, TargetState.DECLINED, TargetState.OFFERED, TargetState.WITHDRAWN}
    ),
    TargetState.DECLINED: frozenset({TargetState.UPDATED}),
    TargetState.WITHDRAWN: frozenset(),
    TargetState.MISSED: frozenset(),
}

#: The rollout has nothing more to do with it, unless it speaks again.
SETTLED = frozenset({TargetState.UPDATED, TargetState.FAILED, TargetState.SILENT, TargetState.DECLINED})
#: A verdict about the release.
JUDGED = frozenset({TargetState.UPDATED, TargetState.FAILED, TargetState.SILENT})
#: Harmed, as far as one knows.
HARMED = frozenset({TargetState.FAILED, TargetState.SILENT})


def check_target(before: TargetState, after: TargetState) -> None:
    """Raise ValueError (a bug of ours) unless a target may go from one to the other, or stay."""
    if before is not after and after not in TARGET_TRANSITIONS[before]:
        raise ValueError(f"a target that is {before} cannot become {after}")
