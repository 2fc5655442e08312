"""A rollout to a simulated fleet, decided by the product's own code: ``sim``, ``good`` or ``plan``. Prints JSON.

``sim``: 10,000 sites; what the worker would decide is decided by ``cloudside.fleet.rollouts.stepping``, on what it
would have seen; only routers and the world around them are simulated. A bad release fails on a share of the devices,
in six ways. Harmed is a site that installed it and failed, whether it came back by itself or not, noticed or not,
before or after the halt. Good releases must finish; a halt of one is a false halt.

``plan``: how long the dry run for 10,000 sites takes, from the registry (SQLite) to the table.

What is assumed of the world (docs/adr/0023-rollouts.md says why):

- 60 % of the sites are on mobile lines. A mobile site has an outage every 10 days, a wired one every 30, lognormal with
  a median of 15 minutes (sigma 1.8: one in eight is longer than two hours).
- 8 % are offline when it begins; half of them come back within 10 days, the others never.
- Fetching takes 20 minutes (lognormal, sigma 1); for one in twenty 20 times as long. Install and trial take 15 minutes.
- A good release fails its trial at 0.1 % of the sites, because of what else happens there.
- 20 hardware lots of 5 % each, all over the fleet.

Failures that show late do so 2 to 20 hours after the commit, or 20 to 36: after the soak time of 24 hours for many.
"""

import heapq
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

from cloudside.fleet.rollouts import keeper, rings, wishes
from cloudside.fleet.rollouts.machine import State, TargetState
from cloudside.fleet.rollouts.model import DAY_S, HOUR_S, Limits, Plan, Rollout, Seen, Target
from cloudside.fleet.rollouts.stepping import Scene, step
from cloudside.registry import releases
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import Heartbeat, Site, Tenant
from firmware.release import Applicability, Delta, File, Release, SlotFacts

