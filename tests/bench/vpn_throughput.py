"""Site to cloud to site: what Kyoten's rules cost bulk traffic, beside charon with plain forwarding.

``SECONDS ROUNDS`` of iperf3 (TCP) from one site through its tunnel, the gateway and another tunnel to the other site,
in turns through Kyoten and through the bare gateway. ESP is done in user space here, so ciphers are the bottleneck and
all three charons share the machine's cores; the ratio is what counts. Prints JSON.
"""

import json
import sys
import time
from contextlib import suppress
from statistics import median

from lab.network import address, wait_until
from linux.errors import LinuxError
from tests.bench.vpn_world import Fleet, Responder, VpnWorld, build

#: How many sites are registered, and which tenant's policy lets the two talk to each other: their own.
REGISTERED = 100
PORT = 5201


def second_site(world: VpnWorld) -> tuple[Fleet, Fleet]:
    """The first site stays where the fleet is; the other one moves to a host of its own, with links of its own."""
    first, other = world.fleet.sites[0], world.fleet.sites[1]
    network, host = world.network, world.network.add_host("other")
    for number, (gateway, interface) in enumerate(((world.kyoten.host, "198.51.102"), (world.bare.host, "198.51.103"))):
        network.link(host, f"wan{number}", gateway, "wan9")
        address(host, f"wan{number}", f"{interface}.2/24")
        address(gateway, "wan9", f"{interface}.1/24")
        gateway.ip("route", "add", f"{other.public}/32", "via", f"{interface}.2")
        responder = (world.kyoten, world.bare)[number]
        host.ip("route", "add", f"{responder.public}/32", "via", f"{interface}.1")
    world.fleet.host.ip("addr", "del", f"{other.own}/32", "dev", "lo")
    world.fleet.host.ip("addr", "del", f"{other.public}/32", "dev", "wan0")
    address(host, "wan0", f"{other.public}/32")
    address(host, "lo", f"{other.own}/32")
    fleet = world.fleet
    return fleet.of(fleet.host, (first,)), fleet.of(host, (other,))


def megabits(world: VpnWorld, responder: Responder, ends: tuple[Fleet, Fleet], seconds: int) -> float:
    """One run, everything started anew; Mbit/s that arrived."""
    near, far = ends
    responder.start()
    for fleet in ends:
        fleet.start(responder.public)
        fleet.connect(fleet.sites[0].name)
    wait_until("both ways", lambda: responder.passable() >= 2, timeout_s=20)
    source, target = near.sites[0].own, far.sites[0].own
    server = far.host.start("iperf3", ["iperf3", "-s", "-B", str(target), "-p", str(PORT)])
    try:
        argv = ["iperf3", "-J", "-c", str(target), "-B", str(source), "-p", str(PORT), "-t", str(seconds), "-O", "1"]
        time.sleep(1)
        with suppress(LinuxError):
            near.host.run(["ping", "-c", "2", "-I", str(source), str(target)])
        done = json.loads(near.host.run(argv, timeout_s=seconds + 30).stdout)
        return float(done["end"]["sum_received"]["bits_per_second"]) / 1e6
    finally:
        server.kill()
        for fleet in ends:
            fleet.stop()
        responder.stop()


def main() -> int:
    """Measure and print."""
    seconds, rounds = map(int, sys.argv[1:])
    # Two sites of one tenant: the first two of the inventory.
    world = build("tp", registered=REGISTERED, connecting=REGISTERED, mesh=True)
    found: dict[str, list[float]] = {"kyoten": [], "bare": []}
    try:
        ends = second_site(world)
        world.bare.host.set_sysctl("net.ipv4.ip_forward", "1")
        for number in range(rounds):
            turn: list[tuple[str, Responder]] = [("kyoten", world.kyoten), ("bare", world.bare)]
            for name, responder in turn if number % 2 == 0 else reversed(turn):
                found[name].append(megabits(world, responder, ends, seconds))
                sys.stderr.write(f"    {name}: {found[name][-1]:.0f} Mbit/s\n")
    finally:
        world.close()
    figures = {
        "throughput_vs_bare": median(found["kyoten"]) / median(found["bare"]),
        "throughput_mbit_s": median(found["kyoten"]),
        "throughput_mbit_s_bare": median(found["bare"]),
        "throughput_rounds": found,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
