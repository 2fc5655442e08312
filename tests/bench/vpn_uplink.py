"""A router with a wired and a mobile line loses the wired one: how long does a ping through its tunnel go unanswered?

``SWITCHES``. Half of the times the line goes silent (it has carrier and nothing passes), half of the times the carrier
goes. The real agent with its own timing for the wired line; only the wait before it goes back is short. Prints JSON.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))  # its modules name each other without a package

from uplink_world import Pinger, UplinkWorld, build_uplinks, outage_s

from lab.network import LabError

#: Seconds: until the agent goes back to a wired line that is well again; at rest between two breaks; watched after one.
HOLD_S, REST_S, WATCH_S = 3, 3.0, 20.0


def switch(world: UplinkWorld, kind: str) -> float:
    """Break the wired line; seconds until the ping was answered again. The line is well again afterwards."""
    world.wait_line("wan0", timeout_s=60)
    world.world.wait_carries(timeout_s=60)
    time.sleep(REST_S)
    pinger = Pinger(world.world.gateway)
    time.sleep(1.0)
    broken_at = time.time()
    (world.silence if kind == "silent" else world.unplug)("wan0")
    try:
        world.wait_line("wwan0", timeout_s=WATCH_S)
        world.world.wait_carries(timeout_s=WATCH_S)
    except LabError as error:
        sys.stderr.write(f"    {kind}: {error}\n")
    time.sleep(1.0)
    outage = outage_s(pinger.end(), broken_at)
    (world.mend if kind == "silent" else world.plug)("wan0")
    return min(outage, WATCH_S)


def main() -> int:
    """Measure and print."""
    switches = int(sys.argv[1])
    world = build_uplinks("up")
    found: dict[str, list[float]] = {"silent": [], "carrier": []}
    try:
        world.world.start_agent("--hold-s", str(HOLD_S))
        for number in range(switches):
            kind = ("silent", "carrier")[number % 2]
            found[kind].append(switch(world, kind))
            sys.stderr.write(f"    {kind}: {found[kind][-1]:.2f} s\n")
    finally:
        world.world.close()
    every = sorted(found["silent"] + found["carrier"])
    figures = {
        # The value that at most a twentieth of them exceeds.
        "uplink_switch_s_p95": every[min(len(every) - 1, int(0.95 * len(every)))],
        "uplink_switch_s_p50": median(every),
        "uplink_switch_s_max": every[-1],
        "uplink_switch_silent_s_p50": median(found["silent"]),
        "uplink_switch_carrier_s_p50": median(found["carrier"]),
        "uplink_switches": len(every),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