SITES = 10_000
START = datetime(2026, 11, 22, tzinfo=UTC)
PATH = "releases/kyoten-x86-64/1.1.0.json"
OLD, NEW = 10, 11
#: Seconds between two looks. The worker looks every 15 s; a coarse look is worse for harm, so the figure is no better
#: than the product.
TICK_S = 600.0
SOAK_TICK_S = 1800.0
#: For good releases, of which there are many runs of many days.
GOOD_TICK_S = 3600.0
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
    #: Seconds since the start.
    at: float = 0.0

    def __post_init__(self) -> None:
        self.words: dict[tuple[int, str], Seen] = {}
        self.away: set[str] = set()
        self.active: set[str] = set()
        self.borders = [(0.0, name) for name in self.routers]

    def tick(self, tick_s: float) -> None:
        """The world goes on, heartbeats arrive, the worker looks."""
        self.at += tick_s
        now = START + timedelta(seconds=self.at)
        self._lines()
        for word in self.words.values():
            # Thousands of routers say the same: they share what is seen of them, and only its time moves on.
            object.__setattr__(word, "heard_at", now)
            object.__setattr__(word, "well_at", now)
        offering = self.rollout.state in (State.RUNNING, State.SOAKING, State.PAUSED)
        for name in list(self.active):
            router = self.routers[name]
            offered = offering and self.targets[name].state is TargetState.OFFERED
            router.live(self.at, tick_s, name in self.away, offered, self.way, self.dice)
            rests = router.stage in ("idle", "returned") or (router.stage == "committed" and router.ends == math.inf)
            if router.dead or (rests and not offered):
                self.active.discard(name)
            self._hear(name, now)
        for name in self.returned:
            self._hear(name, now)
        done = step(Scene(self.rollout, self.targets, self.seen, now))
        self.rollout = done.rollout
        self.targets.update(done.changed)
        self.active |= {name for name, one in done.changed.items() if one.state is TargetState.OFFERED}

    def _lines(self) -> None:
        """Lines and power go and come. Who goes is as it was seen last."""
        self.returned = []
        while self.borders and self.borders[0][0] <= self.at:
            _, name = heapq.heappop(self.borders)
            router = self.routers[name]
            if router.is_out(self.at):
                self.away.add(name)
                if name in self.seen:
                    self.seen[name] = replace(self.seen[name])
                heapq.heappush(self.borders, (router.outages[0][1], name))
            else:
                self.away.discard(name)
                self.returned.append(name)
                if router.outages:
                    heapq.heappush(self.borders, (router.outages[0][0], name))

    def _hear(self, name: str, now: datetime) -> None:
        """A heartbeat, if one can come."""
        router = self.routers[name]
        if router.dead:
            if name in self.seen:
                self.seen[name] = replace(self.seen[name])
        elif name not in self.away:
            said = router.counter, router.stage
            if said not in self.words:
                release = "" if router.stage == "idle" else PATH
                self.words[said] = Seen(now, now, router.counter, router.stage, release)
            self.seen[name] = self.words[said]

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
        # A share below one lot's: the lot fails in part.
        chance = share if way != "lot" else share * LOTS / bad_lots if lot < bad_lots else 0.0
        slow = SLOW_TIMES if dice.random() < SLOW_SHARE else 1.0
        name = f"site-{number:05}"
        routers[name] = Router(
            name=name,
            lot=lot,
            outages=outages(dice, mobile),
            fetch_s=slow * FETCH_MEDIAN_S * math.exp(dice.gauss(0.0, FETCH_SIGMA)),
            doomed=dice.random() < chance,
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


def run(seed: int, way: str, share: float) -> Fleet:
    """A bad release, until it is halted or finished."""
    found = fleet(seed, way, share)
    while found.rollout.state not in (State.HALTED, State.FINISHED) and found.at < HORIZON_S:
        found.tick(TICK_S if found.rollout.state is State.RUNNING else SOAK_TICK_S)
    return found


def days_until_reached(seed: int) -> tuple[Fleet, float | None]:
    """A good release: how it ended, and after how many days 95 % of the sites that ever come online had it."""
    found = fleet(seed, "", 0.0)
    reachable = sum(not (one.outages and one.outages[0][1] == math.inf) for one in found.routers.values())
    days = None
    while found.rollout.state not in (State.HALTED, State.FINISHED) and found.at < HORIZON_S:
        found.tick(GOOD_TICK_S)
        if days is None and found.rollout.ring == len(found.rollout.plan.rings) - 1:
            updated = sum(one.state is TargetState.UPDATED for one in found.targets.values())
            days = found.at / DAY_S if updated >= 0.95 * reachable else None
    return found, days


def harmed_pct(share: float, seeds: int) -> list[float]:
    """Sites harmed of all, in per cent, for each way and seed."""
    found = []
    for way in WAYS:
        for seed in range(1, seeds + 1):
            ended = run(seed, way, share)
            found.append(100 * ended.harmed() / SITES)
            sys.stderr.write(
                f"{way} {share:.0%} seed {seed}: {ended.rollout.state} in ring {ended.rollout.ring + 1} after "
                f"{ended.at / HOUR_S:.1f} h, {ended.harmed()} harmed\n"
            )
    return found


def simulate(good_runs: int, seeds: int, sweep_seeds: int) -> dict[str, float]:
    """Bad releases of several shares, then good ones."""
    at_5 = harmed_pct(0.05, seeds)
    figures: dict[str, float] = {
        "rollout_sim_harmed_pct": max(at_5),
        "rollout_sim_harmed_pct_mean": sum(at_5) / len(at_5),
        "rollout_sim_runs": len(at_5),
    }
    for share in (0.01, 0.02, 0.1, 0.5) if sweep_seeds else ():
        figures[f"rollout_sim_harmed_pct_at_{100 * share:.0f}"] = max(harmed_pct(share, sweep_seeds))
    if good_runs:
        figures |= good(good_runs)
    return figures


def good(runs: int, first: int = 1000) -> dict[str, float]:
    """Good releases: false halts, and how long they take."""
    halts, unfinished = 0, 0
    took = []
    for seed in range(first, first + runs):
        ended, days = days_until_reached(seed)
        halts += ended.rollout.state is State.HALTED
        unfinished += ended.rollout.state not in (State.HALTED, State.FINISHED)
        took.append(days if days is not None else math.inf)
        sys.stderr.write(f"good seed {seed}: {ended.rollout.state} after {ended.at / DAY_S:.1f} days, 95 % {days}\n")
    took.sort()
    return {
        "rollout_good_runs": runs,
        "rollout_false_halts": halts,
        "rollout_good_unfinished": unfinished,
        "rollout_good_days_p50": took[len(took) // 2],
        "rollout_good_days_max": took[-1],
    }


def registry_with_fleet(directory: Path) -> Database:
    """10,000 sites of 20 tenants that run 1.0.0, on SQLite; a third mobile, for one in ten there is no delta."""
    database = Database(f"sqlite:///{directory / 'registry.sqlite'}")
    database.migrate()
    payload = File(f"{'a' * 64}.zst", 90 << 20, "a" * 64, 128 << 20, ("a" * 64,))
    delta = File(f"{'b' * 64}.zst", 5 << 20, "b" * 64, 128 << 20, ("b" * 64,))
    release = Release(
        "kyoten-x86-64", "1.1.0", NEW, "2026-11-22T00:00:00Z", Applicability(1, ("kyoten-x86-64",), 500, False),
        1, "c" * 64, SlotFacts("d" * 64, "e" * 64, 1, 4096, "f" * 64), payload, (Delta(OLD, "9" * 64, 1, delta, 300),),
        "",
    )  # fmt: skip
    with database.write() as session:
        releases.publish(session, OPERATOR, release, PATH, START)
        for number in range(20):
            block = ip_network(f"10.{number}.0.0/16")
            session.add(Tenant(id=f"tenant-{number:02}", block=block, created_at=START))
        session.flush()
        for number in range(SITES):
            prefix = ip_network(f"10.{number % 20}.{number // 20 // 2}.{128 * (number // 20 % 2)}/25")
            session.add(
                Site(
                    id=f"site-{number:05}", tenant_id=f"tenant-{number % 20:02}", overlay=prefix, lan=prefix,
                    phase="operation", timezone="Asia/Tokyo", created_at=START,
                )
            )  # fmt: skip
    report = {"uplink": {"kind": "wired"}, "lan_devices": [{"address": f"192.168.1.{n}"} for n in range(40)]}
    for start in range(0, SITES, 1000):
        with database.record() as session:
            for number in range(start, start + 1000):
                site = f"site-{number:05}"
                kind = "mobile" if number % 3 == 0 else "wired"
                session.add(
                    Heartbeat(
                        site_id=site, received_at=START, source=ip_address("10.0.0.1"),
                        report={**report, "uplink": {"kind": kind}},
                    )
                )  # fmt: skip
                state = releases.Report(
                    "kyoten-x86-64", "1.0.0", OLD - (number % 10 == 0), "A", "idle", "", "", None, 0, START, None, []
                )
                releases.record_state(session, OPERATOR, site_id=site, report=state, now=START)
    return database


def plan_times() -> dict[str, float]:
    """The dry run, the start and the worker's step, each for 10,000 sites; the slowest of three dry runs."""
    with tempfile.TemporaryDirectory(prefix="kyoten-rollout-") as directory:
        database = registry_with_fleet(Path(directory))
        took = []
        for _ in range(3):
            begun = time.perf_counter()
            with database.read() as session:
                dry = wishes.draft(
                    session, OPERATOR, version="1.1.0", plan=Plan(), selection=wishes.Selection(), now=START
                )
            took.append(time.perf_counter() - begun)
            assert dry.total.sites == SITES
        begun = time.perf_counter()
        with database.write() as session:
            wishes.start(
                session, OPERATOR, version="1.1.0", plan=Plan(), selection=wishes.Selection(), author="bench", now=START
            )
        started = time.perf_counter() - begun
        begun = time.perf_counter()
        keeper.step_all(database, START)
        stepped = time.perf_counter() - begun
        database.close()
    return {
        "rollout_10000_plan_s": max(took),
        "rollout_10000_start_s": started,
        "rollout_10000_step_s": stepped,
        "rollout_plan_mobile_mib": dry.total.mobile_bytes / (1 << 20),
    }


def main() -> int:
    """Measure; print the figures. ``sim [GOOD_RUNS [SEEDS [SWEEP_SEEDS]]]``, ``good RUNS FIRST_SEED`` or ``plan``."""
    what, numbers = sys.argv[1], [int(one) for one in sys.argv[2:]]
    if what == "plan":
        figures = plan_times()
    elif what == "good":
        figures = good(*numbers)
    else:
        figures = simulate(*(numbers + [100, 5, 2][len(numbers) :]))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
