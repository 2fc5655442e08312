"""``make bench NAME=firmware``: the router's image, its updates and their way. The last line is one JSON object.

redownloaded_pct                 what came over a 384/64 kbit/s line with 1 % loss, dropped and with a new address every
                                 45 s, beyond the payload itself: TLS, HTTP, handshakes and all that came twice
bad_line_excess_pct              a whole update in an emulated router, dropped every ten minutes: by its own count
delta_pct_of_full_package, _kernel   a delta in per cent of the full payload: one package changed, the kernel changed
rollout_10000_plan_s             the dry run for 10,000 sites, from the registry to what a person is shown
rollout_sim_harmed_pct           10,000 simulated sites, the release fails on 5 % of them, six ways, five fleets each:
                                 the worst share of all sites harmed; beside it other shares, and 100 good releases
boot_to_tunnel_s, rss_idle_mib   an enrolled router from power-on to its tunnel, emulated; its processes' memory at rest
bad_releases, returned_by_itself     releases that cannot be kept, offered, fetched, installed, tried;
                                 trial_to_rollback_s: of the one that hangs, from the trial's start to the old slot's
power_cuts, bricked, settings_lost   the disk of an update, cut at any write; power_cuts_booted: of them in QEMU
image_mib, reproducible          a release as it travels whole; two builds gave the same bytes

Each part is a process of its own; ``--only PART`` runs one. What needs Debian's archive is made before, outside of the
box: ``python -m tests.bench.firmware_image prepare``. ``cuts`` goes on where it was ended.
"""

import sys

from tests.bench.parts import measure

#: The bars: figure -> (limit, whether more is better).
BARS = {
    "power_cuts": (1000, True),
    "power_cuts_booted": (60, True),
    "bricked": (0, False),
    "settings_lost": (0, False),
    "bad_releases": (6, True),
    "returned_by_itself": (6, True),
    "redownloaded_pct": (2, False),
    "bad_line_excess_pct": (2, False),
    "delta_pct_of_full_package": (5, False),
    "delta_pct_of_full_kernel": (25, False),
    "image_mib": (110, False),
    "boot_to_tunnel_s": (60, False),
    "rss_idle_mib": (120, False),
    "reproducible": (1, True),
    "rollout_10000_plan_s": (5, False),
    "rollout_sim_harmed_pct": (0.5, False),
    "rollout_false_halts": (0, False),
    "trial_to_rollback_s": (180, False),
}

#: Part -> module and arguments, at full size.
PARTS: dict[str, tuple[object, ...]] = {
    "line": ("firmware_transport", "line"),
    "delta": ("firmware_transport", "delta"),
    "image": ("firmware_image", "release"),
    "reproducible": ("firmware_image", "reproducible"),
    "boot": ("firmware_boot", "start"),
    "update": ("firmware_boot", "update"),
    "returns": ("firmware_boot", "returns"),
    "bad-line": ("firmware_boot", "bad-line"),
    "uefi": ("firmware_boot", "uefi"),
    "stick": ("firmware_boot", "stick"),
    "plan": ("firmware_rollout", "plan"),
    "cuts": ("firmware_cuts", 1000, 60, 2),
    "rollouts": ("firmware_rollout", "sim", 100, 5, 2),
}


if __name__ == "__main__":
    sys.exit(measure("bench firmware", BARS, PARTS))
