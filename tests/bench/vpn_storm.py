"""Set-ups: a storm of sites against Kyoten and against charon alone in turns, and what the size of the registry costs.

``storm SITES ROUNDS`` and ``registered SMALL LARGE CONNECTING ROUNDS``. Prints JSON.

In a storm all sites begin at the same moment. `all_up`: until the last one is up and packets find their way to each
(Kyoten: its route is in the kernel). The rate is taken between the first and the last tenth that came up, so that it is
the pace of set-ups and not of the start or of the last straggler.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass
from statistics import median

from lab.network import wait_until
from linux.charon_process import socket_path
from tests.bench.vpn_world import Counter, Fleet, Kyoten, Responder, VpnWorld, build

#: Seconds between two looks at how many are up.
LOOK_S = 0.02
#: Longest that a storm may take, in seconds, and how long the gateway then has to come to rest.
GIVE_UP_S, REST_S = 180.0, 12.0
#: Set-ups of each registry's size that are measured before the other one's turn.
SETUPS_A_TURN = 100

Figures = dict[str, object]


@dataclass(frozen=True, slots=True)
class Storm:
    """One storm. Seconds from its begin; ``rate`` set-ups a second between a tenth and nine tenths."""

    established_s: float
    all_up_s: float
    rate: float


class Climb:
    """Notes, on a thread of its own, how many are up at each moment."""

    def __init__(self, responder: Responder, wanted: int) -> None:
        self._counter = Counter(socket_path(responder.directory))
        self._wanted = wanted
        self.points: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < GIVE_UP_S:
            up = self._counter.established()
            self.points.append((time.perf_counter(), up))
            if up >= self._wanted:
                break
            time.sleep(LOOK_S)
        self._counter.close()

    def finish(self) -> None:
        """Wait for the last one."""
        self._thread.join()

    def reached(self, share: float) -> float:
        """When this share of all was up."""
        return next(at for at, up in self.points if up >= share * self._wanted)


def storm(responder: Responder, fleet: Fleet) -> Storm:
    """All sites at once. Raises LabError when not all come up."""
    wanted = len(fleet.sites)
    climb = Climb(responder, wanted)
    began = time.perf_counter()
    for site in fleet.sites:
        fleet.begin(site.name)
    climb.finish()
    wait_until("ways to all", lambda: responder.passable() >= wanted, timeout_s=60, every_s=LOOK_S)
    ended = time.perf_counter()
    wait_until("all routers to know", lambda: len(fleet.up()) >= wanted, timeout_s=60, every_s=0.5)
    low, high = climb.reached(0.1), climb.reached(0.9)
    return Storm(climb.reached(1.0) - began, ended - began, 0.8 * wanted / max(high - low, LOOK_S))


def storms(world: VpnWorld, rounds: int) -> Figures:
    """In turns: Kyoten, bare, bare, Kyoten, ... Each with fresh daemons on both ends."""
    found: dict[str, list[Storm]] = {"kyoten": [], "bare": []}
    rss_mib: list[float] = []
    processor_s: list[float] = []
    for number in range(rounds):
        turn: list[tuple[str, Responder]] = [("kyoten", world.kyoten), ("bare", world.bare)]
        for name, responder in turn if number % 2 == 0 else reversed(turn):
            responder.start()
            world.fleet.start(responder.public)
            time.sleep(2)  # what daemons do at their start
            used = world.kyoten.processor_s() if isinstance(responder, Kyoten) else 0.0
            found[name].append(storm(responder, world.fleet))
            sys.stderr.write(f"    {name}: {found[name][-1]}\n")
            if isinstance(responder, Kyoten):
                processor_s.append(responder.processor_s() - used)
                time.sleep(REST_S)
                rss_mib.append(responder.daemon.rss_mib())
                assert len(responder.ids()) == len(world.fleet.sites)
            world.fleet.stop()
            responder.stop()
    rate = {name: median(one.rate for one in many) for name, many in found.items()}
    all_up = {name: median(one.all_up_s for one in many) for name, many in found.items()}
    return {
        "setups_per_s_vs_bare": rate["kyoten"] / rate["bare"],
        "storm_all_up_s_vs_bare": all_up["kyoten"] / all_up["bare"],
        "setups_per_s": rate["kyoten"],
        "setups_per_s_bare": rate["bare"],
        "storm_all_up_s": all_up["kyoten"],
        "storm_all_up_s_bare": all_up["bare"],
        "storm_rounds": {
            name: [[one.established_s, one.all_up_s, one.rate] for one in many] for name, many in found.items()
        },
        "daemon_rss_mib": max(rss_mib),
        "daemon_processor_s_in_a_storm": median(processor_s),
    }


def registered(worlds: dict[int, VpnWorld], rounds: int) -> Figures:
    """One set-up after the other, with a small and with a large registry in turns; milliseconds, medians.

    A set-up is over when the router has its CHILD_SA. Only one gateway runs at a time.
    """
    setups: dict[int, list[float]] = {size: [] for size in worlds}
    order = list(worlds.items())
    for number in range(rounds):
        for size, world in order if number % 2 == 0 else reversed(order):
            world.kyoten.start()
            world.fleet.start(world.kyoten.public)
            time.sleep(8)  # a large registry's first look at everything, and one more
            for place in range(SETUPS_A_TURN):
                site = world.fleet.sites[place % len(world.fleet.sites)].name
                if place >= len(world.fleet.sites):
                    world.fleet.charon.terminate(connection=site)
                setups[size].append(world.fleet.connect(site) * 1000)
            sys.stderr.write(f"    {size} registered: {median(setups[size][-SETUPS_A_TURN:]):.2f} ms\n")
            world.fleet.stop()
            world.kyoten.stop()
    small, large = min(worlds), max(worlds)
    return {
        "setup_ms_with_10000_registered_vs_100": median(setups[large]) / median(setups[small]),
        "setup_ms_with_100_registered": median(setups[small]),
        "setup_ms_with_10000_registered": median(setups[large]),
        "setup_ms_p95_with_100_registered": _p95(setups[small]),
        "setup_ms_p95_with_10000_registered": _p95(setups[large]),
    }


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def main() -> int:
    """Measure and print."""
    if sys.argv[1] == "storm":
        sites, rounds = map(int, sys.argv[2:])
        world = build("storm", registered=sites, connecting=sites)
        try:
            figures = storms(world, rounds)
        finally:
            world.close()
    else:
        small, large, connecting, rounds = map(int, sys.argv[2:])
        worlds: dict[int, VpnWorld] = {}
        try:
            for size in (small, large):
                worlds[size] = build(f"r{size}", registered=size, connecting=connecting)
            figures = registered(worlds, rounds)
        finally:
            for world in worlds.values():
                world.close()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
