"""What a rollout is made of: rings and limits as a person states them, targets, what was seen of a site. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from cloudside.fleet.rollouts.machine import State, TargetState

DAY_S = 86_400.0
HOUR_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Ring:
    """Who is in it: sites with ``label`` (``key=value``), or so many that this ring and those before hold ``share`` of
    all (0 to 1). ``soak_s``: how long it is watched, once it has the version, before the next ring's turn."""

    share: float | None
    label: str = ""
    soak_s: float = DAY_S


#: Of 10,000 sites: 30, 300, 2,000, all. The first fits into the budget of harm while nothing is known.
DEFAULT_RINGS = (Ring(0.003), Ring(0.03), Ring(0.2), Ring(1.0, soak_s=0.0))


@dataclass(frozen=True, slots=True)
class Limits:
    """How careful a rollout is. Shares are of one (0.01 is 1 %), times seconds."""

    #: The failure share that is borne. Halted when the share is higher with confidence.
    tolerated: float = 0.01
    #: Most of all sites that may be harmed, before anybody is asked. Never below HARM_FLOOR sites.
    harm: float = 0.004
    #: Sites of one ring that are at work at once; None: AT_ONCE_SHARE of the ring.
    at_once: int | None = None
    #: New offers in an hour; None: no limit.
    per_hour: int | None = None
    #: Not heard for so long after its turn: a failure.
    silent_s: float = 2 * HOUR_S
    #: Not heard for so long: offline, its turn does not come.
    offline_s: float = 900.0
    #: A site that is still at work after this holds its ring up no more.
    patience_s: float = 8 * HOUR_S
    #: How long the rollout waits for offline sites, once all others have it.
    wait_s: float = 30 * DAY_S
    #: "HH:MM-HH:MM" in each site's zone; empty: any time.
    window: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the offer says beside the release (fleet.protocol.FirmwareOffer)."""

    consent: bool = False
    rate_bytes_s: int = 0
    budget_bytes: int | None = None
    permit: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a person states of a rollout."""

    rings: tuple[Ring, ...] = DEFAULT_RINGS
    limits: Limits = field(default_factory=Limits)
    terms: Terms = field(default_factory=Terms)
    #: When it begins; None: at once.
    starts_at: datetime | None = None
    #: What was judged before counts no more: a person has seen it and resumed.
    forgiven_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A site of a rollout. ``exclusive``: sites with the same word are never at work at once; empty: none."""

    site: str
    ring: int
    state: TargetState
    path: str
    counter: int
    exclusive: str = ""
    zone: str = "UTC"
    offered_at: datetime | None = None
    #: When its state was last decided.
    settled_at: datetime | None = None
    cause: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was last heard of a site.

    ``well_at``: when it was last known to be well: its heartbeat, or when its tunnel went down if it did before.
    ``stage``, ``release``, ``rollout``, ``problem``: its FirmwareState, if it sent one. ``counter`` 0: not known.
    """

    heard_at: datetime
    well_at: datetime
    counter: int = 0
    stage: str = ""
    release: str = ""
    rollout: str = ""
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as it stands. ``began_at``: when the first ring's turn came."""

    id: str
    state: State
    plan: Plan
    ring: int
    began_at: datetime
    soak_since: datetime | None = None
    #: The share of sites without an offer that went silent meanwhile, as last known.
    background: float = 0.0


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan for a JSON column."""
    document = asdict(plan)
    for name in ("starts_at", "forgiven_until"):
        moment = getattr(plan, name)
        document[name] = None if moment is None else moment.isoformat()
    document["rings"] = [asdict(ring) for ring in plan.rings]
    return document


def read_plan(document: Mapping[str, Any]) -> Plan:
    """A plan from its JSON. Written by us only, so what is wrong raises KeyError, TypeError or ValueError."""
    moments = {name: _moment(document[name]) for name in ("starts_at", "forgiven_until")}
    return Plan(
        rings=tuple(Ring(**ring) for ring in document["rings"]),
        limits=Limits(**document["limits"]),
        terms=Terms(**document["terms"]),
        starts_at=moments["starts_at"],
        forgiven_until=moments["forgiven_until"],
    )


def forgiving(plan: Plan, now: datetime) -> Plan:
    """The plan after a person has seen what failed until ``now`` and goes on."""
    return replace(plan, forgiven_until=now)


def last_ring(rings: Sequence[Ring]) -> int:
    """The number of the last one."""
    return len(rings) - 1


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
