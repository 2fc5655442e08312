"""What the demo shows, in order; what takes a site away comes last."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.demo import mail, matrix, reachability, recovery, remote
from lab.demo.report import Line
from lab.world import World

Step = Callable[[World], list[Line]]

STEPS: tuple[tuple[str, Step], ...] = (
    ("the status", remote.status_in_words),
    ("every pair of hosts", reachability.every_pair),
    ("two equal LANs", reachability.equal_lans),
    ("a forged source", reachability.forged_source),
    ("a stolen subnet", reachability.stolen_subnet),
    ("a mail delivered", mail.delivered),
    ("a bounce returned", mail.bounced),
    ("a flood alarmed once", mail.flood),
    ("a log pulled", remote.log_pulled),
    ("SSH into a device", remote.ssh_into_device),
    ("the mobile line", remote.mobile_line),
    ("a setting that cuts off", remote.settings_cut_off),
    ("the gateway killed", recovery.gateway_killed),
    ("a site revoked", reachability.revoked_site),
)


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds from the first daemon's start."""

    tunnels_s: float
    services_s: float


def start_everything(world: World) -> Started:
    """Bring every daemon of a built world up, and wait until it serves."""
    matrix.start_responders(world)
    mail.start_hosts(world)
    begun = time.monotonic()
    world.start_cloud()
    for site in world.ground.sites:
        world.start_agent(site)
    world.wait_for_tunnels(set(world.ground.sites), timeout_s=60)
    tunnels_s = time.monotonic() - begun
    world.wait_until_served(timeout_s=30)
    return Started(tunnels_s, time.monotonic() - begun)


def start(world: World) -> list[Line]:
    """The first line of the page: everything up, and how long it took."""
    took = start_everything(world)
    count = len(world.ground.sites)
    measured = (
        f"{count} of {count} (one behind a NAT, one on its mobile line only) after {took.tunnels_s:.1f} s; "
        f"every service answers {took.services_s:.1f} s after the first daemon's start"
    )
    return [Line("every tunnel up", world.sites_in_charon() >= set(world.ground.sites), measured)]
