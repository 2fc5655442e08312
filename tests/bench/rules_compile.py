"""What the policies of so many sites cost to read and to compile, in a process of its own. Prints JSON.

``SITES ROUNDS`` measures time, ``SITES rss`` the memory of one reading, compilation and rendering, ``SITES explain``
the time of explanations, ``SITES apply ROUNDS`` the product's way into an empty kernel.
"""

import json
import random
import resource
import sys
import time
from ipaddress import ip_address
from statistics import median, quantiles

from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.skeleton import Doors
from linux.netfilter import Netfilter
from linux.runner import SubprocessRunner
from rules.compile import RuleSet, compile_policy
from rules.explain import Explainer
from rules.model import Inventory, Policy, PolicySource
from rules.parse import parse
from rules.render import Sides, render
from rules.vectors import vectors
from tests.bench.rules_world import in_proportion

QUESTIONS = 2000
SERVICES = ("tcp/443", "udp/47808", "tcp/502", "ssh", "ping", "snmp", "tcp/8001-8010", "opc-ua", "any", "tcp/9999")


def decide(inventory: Inventory, sources: list[PolicySource]) -> tuple[Policy, RuleSet]:
    """Read, verify and compile."""
    policy = parse(sources, inventory)
    return policy, compile_policy(policy, inventory)


def compile_s(inventory: Inventory, sources: list[PolicySource], rounds: int) -> dict[str, object]:
    """Seconds of processor and of the clock, from texts to the kernel's vectors; the medians and the best."""
    process: list[float] = []
    wall: list[float] = []
    parts: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        begun, clock = time.process_time(), time.perf_counter()
        policy = parse(sources, inventory)
        parsed = time.process_time()
        rule_set = compile_policy(policy, inventory)
        compiled = time.process_time()
        found = [vectors(domain, rule_set.shared.values()) for domain in rule_set.domains.values()]
        process.append(time.process_time() - begun)
        wall.append(time.perf_counter() - clock)
        parts.append((parsed - begun, compiled - parsed, process[-1] - (compiled - begun)))
        del policy, rule_set, found
    middle = sorted(range(rounds), key=process.__getitem__)[rounds // 2]
    return {
        "compile_s": median(process),
        "compile_s_best": min(process),
        "compile_wall_s": median(wall),
        "compile_wall_s_best": min(wall),
        **dict(zip(("parse_s", "rule_set_s", "vectors_s"), parts[middle], strict=True)),
    }


def peak_rss_mib(inventory: Inventory, sources: list[PolicySource]) -> dict[str, object]:
    """The most memory that this process has had, the world included."""
    _, rule_set = decide(inventory, sources)
    rendered = render(rule_set, version=1, sides=Sides("ipsec0", "lan0"))
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_rss_mib": found, "set_entries": rendered.sets.count("\nadd "), "sets": rendered.sets.count("create ")}


def explain_ms(inventory: Inventory, sources: list[PolicySource]) -> dict[str, object]:
    """Random questions, four in five within a tenant."""
    policy, rule_set = decide(inventory, sources)
    begun = time.perf_counter()
    explainer = Explainer(policy, rule_set, inventory)
    made_s = time.perf_counter() - begun
    chance = random.Random(6)
    own: dict[str, list[str]] = {}
    for site in inventory.sites:
        own.setdefault(site.tenant, []).append(site.name)
    for device in inventory.devices:
        own[device.site.partition("-")[0]].append(f"{device.site}/{device.name}")
    shared = [server.name for server in inventory.servers]
    everybody = [name for names in own.values() for name in names]
    times = []
    for _ in range(QUESTIONS):
        source = chance.choice(everybody)
        near = chance.random() < 0.8
        target = chance.choice(own[source.partition("-")[0]] + shared if near else everybody)
        asked = time.perf_counter()
        explainer.explain(source, target, chance.choice(SERVICES))
        times.append((time.perf_counter() - asked) * 1000)
    return {
        "explain_ms_p50": median(times),
        "explain_ms_p95": quantiles(times, n=20)[-1],
        "explainer_made_s": made_s,
    }


def apply_full_s(inventory: Inventory, sources: list[PolicySource], rounds: int) -> dict[str, object]:
    """The product's apply into a kernel that has the skeleton and nothing else."""
    _, rule_set = decide(inventory, sources)
    times = []
    for number in range(rounds):
        namespace = f"rc-{number}"
        SubprocessRunner().run(["ip", "netns", "add", namespace])
        runner = SubprocessRunner(["ip", "netns", "exec", namespace])
        doors = Doors(ip_address("10.255.255.1"), "lan0", "wan0", (25,), (25,), ())
        enforcement = Enforcement(Netfilter(runner), doors)
        enforcement.hold()
        begun = time.perf_counter()
        enforcement.apply(rule_set)
        times.append(time.perf_counter() - begun)
        broken = enforcement.repair(thorough=True)
        SubprocessRunner().run(["ip", "netns", "del", namespace])
        if broken:
            raise SystemExit(f"the kernel has not what was applied: {broken[:5]}")
    return {"apply_full_s": median(times), "apply_full_s_best": min(times)}


def main() -> int:
    """Measure what the arguments say."""
    sites, what = int(sys.argv[1]), sys.argv[2]
    world = in_proportion(sites)
    if what == "rss":
        found = peak_rss_mib(*world)
    elif what == "explain":
        found = explain_ms(*world)
    elif what == "apply":
        found = apply_full_s(*world, int(sys.argv[3]))
    else:
        found = compile_s(*world, int(what))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
