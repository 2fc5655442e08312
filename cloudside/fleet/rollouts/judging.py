"""What a site's last word means for its target. Pure; a verdict follows from reports alone, so a lost one costs time.

Silence after a site's turn counts as failure, and is taken back when the site is heard: it may have been a power cut.
A site that was never heard after its turn cannot have seen the offer; it is offline and waits.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from cloudside.fleet.rollouts.machine import TargetState, check_target
from cloudside.fleet.rollouts.model import Limits, Seen, Target

_S = TargetState


def judge(target: Target, seen: Seen | None, *, rollout: str, limits: Limits, exact: bool, now: datetime) -> Target:
    """The target as it is now; the very same object when nothing changed. ``exact``: newer is not good enough (a
    downgrade)."""
    state, cause = _verdict(target, seen, rollout, limits, exact, now)
    if state is target.state:
        return target
    check_target(target.state, state)
    if state is _S.WAITING:
        return replace(target, state=state, offered_at=None, settled_at=None, cause=cause)
    return replace(target, state=state, settled_at=None if state is _S.OFFERED else now, cause=cause)


def _verdict(
    target: Target, seen: Seen | None, rollout: str, limits: Limits, exact: bool, now: datetime
) -> tuple[TargetState, Mapping[str, Any] | None]:
    state = target.state
    if state in (_S.WITHDRAWN, _S.MISSED):
        return state, None
    if seen is None:
        return (_S.WAITING if state is _S.OFFERED else state), None
    runs = seen.counter == target.counter or (not exact and seen.counter > target.counter)
    runs = runs and not (seen.stage == "trial" and seen.release == target.path)
    if state is _S.WAITING:
        return (_S.UPDATED if runs else state), None
    silent = (now - seen.well_at).total_seconds() > limits.silent_s
    if state is _S.UPDATED:
        if not runs and target.settled_at is not None and seen.heard_at > target.settled_at:
            return _S.FAILED, _cause(seen, "rollout.went-back")
        return (_S.SILENT, _silence(seen)) if silent else (state, None)
    if state in (_S.FAILED, _S.DECLINED):
        return (_S.UPDATED if runs and not silent else state), None
    # Offered or silent.
    if silent:
        unheard = target.offered_at is None or seen.heard_at <= target.offered_at
        if state is _S.OFFERED and unheard:
            return _S.WAITING, None
        return _S.SILENT, _silence(seen)
    if runs:
        return _S.UPDATED, None
    ours = seen.release == target.path and seen.rollout in ("", rollout)
    if ours and seen.stage == "returned":
        return _S.FAILED, _cause(seen, "rollout.returned")
    if ours and seen.stage == "refused":
        return _S.DECLINED, _cause(seen, "rollout.refused")
    return _S.OFFERED, None


def _cause(seen: Seen, otherwise: str) -> Mapping[str, Any]:
    """What the router says of it; else that it happened."""
    return dict(seen.problem) if seen.problem else {"key": otherwise, "params": {}}


def _silence(seen: Seen) -> Mapping[str, Any]:
    return {"key": "rollout.silent", "params": {"since": f"{seen.well_at:%Y-%m-%d %H:%M} UTC"}}
