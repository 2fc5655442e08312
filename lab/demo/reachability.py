"""Who reaches whom: the matrix, the two equal LANs, forged sources, stolen subnets, a revoked site."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from cloudside.registry import sites
from cloudside.registry.callers import OPERATOR
from lab import rogue
from lab.demo import matrix
from lab.demo.report import Line
from lab.network import LabError, address, default_route, wait_until
from lab.probes import Probe, Target, connections, heard, run, send_forged
from lab.world import World, enrol

#: A site that is cut must be out within this many seconds, and stay out this long to be believed.
CUT_WITHIN_S = 2.0
STAYS_OUT_S = 6.0


def every_pair(world: World) -> list[Line]:
    """The whole matrix."""
    start = time.monotonic()
    outcome = matrix.compare(world)
    world.console.print(matrix.table(outcome))
    shown = ", ".join(
        f"{wrong.source} to {wrong.destination} {wrong.service} should {'pass' if wrong.expected else 'be blocked'}"
        for wrong in outcome.disagreements[:4]
    )
    measured = (
        f"{outcome.probes} probes (TCP, UDP, ICMP), {outcome.allowed} allowed by the rules, "
        f"{outcome.probes - outcome.allowed} not, {len(outcome.disagreements)} disagreements, "
        f"{time.monotonic() - start:.1f} s"
    )
    held = not outcome.disagreements and 0 < outcome.allowed < outcome.probes
    return [Line("every pair of hosts does what the rules say", held, f"{measured}{': ' if shown else ''}{shown}")]


def equal_lans(world: World) -> list[Line]:
    """Two sites own 192.168.1.20; each answers under its own overlay address, and it is the right one that answers."""
    tokyo, nagoya, kobe = (world.ground.sites[name] for name in ("tokyo-1", "nagoya-1", "kobe-1"))
    answering = (tokyo.controllers["plc"], nagoya.controllers["plc"])
    addresses = (tokyo.plan.overlay_address("plc"), nagoya.plan.overlay_address("plc"))
    lan = {site.plan.controllers["plc"] for site in (tokyo, nagoya)}
    before = [connections(host) for host in answering]
    answers = run([
        Probe(world.ground.servers["web"], Target(str(addresses[0]), "tcp", 80)),
        Probe(kobe.controllers["plc"], Target(str(addresses[1]), "tcp", 80)),
    ])  # fmt: skip
    arrived = [connections(host) - earlier for host, earlier in zip(answering, before, strict=True)]
    return [
        Line(
            "two equal LANs, both reachable",
            len(lan) == 1 and all(answers) and arrived == [1, 1],
            f"{lan.pop()} answers as {addresses[0]} at tokyo-1 and as {addresses[1]} at nagoya-1; "
            f"connections that arrived there: {arrived[0]} and {arrived[1]}",
        )
    ]


def forged_source(world: World) -> list[Line]:
    """A controller sends under its neighbour's address; the true one arrives, the forged ones do not."""
    osaka = world.ground.sites["osaka-1"]
    sender, web = world.ground.sites["tokyo-1"].controllers["plc"], world.ground.servers["web"]
    target, port = str(world.plan.servers["web"][1]), 47808
    own = str(world.ground.sites["tokyo-1"].plan.controllers["plc"])
    forged = {
        "another site's": str(osaka.plan.overlay_address("plc")),
        "another tenant's": str(world.ground.sites["kobe-1"].plan.overlay_address("plc")),
        "a cloud server's": str(world.plan.servers["database"][1]),
    }
    stamp = str(time.monotonic_ns())
    send_forged(sender, source=own, target=target, port=port, token=f"true-{stamp}")
    wait_until("the datagram with the true source", lambda: heard(web, f"true-{stamp}"), timeout_s=5)
    for number, source in enumerate(forged.values()):
        send_forged(sender, source=source, target=target, port=port, token=f"forged-{number}-{stamp}")
    time.sleep(0.5)
    arrived = [kind for number, kind in enumerate(forged) if heard(web, f"forged-{number}-{stamp}")]
    measured = f"with its true source 1 of 1 arrived, forged ({', '.join(forged)}) {len(arrived)} of {len(forged)}"
    return [Line("a forged source is refused", not arrived, measured)]


def stolen_subnet(world: World) -> list[Line]:
    """A router with a valid certificate of its own claims other sites' subnets."""
    with world.writing() as session:
        thief = sites.add(session, OPERATOR, site_id="thief-1", tenant_id="birch", now=datetime.now(UTC))
    bundle = enrol(world, "thief-1")
    network = world.ground.network
    host = network.add_host("thief-1")
    network.link(world.ground.internet, "to-thief-1", host, "wan0")
    address(world.ground.internet, "to-thief-1", "198.51.100.129/30")
    address(host, "wan0", "198.51.100.130/30")
    default_route(host, "198.51.100.129")
    own = str(thief.overlay)
    victims = [str(world.ground.sites[name].plan.overlay) for name in ("kobe-1", "tokyo-1")]
    known = ["ipset", "test", "-q", "kyoten-sites", own]
    wait_until("the gateway knows thief-1", lambda: world.gateway.run(known, check=False).status == 0, timeout_s=15)
    claims = rogue.claim(host, bundle, [own, *victims])
    stolen = [entry.subnet for entry in claims[1:] if entry.granted]
    held = claims[0].granted == (own,) and not stolen
    measured = f"its own {own} granted; {', '.join(victims)} claimed, {len(stolen)} granted"
    if claims[0].granted != (own,):
        measured = f"its own {own} was not granted: {claims[0].refusal or claims[0].granted}"
    return [Line("a stolen subnet is refused", held, measured)]


def revoked_site(world: World) -> list[Line]:
    """Revoke a site while it talks: how long it is still in, and whether charon ever lets it in again."""
    probe = Probe(
        world.ground.servers["web"], Target(str(world.ground.sites["osaka-1"].plan.overlay_address("plc")), "tcp", 80)
    )
    before = run([probe])[0]
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(world.kyoten, "site", "revoke", "osaka-1", "--yes")
        wait_until("osaka-1 cut", lambda: "osaka-1" not in world.sites_in_charon(), timeout_s=20, every_s=0.01)
        cut_at = datetime.now(UTC)
        command.result()
    mark = len(world.charon_log())
    time.sleep(STAYS_OUT_S)
    attempts = world.charon_log()[mark:].count('certificate status of "CN=osaka-1"')
    let_in = sum("established" in line and "osaka-1" in line for line in world.charon_log()[mark:].splitlines())
    passed = run([probe])[0]
    cut_s = (cut_at - _revoked_at(world, "osaka-1")).total_seconds()
    return [
        Line(
            "a revoked site is cut and stays out",
            before and cut_s <= CUT_WITHIN_S and attempts > 0 and not let_in and not passed,
            f"cut {cut_s:.2f} s after the revocation; in the next {STAYS_OUT_S:g} s it tried {attempts} times "
            f"and was let in {let_in} times",
        )
    ]


def _revoked_at(world: World, site: str) -> datetime:
    with world.reading() as session:
        revoked_at = sites.get(session, OPERATOR, site).revoked_at
    if revoked_at is None:
        raise LabError(f"{site} is not revoked in the registry")
    return revoked_at
