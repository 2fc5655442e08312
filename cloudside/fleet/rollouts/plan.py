"""The dry run: who would get a release, in which ring, as delta or full image, over which line, at what cost. Pure.

It is what a start does, without the start: rings go by the hash of the rollout's name, which is known before. What a
site will fetch is judged by what it last said it runs; a router judges anew when its turn comes.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cloudside.fleet.rollouts import rings
from cloudside.fleet.rollouts.model import Plan
from firmware import permit as permits
from firmware.permit import EVERYWHERE, Permit
from firmware.release import UNASKED_MAX_BYTES


class Kind(StrEnum):
    """What travels."""

    DELTA = "delta"
    FULL = "full"


class Out(StrEnum):
    """Why a site is left out."""

    RUNS_IT = "runs-it"
    #: It runs a newer one, and there is no permit for a downgrade.
    NEWER = "newer"
    #: Too old for this step; an intermediate release has to come first.
    TOO_OLD = "too-old"
    #: There is no release of this version for its hardware.
    NO_RELEASE = "no-release"
    #: It never said what it runs: an older agent, or a router that was never heard.
    UNKNOWN = "unknown"
    #: It belongs to another rollout that has not ended.
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Place:
    """A site that may be rolled out to. ``hardware`` empty: not known; ``uplink``: wired, mobile, none or empty."""

    site: str
    tenant: str
    hardware: str = ""
    version: str = ""
    counter: int = 0
    heard_at: datetime | None = None
    uplink: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exclusive: str = ""


@dataclass(frozen=True, slots=True)
class Offerable:
    """A release for one hardware. ``deltas``: counter it starts from -> bytes."""

    path: str
    counter: int
    minimum_from: int
    full_bytes: int
    deltas: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a site would get. ``size_bytes``: what travels. ``waits``: more over a mobile line than the router
    fetches without consent. ``offline``: its turn comes in the last ring."""

    place: Place
    ring: int
    path: str
    counter: int
    kind: Kind
    size_bytes: int
    waits: bool
    offline: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """Of some sites: how many get what, over which line, and the bytes that travel."""

    sites: int = 0
    delta_sites: int = 0
    full_sites: int = 0
    mobile_sites: int = 0
    offline_sites: int = 0
    #: Routers that would wait for consent or for budget.
    waiting_sites: int = 0
    wired_bytes: int = 0
    mobile_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a rollout would do. ``left_out``: site -> why."""

    rollout: str
    planned: tuple[Planned, ...]
    left_out: Mapping[str, Out]
    by_ring: tuple[Cost, ...]
    total: Cost

    def out_counts(self) -> dict[str, int]:
        """How many sites are left out, by reason."""
        return dict(Counter(reason.value for reason in self.left_out.values()))


def draft(
    rollout: str,
    places: Collection[Place],
    releases: Mapping[str, Offerable],
    plan: Plan,
    *,
    taken: Collection[str],
    now: datetime,
) -> DryRun:
    """The dry run. ``releases``: by hardware; ``taken``: sites of rollouts that have not ended."""
    permit = None if plan.terms.permit is None else permits.parse(plan.terms.permit.encode()).permit
    left_out: dict[str, Out] = {}
    chosen: list[tuple[Place, Offerable]] = []
    for place in places:
        release = releases.get(place.hardware)
        reason = _left_out(place, release, permit, place.site in taken)
        if reason is not None or release is None:
            left_out[place.site] = reason or Out.NO_RELEASE
        else:
            chosen.append((place, release))
    candidates = [rings.Candidate(place.site, place.labels, place.exclusive) for place, _ in chosen]
    ring_of = rings.assign(rollout, candidates, plan.rings)
    planned = [_planned(place, release, ring_of[place.site], plan, now) for place, release in chosen]
    planned.sort(key=lambda one: (one.ring, rings.position(rollout, one.place.site)))
    by_ring = tuple(_cost([one for one in planned if one.ring == ring]) for ring in range(len(plan.rings)))
    return DryRun(rollout, tuple(planned), left_out, by_ring, _cost(planned))


def _left_out(place: Place, release: Offerable | None, permit: Permit | None, taken: bool) -> Out | None:
    if not place.hardware:
        return Out.UNKNOWN
    if release is None:
        return Out.NO_RELEASE
    if place.counter == release.counter:
        return Out.RUNS_IT
    if place.counter > release.counter and not _permitted(place, release, permit):
        return Out.NEWER
    if place.counter < release.minimum_from:
        return Out.TOO_OLD
    return Out.TAKEN if taken else None


def _permitted(place: Place, release: Offerable, permit: Permit | None) -> bool:
    """Whether the router would take it for this step: one site or all, one hardware, from one counter to one."""
    return (
        permit is not None
        and permit.site in (EVERYWHERE, place.site)
        and permit.hardware == place.hardware
        and (permit.from_counter, permit.to_counter) == (place.counter, release.counter)
    )


def _planned(place: Place, release: Offerable, ring: int, plan: Plan, now: datetime) -> Planned:
    delta = release.deltas.get(place.counter)
    kind, size = (Kind.FULL, release.full_bytes) if delta is None else (Kind.DELTA, delta)
    waits = place.uplink == "mobile" and not plan.terms.consent and _above_budget(kind, size, plan.terms.budget_bytes)
    silent_s = None if place.heard_at is None else (now - place.heard_at).total_seconds()
    offline = silent_s is None or silent_s > plan.limits.offline_s
    return Planned(place, ring, release.path, release.counter, kind, size, waits, offline)


def _above_budget(kind: Kind, size: int, budget: int | None) -> bool:
    """As the router judges it, but for the month's data, which it knows itself."""
    return kind is Kind.FULL or size > UNASKED_MAX_BYTES if budget is None else size > budget


def _cost(planned: Sequence[Planned]) -> Cost:
    mobile = [one for one in planned if one.place.uplink == "mobile"]
    mobile_bytes = sum(one.size_bytes for one in mobile)
    deltas = sum(one.kind is Kind.DELTA for one in planned)
    return Cost(
        sites=len(planned),
        delta_sites=deltas,
        full_sites=len(planned) - deltas,
        mobile_sites=len(mobile),
        offline_sites=sum(one.offline for one in planned),
        waiting_sites=sum(one.waits for one in planned),
        wired_bytes=sum(one.size_bytes for one in planned) - mobile_bytes,
        mobile_bytes=mobile_bytes,
    )
