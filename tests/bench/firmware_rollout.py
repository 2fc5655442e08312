"""A rollout to a simulated fleet, decided by the product's own code: ``sim [RUNS]`` or ``plan``. Prints JSON.

``sim``: 10,000 sites; what the worker would decide is decided by ``cloudside.fleet.rollouts.stepping``, on what it would
have seen; only routers and the world around them are simulated. A bad release fails on a share of the devices, in six
ways. Harmed is a site that installed it and failed, whether it came back by itself or not, noticed or not, before or
after the halt. Good releases must finish; a halt of one is a false halt.

``plan``: how long the dry run for 10,000 sites takes, from the registry (SQLite) to the table.

What is assumed of the world (docs/adr/0023-rollouts.md says why):

- 60 % of the sites are on mobile lines. A mobile site has an outage every 10 days, a wired one every 30, lognormal with
  a median of 15 minutes (sigma 1.8: one in eight is longer than two hours).
- 8 % are offline when it begins; half of them come back within 10 days, the others never.
- Fetching takes 20 minutes (lognormal, sigma 1); for one in twenty 20 times as long. Install and trial take 15 minutes.
- A good release fails its trial at 0.1 % of the sites, because of what else happens there.
- 20 hardware lots of 5 % each, all over the fleet.
"""

import json
import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cloudside.fleet.rollouts import rings
from cloudside.fleet.rollouts.machine import State, TargetState
from cloudside.fleet.rollouts.model import DAY_S, HOUR_S, Limits, Plan, Rollout, Seen, Target
from cloudside.fleet.rollouts.stepping import Scene, step

SITES = 10_000
START = datetime(2026, 11, 22, tzinfo=UTC)
PATH = "releases/kyoten-x86-64/1.1.0.json"
OLD, NEW = 10, 11
#: Seconds between two looks. The worker looks every 15 s; a coarse look is worse for harm, so the figure is no better
#: than the product.
TICK_S = 600.0
COARSE_TICK_S = 1800.0
LOTS = 20
MOBILE_SHARE = 0.6
OUTAGE_EVERY_S = {True: 10 * DAY_S, False: 30 * DAY_S}
OUTAGE_MEDIAN_S, OUTAGE_SIGMA = 900.0, 1.8
OFFLINE_SHARE, BACK_WITHIN_S = 0.08, 10 * DAY_S
FETCH_MEDIAN_S, FETCH_SIGMA, SLOW_SHARE, SLOW_TIMES = 1200.0, 1.0, 0.05, 20.0
TRIAL_S = 900.0
UNLUCKY_SHARE = 0.001
HORIZON_S = 25 * DAY_S
#: A good release is waited for until all that are there have it; the offline ones' wait is cut to this.
WAIT_S = 2 * DAY_S

#: Way -> what happens to the devices it is about: (what, earliest and latest seconds after the commit).
WAYS: Mapping[str, tuple[str, float, float]] = {
    "random": ("returns", 0.0, 0.0),
    "lot": ("returns", 0.0, 0.0),
    "silent": ("dies", 0.0, 0.0),
    "late": ("dies", 2 * HOUR_S, 20 * HOUR_S),
    "after-soak": ("dies", 20 * HOUR_S, 36 * HOUR_S),
    "went-back": ("goes back", 1 * HOUR_S, 20 * HOUR_S),
}


@dataclass(slots=True)
class Router:
    """A simulated router. Times are seconds since the start."""

    name: str
    lot: int
    outages: list[tuple[float, float]]
    fetch_s: float
    doomed: bool
    unlucky: bool
    stage: str = "idle"
    counter: int = OLD
    #: When the current stage's work is done.
    until: float = math.inf
    #: When it fails late.
    ends: float = math.inf
    dead: bool = False
    heard: float = -math.inf
    installed: bool = False

    def is_out(self, at: float) -> bool:
        """No power or no line."""
        while self.outages and self.outages[0][1] <= at:
            del self.outages[0]
        return bool(self.outages) and self.outages[0][0] <= at

    def live(
        self, at: float, tick_s: float, out: bool, offered: bool, way: tuple[str, float, float], dice: random.Random
    ) -> None:
        """What happens to it until ``at``."""
        if self.dead or (out and self.stage in ("idle", "fetching")):
            self.until += tick_s  # it fetches when the line is back
            return
        if self.stage == "idle" and offered and self.counter == OLD:
            self.stage, self.until = "fetching", at + self.fetch_s
        if self.stage == "fetching" and not offered:
            self.stage = "idle"
        if self.stage == "fetching" and self.until <= at:
            self.stage, self.until, self.installed = "trial", at + TRIAL_S, True
            if self.doomed and way[0] == "dies" and way[2] == 0.0:
                self.dead = True
        if self.stage == "trial" and self.until <= at:
            fails = self.unlucky or (self.doomed and way[0] == "returns")
            self.stage, self.counter = ("returned", OLD) if fails else ("committed", NEW)
            if self.doomed and way[2] > 0.0:
                self.ends = at + dice.uniform(way[1], way[2])
        if self.stage == "committed" and self.ends <= at:
            if way[0] == "dies":
                self.dead = True
            else:
                self.stage, self.counter, self.ends = "returned", OLD, math.inf


