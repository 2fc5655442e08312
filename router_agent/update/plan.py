"""What travels for a release on this router: a delta, or the whole bundle. Pure."""

from dataclasses import dataclass
from enum import Enum

from firmware.release import Delta, File, Release


class Why(Enum):
    """The reason for what a plan says."""

    DELTA = "delta"
    #: Nobody made a delta from what runs here.
    NO_DELTA = "no-delta"
    #: Putting the delta together needs more memory than there is.
    MEMORY = "memory"
    #: The delta was tried and did not do.
    DELTA_FAILED = "delta-failed"


@dataclass(frozen=True, slots=True)
class Plan:
    """``file`` travels; ``delta`` None: it is the whole bundle."""

    file: File
    delta: Delta | None
    why: Why


def plan(release: Release, *, running_sha256: str, memory_mib: int, full_only: bool = False) -> Plan:
    """How the bundle gets here. ``running_sha256``: of the slot image that runs, empty: not known. ``memory_mib``: what
    may be used. ``full_only``: a delta failed here.
    """
    if full_only:
        return Plan(release.full, None, Why.DELTA_FAILED)
    fitting = [one for one in release.deltas if running_sha256 and one.from_sha256 == running_sha256]
    usable = [one for one in fitting if one.memory_mib <= memory_mib and one.file.size < release.full.size]
    if usable:
        best = min(usable, key=lambda one: one.file.size)
        return Plan(best.file, best, Why.DELTA)
    too_large = any(one.memory_mib > memory_mib for one in fitting)
    return Plan(release.full, None, Why.MEMORY if too_large else Why.NO_DELTA)
