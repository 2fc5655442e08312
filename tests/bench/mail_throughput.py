"""Accepted a second and end to end, Kyoten and Postfix in turns: ``ROUNDS MESSAGES_1 MESSAGES_20``. Prints JSON.

Both are sent the same smtp-source line: 10 kB mails, one connection each, 1 client and 20. Accepted: until smtp-source
has its last 250, while the deliveries to the sink go on beside it. End to end: until the sink has the last one. Who
begins changes from round to round; the first round of each is thrown away. Medians of rounds, and of their ratios.
"""

import json
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from statistics import median

from tests.bench.mail_world import POSTFIX, RELAY, World, build, fsync_ms, source

#: Longest that a round's mails may take to the sink, in seconds.
DRAIN_S = 180.0
SERVERS = {"kyoten": RELAY, "postfix": POSTFIX}


@dataclass(frozen=True, slots=True)
class Round:
    """Mails a second."""

    accepted: float
    end_to_end: float


def one_round(world: World, address: IPv4Address, clients: int, messages: int) -> Round:
    """Hand over ``messages``, wait until the sink has them."""
    before = world.sink.count
    began = time.perf_counter()
    accepted_at = source(address, clients=clients, messages=messages)
    delivered_at = world.sink.wait(before + messages, DRAIN_S)
    return Round(messages / (accepted_at - began), messages / (delivered_at - began))


def rounds(world: World, clients: int, messages: int, count: int) -> dict[str, list[Round]]:
    """``count`` rounds of each server in turns."""
    found: dict[str, list[Round]] = {name: [] for name in SERVERS}
    for address in SERVERS.values():
        one_round(world, address, clients, max(clients, messages // 4))
    for number in range(count):
        order = list(SERVERS) if number % 2 else list(reversed(SERVERS))
        for name in order:
            found[name].append(one_round(world, SERVERS[name], clients, messages))
        ours, theirs = found["kyoten"][-1], found["postfix"][-1]
        sys.stderr.write(
            f"    c{clients}: accepted {ours.accepted:.0f}/s, Postfix {theirs.accepted:.0f}/s;"
            f" end to end {ours.end_to_end:.0f}/s, Postfix {theirs.end_to_end:.0f}/s\n"
        )
    return found


def main() -> int:
    """Measure both numbers of clients; print the figures."""
    count, few, many = (int(word) for word in sys.argv[1:4])
    world = build()
    figures: dict[str, float] = {"fsync_4k_ms_p50": fsync_ms(world.relay.directory)}
    for clients, messages in ((1, few), (20, many)):
        found = rounds(world, clients, messages, count)
        pairs = list(zip(found["kyoten"], found["postfix"], strict=True))
        for name, runs in found.items():
            figures[f"accepted_per_s_c{clients}_{name}"] = median(run.accepted for run in runs)
            figures[f"end_to_end_per_s_c{clients}_{name}"] = median(run.end_to_end for run in runs)
        figures[f"accept_vs_postfix_c{clients}"] = median(ours.accepted / theirs.accepted for ours, theirs in pairs)
        figures[f"end_to_end_vs_postfix_c{clients}"] = median(
            ours.end_to_end / theirs.end_to_end for ours, theirs in pairs
        )
    world.stop()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