@dataclass
class Fleet:
    """The routers, and the rollout to them."""

    routers: dict[str, Router]
    rollout: Rollout
    targets: dict[str, Target]
    way: tuple[str, float, float]
    dice: random.Random
    seen: dict[str, Seen] = field(default_factory=dict)
    #: When the last site of each ring was offered, in seconds.
    at: float = 0.0

    def tick(self, tick_s: float) -> None:
        """The world goes on, heartbeats arrive, the worker looks."""
        self.at += tick_s
        now = START + timedelta(seconds=self.at)
        offering = self.rollout.state in (State.RUNNING, State.SOAKING, State.PAUSED)
        words: dict[tuple[int, str], Seen] = {}  # many say the same
        for name, router in self.routers.items():
            out = router.is_out(self.at)
            offered = offering and self.targets[name].state is TargetState.OFFERED
            if offered or router.stage not in ("idle", "returned"):
                router.live(self.at, tick_s, out, offered, self.way, self.dice)
            if not (router.dead or out):
                said = router.counter, router.stage
                if said not in words:
                    release = "" if router.stage == "idle" else PATH
                    words[said] = Seen(now, now, router.counter, router.stage, release)
                self.seen[name] = words[said]
        done = step(Scene(self.rollout, self.targets, self.seen, now))
        self.rollout = done.rollout
        self.targets.update(done.changed)

    def harmed(self) -> int:
        """Sites that the release has harmed or is bound to."""
        return sum(router.doomed and router.installed for router in self.routers.values())


def fleet(seed: int, way: str, share: float) -> Fleet:
    """A fleet before a release that fails on ``share`` of its devices."""
    dice = random.Random(seed)
    routers = {}
    bad_lots = max(1, round(share * LOTS)) if way == "lot" and share > 0 else 0
    for number in range(SITES):
        mobile = dice.random() < MOBILE_SHARE
        lot = dice.randrange(LOTS)
        if way == "lot":
            # A share below one lot's: the lot fails in part.
            doomed = lot < bad_lots and dice.random() < share * LOTS / bad_lots
        else:
            doomed = dice.random() < share
        slow = SLOW_TIMES if dice.random() < SLOW_SHARE else 1.0
        name = f"site-{number:05}"
        routers[name] = Router(
            name=name,
            lot=lot,
            outages=outages(dice, mobile),
            fetch_s=slow * FETCH_MEDIAN_S * math.exp(dice.gauss(0.0, FETCH_SIGMA)),
            doomed=doomed,
            unlucky=dice.random() < UNLUCKY_SHARE,
        )
    plan = replace(Plan(), limits=replace(Limits(), wait_s=WAIT_S))
    rollout = Rollout(f"1.1.0-{seed}", State.PLANNED, plan, 0, START)
    ring_of = rings.assign(rollout.id, [rings.Candidate(name) for name in routers], plan.rings)
    targets = {name: Target(name, ring_of[name], TargetState.WAITING, PATH, NEW) for name in routers}
    return Fleet(routers, rollout, targets, WAYS.get(way, ("", 0.0, 0.0)), dice)


def outages(dice: random.Random, mobile: bool) -> list[tuple[float, float]]:
    """When a site is away, in order."""
    found: list[tuple[float, float]] = []
    at = 0.0
    if dice.random() < OFFLINE_SHARE:
        at = dice.uniform(0.0, BACK_WITHIN_S) if dice.random() < 0.5 else math.inf
        found.append((0.0, at))
    while at < HORIZON_S:
        start = at + dice.expovariate(1 / OUTAGE_EVERY_S[mobile])
        at = start + OUTAGE_MEDIAN_S * math.exp(dice.gauss(0.0, OUTAGE_SIGMA))
        found.append((start, at))
    return found


def run(seed: int, way: str, share: float, tick_s: float = TICK_S) -> Fleet:
    """Until it is halted or finished."""
    found = fleet(seed, way, share)
    while found.rollout.state not in (State.HALTED, State.FINISHED) and found.at < HORIZON_S:
        found.tick(tick_s)
    return found


def main() -> int:
    begun = time.perf_counter()
    for way in WAYS:
        f = run(1, way, 0.05)
        print(way, f.rollout.state, f.rollout.ring, f.at / 3600, f.harmed(), time.perf_counter() - begun)
    f = run(1, "", 0.0, COARSE_TICK_S)
    print("good", f.rollout.state, f.rollout.ring, f.at / 3600, f.harmed(), time.perf_counter() - begun)
    return 0


if __name__ == "__main__":
    sys.exit(main())
