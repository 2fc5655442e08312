"""What dies at the gateway: the daemon (no tunnel may notice), charon (all have to come back).

``restart LIVE`` and ``charon LIVE``. Prints JSON.

In `charon` the routers bring their tunnels up and back by themselves (tests.bench.vpn_routers): the agent's states,
timing for a wired line and back-off. A site is back when its tunnel has carried a probe and its answer.
"""

import json
import sys
import time
from pathlib import Path

from lab.network import wait_until
from tests.bench.vpn_storm import Figures
from tests.bench.vpn_world import SERVICE, VpnWorld, build, ping_loss
from tests.lab.gateway_world import background

#: The daemon is away for so long; then it has so long to look at everything twice (5 s each), in seconds.
AWAY_S, REST_S = 3.0, 13.0
#: Pings a second through one tunnel.
PINGS_A_SECOND = 20
#: Seconds until the bench gives up waiting for all sites.
GIVE_UP_S = 180.0


def restart(world: VpnWorld) -> Figures:
    """SIGKILL the daemon, start it again. charon stays."""
    world.kyoten.start()
    world.fleet.start(world.kyoten.public)
    world.fleet.connect_all(world.kyoten)
    time.sleep(2)
    before, routers_before = world.kyoten.ids(), world.fleet.up()
    ways = world.kyoten.passable()
    own = world.fleet.sites[0].own
    seconds = round(2 + AWAY_S + REST_S)
    argv = ["ping", "-q", "-i", str(1 / PINGS_A_SECOND), "-W", "2", "-c", str(seconds * PINGS_A_SECOND)]
    ping = background(world.fleet.host, [*argv, "-I", str(own), str(SERVICE)])
    time.sleep(2)
    world.kyoten.daemon.kill()
    time.sleep(AWAY_S)
    adopted = _adopted(world)
    began = time.monotonic()
    world.kyoten.world.start()
    wait_until("the daemon to take over", lambda: _adopted(world) > adopted, timeout_s=60)
    took_over_s = time.monotonic() - began
    said, _ = ping.communicate(timeout=seconds + 30)
    after, routers_after = world.kyoten.ids(), world.fleet.up()
    sent, unanswered = ping_loss(said)
    return {
        "gateway_restart_tunnels_lost": sum(after.get(site) != number for site, number in before.items())
        + sum(routers_after.get(site) != number for site, number in routers_before.items()),
        "gateway_restart_live": len(before),
        "gateway_restart_ways_lost": ways - world.kyoten.passable(),
        "gateway_restart_pings_lost": unanswered,
        "gateway_restart_pings": sent,
        "gateway_restart_takes_over_s": took_over_s,
    }


def _adopted(world: VpnWorld) -> int:
    log = world.kyoten.world.gateway.directory / "gateway.log"
    return log.read_text(errors="replace").count("how=adopted")


def charon(world: VpnWorld) -> Figures:
    """SIGKILL the gateway's charon, and nothing else."""
    world.kyoten.start()
    world.fleet.start(world.kyoten.public, dpd_s=20)
    directory = world.fleet.host.directory
    sites, state = directory / "sites.json", directory / "state.json"
    sites.write_text(json.dumps({site.name: str(site.own) for site in world.fleet.sites}))
    argv = [sys.executable, "-m", "tests.bench.vpn_routers", *map(str, (world.fleet.directory, sites, state))]
    world.fleet.host.start("routers", argv)
    wanted = len(world.fleet.sites)
    wait_until("all sites", lambda: _carried_since(state, 0.0) == wanted, timeout_s=GIVE_UP_S, every_s=0.2)
    time.sleep(8)  # probes spread out, as they do in a day
    killed = time.monotonic()
    world.kyoten.host.run(["kill", "-9", str(world.kyoten.world.charon_pid())])
    back: list[float] = []
    for share in (0.5, 1.0):
        wait_until(
            f"{share:.0%} of the sites",
            lambda share=share: _carried_since(state, killed) >= share * wanted,  # type: ignore[misc]
            timeout_s=GIVE_UP_S,
            every_s=0.1,
        )
        back.append(time.monotonic() - killed)
    return {"charon_kill_half_back_s": back[0], "charon_kill_all_back_s": back[1], "charon_kill_sites": wanted}


def _carried_since(state: Path, since: float) -> int:
    """How many sites' present tunnels have carried a probe since."""
    try:
        document = json.loads(state.read_text())
    except FileNotFoundError:
        return 0
    return sum(at is not None and at > since for at in document.values())


def main() -> int:
    """Measure and print."""
    live = int(sys.argv[2])
    world = build(sys.argv[1], registered=2 * live, connecting=live)
    try:
        figures = restart(world) if sys.argv[1] == "restart" else charon(world)
    finally:
        world.close()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
