"""The gateway dies, all of it, at once: nothing passes meanwhile, and everything comes back by itself."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from lab.demo.report import Line
from lab.network import wait_until
from lab.probes import Probe, Target, run
from lab.world import World

RECOVERS_WITHIN_S = 45.0


def gateway_killed(world: World) -> list[Line]:
    """SIGKILL to the daemon and to charon; what passes while they are away; seconds until every allowed flow works."""
    wanted = world.sites_in_charon()
    policy_before = forward_policy(world)
    allowed, forbidden = _probes(world)
    killed = kill_gateway(world)
    during = run(forbidden + allowed)
    policy_during = forward_policy(world)
    world.start_daemon("gateway")
    leaked = 0
    with ThreadPoolExecutor(1) as pool:
        watching = True

        def watch() -> int:
            passed = 0
            while watching:
                passed += sum(run(forbidden))
            return passed

        watcher = pool.submit(watch)
        try:
            wait_until(
                "every tunnel back", lambda: world.sites_in_charon() >= wanted, timeout_s=RECOVERS_WITHIN_S, every_s=0.1
            )
            back_s = time.monotonic() - killed
            wait_until("allowed flows back", lambda: all(run(allowed)), timeout_s=RECOVERS_WITHIN_S)
        finally:
            watching = False
        leaked = watcher.result()
    flows_s = time.monotonic() - killed
    return [
        Line(
            "a killed gateway drops everything meanwhile",
            not any(during) and not leaked and policy_before == policy_during == "DROP",
            f"{sum(during)} of {len(during)} probes passed while it was dead, {leaked} forbidden ones during recovery; "
            f"FORWARD policy {policy_during}",
        ),
        Line(
            "a killed gateway recovers by itself",
            back_s <= RECOVERS_WITHIN_S,
            f"all {len(wanted)} tunnels back {back_s:.1f} s after the kill, flows after {flows_s:.1f} s",
        ),
    ]


def kill_gateway(world: World) -> float:
    """SIGKILL to the daemon and to charon; the moment it was done (monotonic)."""
    world.gateway.processes["gateway"].kill()
    os.kill(world.charon_pid(), signal.SIGKILL)
    return time.monotonic()


def forward_policy(world: World) -> str:
    """The policy of the gateway's FORWARD chain, asked of the kernel."""
    saved = world.gateway.run(["iptables-legacy-save", "-t", "filter"]).stdout
    return next(line.split()[1] for line in saved.splitlines() if line.startswith(":FORWARD "))


def _probes(world: World) -> tuple[list[Probe], list[Probe]]:
    """Flows that the policy allows, one a site, and flows that it forbids."""
    sites, servers, plan = world.ground.sites, world.ground.servers, world.plan
    database = str(plan.servers["database"][1])
    allowed = [
        Probe(sites["tokyo-1"].controllers["plc"], Target(database, "tcp", 80)),
        Probe(servers["web"], Target(str(sites["osaka-1"].plan.overlay_address("plc")), "tcp", 80)),
        Probe(sites["nagoya-1"].controllers["plc"], Target(database, "tcp", 5432)),
        Probe(sites["kobe-1"].controllers["plc"], Target(database, "tcp", 5432)),
    ]
    forbidden = [
        Probe(sites["tokyo-1"].controllers["plc"], Target(str(sites["kobe-1"].plan.overlay_address("plc")), "tcp", 80)),
        Probe(servers["database"], Target(str(sites["tokyo-1"].plan.overlay_address("plc")), "tcp", 80)),
    ]
    return allowed, forbidden
