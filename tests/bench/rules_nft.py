"""The nft renderer at 10,000 sites, beside ipset and iptables: time to render and to put in force, in a namespace.

Run as a module; the last line is JSON. Seconds of processor time, so that a busy machine does not blur them;
``*_wall_s`` is the clock's.
"""

import json
import resource
import sys
import time

from linux.netfilter import Netfilter
from linux.runner import SubprocessRunner
from rules.compile import compile_policy
from rules.parse import parse
from rules.render import GRANT_CHAIN, TIMED_GRANT_CHAIN, TIMED_SET, Sides, render
from rules.render_nft import build, flip, nft_table, removal
from tests.bench.rules_world import world

#: An empty network namespace as long as we live: the machine's own packet filter is not touched.
NAMESPACE = "kyoten-bench-nft"
RUNNER = SubprocessRunner(["ip", "netns", "exec", NAMESPACE])
SIDES = Sides("ipsec0", "lan0")


def _nft(figures: dict[str, float | int], name: str, script: str) -> None:
    spent, clock = _spent_s(), time.monotonic()
    RUNNER.run(["nft", "-f", "-"], stdin=script, timeout_s=120)
    figures[f"{name}_s"] = round(_spent_s() - spent, 2)
    figures[f"{name}_wall_s"] = round(time.monotonic() - clock, 2)


def _spent_s() -> float:
    """Processor time of programs that we ran."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """In a namespace of its own."""
    machine = SubprocessRunner()
    machine.run(["ip", "netns", "add", NAMESPACE])
    try:
        _measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    finally:
        machine.run(["ip", "netns", "del", NAMESPACE])


def _measure(sites: int) -> None:
    """Once once: a version from nothing, and one that takes over from it."""
    inventory, sources = world(sites=sites, statements=5 * sites)
    rule_set = compile_policy(parse(sources, inventory), inventory)
    figures: dict[str, float | int] = {"sites": sites}
    begun = time.process_time()
    table = nft_table(rule_set, sides=SIDES)
    first = build(table, 1)
    figures["nft_render_s"] = round(time.process_time() - begun, 2)
    figures |= {
        "nft_elements": sum(len(one.elements) for one in table.sets.values()),
        "nft_chains": len(table.chains),
        "nft_script_bytes": len(first),
    }
    _nft(figures, "nft_build", first)
    _nft(figures, "nft_flip", flip(1))
    _nft(figures, "nft_build_again", build(table, 2))
    _nft(figures, "nft_flip_again", flip(2, [1]))
    _nft(figures, "nft_remove", removal([1]))
    begun = time.process_time()
    rendered = render(rule_set, version=1, sides=SIDES)
    figures["ipset_render_s"] = round(time.process_time() - begun, 2)
    netfilter = Netfilter(RUNNER)
    spent, clock = _spent_s(), time.monotonic()
    netfilter.restore_sets(f"create {TIMED_SET} hash:ip,port,net timeout 0\n")
    netfilter.restore_sets(rendered.sets)
    chains = f"*mangle\n:{GRANT_CHAIN} - [0:0]\n:{TIMED_GRANT_CHAIN} - [0:0]\n"
    netfilter.restore_rules(rendered.chains.replace("*mangle\n", chains, 1))
    figures["ipset_apply_s"] = round(_spent_s() - spent, 2)
    figures["ipset_apply_wall_s"] = round(time.monotonic() - clock, 2)
    for name, value in figures.items():
        sys.stdout.write(f"{name:>22}  {value}\n")
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
