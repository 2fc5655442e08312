"""``make bench NAME=vpn``: the tunnel plane. The last line is one JSON object.

setups_per_s_vs_bare, storm_all_up_s_vs_bare   1,000 sites with certificates at once, against charon alone, in turns
setup_ms_with_10000_registered_vs_100          one set-up after the other, the registry large and small
daemon_rss_mib                                 `kyoten gateway` with 1,000 live tunnels
sa_lost_on_change                              500 live tunnels, 100 sites added, removed, moved
revoke_to_cut_s, revoked_back_in               the slowest of 24; how many got in again in 15 s of trying
gateway_restart_tunnels_lost                   the daemon is killed and started; charon stays
charon_kill_all_back_s                         charon is killed, 200 routers come back by themselves
throughput_vs_bare                             iperf3 site-cloud-site, against charon with plain forwarding
usage_error_pct                                `kyoten usage` against interface counters, over rekeys and a restart
uplink_switch_s_p95                            a router's wired line dies: ping through the tunnel
flood_...                                      5,000 junk IKE_SA_INIT a second (tests.bench.vpn_flood)

Both ends of every tunnel, and whatever is compared, share this machine's cores. Each part is a process of its own;
``--only PART`` runs one: storm, registered, changes, revoke, restart, charon, throughput, usage, uplink or flood.
"""

import sys

from tests.bench.parts import measure

#: The bars: figure -> (limit, whether more is better).
BARS = {
    "setups_per_s_vs_bare": (0.9, True),
    "storm_all_up_s_vs_bare": (1.15, False),
    "setup_ms_with_10000_registered_vs_100": (1.1, False),
    "daemon_rss_mib": (200, False),
    "sa_lost_on_change": (0, False),
    "revoke_to_cut_s": (2.0, False),
    "revoked_back_in": (0, False),
    "gateway_restart_tunnels_lost": (0, False),
    "charon_kill_all_back_s": (45, False),
    "throughput_vs_bare": (0.97, True),
    "usage_error_pct": (0.1, False),
    "uplink_switch_s_p95": (6, False),
}

#: Part -> module and arguments, at full size.
PARTS: dict[str, tuple[object, ...]] = {
    "storm": ("vpn_storm", "storm", 1000, 5),
    "registered": ("vpn_storm", "registered", 100, 10_000, 100, 4),
    "changes": ("vpn_changes", "changes", 500, 100),
    "revoke": ("vpn_changes", "revoke", 200, 24),
    "restart": ("vpn_faults", "restart", 500),
    "charon": ("vpn_faults", "charon", 200),
    "throughput": ("vpn_throughput", 8, 5),
    "usage": ("vpn_usage", 20),
    "uplink": ("vpn_uplink", 20),
    "flood": ("vpn_flood",),
}


if __name__ == "__main__":
    sys.exit(measure("bench vpn", BARS, PARTS))
