"""``make bench NAME=mail``: the mail relay. The last line is one JSON object.

accept_vs_postfix_c20, _c1       10 kB mails accepted a second, durable, against Postfix: same disk, same smtp-source
end_to_end_vs_postfix_c20        the same until the smtp-sink behind both has the last one
accept_ms_p99                    from the end of the data to the 250, 20 clients at full speed
idle_10000_rss_mib               all of the relay's processes, with 10,000 connections that say nothing
max_rss_under_attack_mib         100 connections with endless lines, headers and mails
alarm_delay_s                    a site's limit crossed until the alarm is outside, the smarthost being dead
dsn_attribution_pct              bounces of many kinds matched to message and recipient
false_alarms_per_1000_site_days, floods_caught_pct   a simulated year of a fleet
crash_cuts, mails_lost           the relay killed again and again under load
vm_write_log_cuts, mails_lost_vm the machine's power cut, by its write log

Clients, servers and smtp-sink share this machine's cores, and so does Postfix when it is its turn. Each part is a
process of its own; ``--only PART`` runs one: throughput, latency, idle, attack, alarm, dsn, fleet, crash or vm.
"""

import sys

from tests.bench.parts import measure

#: The bars: figure -> (limit, whether more is better).
BARS = {
    "accept_vs_postfix_c20": (1.5, True),
    "accept_vs_postfix_c1": (1.5, True),
    "end_to_end_vs_postfix_c20": (1.2, True),
    "accept_ms_p99": (60, False),
    "crash_cuts": (500, True),
    "mails_lost": (0, False),
    "vm_write_log_cuts": (200, True),
    "mails_lost_vm": (0, False),
    "idle_10000_rss_mib": (400, False),
    "max_rss_under_attack_mib": (250, False),
    "dsn_attribution_pct": (100, True),
    "alarm_delay_s": (5, False),
    "false_alarms_per_1000_site_days": (1, False),
    "floods_caught_pct": (100, True),
}

#: Part -> module and arguments, at full size.
PARTS: dict[str, tuple[object, ...]] = {
    "throughput": ("mail_throughput", 7, 1000, 6000),
    "latency": ("mail_latency", 3, 4000),
    "idle": ("mail_memory", "idle", 10_000),
    "attack": ("mail_memory", "attack", 100, 40),
    "alarm": ("mail_alarm", 5),
    "dsn": ("mail_part", "mail_dsn"),
    "fleet": ("mail_part", "mail_fleet"),
    "crash": ("mail_part", "mail_crash", 500),
    "vm": ("mail_part", "mail_vm", 200),
}


if __name__ == "__main__":
    sys.exit(measure("bench mail", BARS, PARTS))
