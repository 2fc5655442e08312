"""Small fleets for tests of rollouts: what stands, what is heard, and steps."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cloudside.fleet.rollouts import rings
from cloudside.fleet.rollouts.machine import State, TargetState
from cloudside.fleet.rollouts.model import Limits, Plan, Ring, Rollout, Seen, Target
from cloudside.fleet.rollouts.stepping import Scene, Step, step

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
PATH = "releases/box/1.1.0.json"
OLD, NEW = 10, 11
HOUR_S = 3600.0


@dataclass
class World:
    """A rollout to ``sites`` sites, all of them there and well unless said otherwise."""

    sites: int = 10
    plan: Plan = field(default_factory=Plan)
    pairs: Mapping[str, Collection[str]] = field(default_factory=dict)
    now: datetime = START
    busy: frozenset[str] = frozenset()
    yanked: bool = False

    def __post_init__(self) -> None:
        word_of = {site: word for word, sites in self.pairs.items() for site in sites}
        names = [f"s{number:04}" for number in range(self.sites)]
        candidates = [rings.Candidate(name, {}, word_of.get(name, "")) for name in names]
        ring_of = rings.assign("r-1", candidates, self.plan.rings)
        self.targets = {
            name: Target(name, ring_of[name], TargetState.WAITING, PATH, NEW, word_of.get(name, "")) for name in names
        }
        self.rollout = Rollout("r-1", State.PLANNED, self.plan, 0, self.now)
        self.seen: dict[str, Seen] = {}
        self.away: set[str] = set()
        for name in names:
            self.say(name)

    def say(self, site: str, counter: int = OLD, stage: str = "idle", **more: str) -> None:
        """A heartbeat of this site."""
        release = "" if stage == "idle" else PATH
        self.seen[site] = Seen(self.now, self.now, counter, stage, release, **more)

    def step(self, after_s: float = 60.0) -> Step:
        """Time goes on, all that are not away are heard as they were, and a step is made."""
        self.now += timedelta(seconds=after_s)
        for name, seen in self.seen.items():
            if name not in self.away:
                self.seen[name] = replace(seen, heard_at=self.now, well_at=self.now)
        done = step(Scene(self.rollout, self.targets, self.seen, self.now, dict(self.pairs), self.busy, self.yanked))
        self.rollout = done.rollout
        self.targets.update(done.changed)
        return done

    def those(self, state: TargetState) -> set[str]:
        """Sites in a state."""
        return {name for name, target in self.targets.items() if target.state is state}

    def states(self) -> dict[str, int]:
        """How many are in each state."""
        found: dict[str, int] = {}
        for target in self.targets.values():
            found[target.state.value] = found.get(target.state.value, 0) + 1
        return found

    def update_all_offered(self) -> int:
        """Whose turn it is has it and is well; returns how many."""
        found = self.those(TargetState.OFFERED)
        for name in found:
            self.say(name, NEW, "committed")
        return len(found)

    def fail(self, names: Collection[str]) -> None:
        """These went back by themselves."""
        for name in names:
            self.say(name, OLD, "returned")


def plan(*wanted: Ring, **limits: object) -> Plan:
    """A plan with these rings (one of all, without soak time) and limits."""
    return Plan(rings=wanted or (Ring(1.0, soak_s=0.0),), limits=replace(Limits(), **limits))  # type: ignore[arg-type]
