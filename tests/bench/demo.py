"""``make bench NAME=demo``: the main job in figures. The last line is one JSON object.

tunnels_up_s                       first daemon started until all four tunnels are up
probes, probe_disagreements        the matrix: real packets beside the evaluator
mail_accept_to_delivery_ms_p50     the relay's 250 until the smarthost's 250, from the relay's own records
policy_change_to_kernel_ms_p95     policy committed to the registry until the tenant's gate leads to the new version
gateway_recovery_s                 daemon and charon killed until every tunnel is back
gateway_rss_mib, agent_rss_mib     resident memory of `kyoten gateway` and of the largest `kyoten-agent`

Beside them: a bare fsync of 4 KiB on the same disk, because mail and registry stand on it.
"""

import json
import os
import statistics
import sys
import time
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from cloudside.registry import policies
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell
from lab import queue_view, topology
from lab.controller import send_mail
from lab.demo import matrix, recovery, steps
from lab.network import wait_until
from lab.world import World, build
from rules.render import tenant_name

MAILS = 60
POLICY_CHANGES = 40


def mail_accept_to_delivery_ms(world: World) -> list[float]:
    """Mails one after the other from two sites; milliseconds from accepted to delivered, as the relay recorded."""
    server = str(topology.SERVICE_ADDRESS)
    for site, recipient in (("tokyo-1", "facilities@acme.example"), ("kobe-1", "facilities@birch.example")):
        host = world.ground.sites[site].controllers["plc"]
        answers = send_mail(
            host, server=server, sender="alarm@acme.example", recipients=[recipient], subject="bench", count=MAILS // 2
        )
        if any(answer.code != 250 for answer in answers):
            raise SystemExit(f"the relay refused a mail of {site}: {answers}")
    wait_until("every mail delivered", lambda: not queue_view.waiting(world.config.queue_directory), timeout_s=60)
    times = []
    for site in ("tokyo-1", "kobe-1"):
        for story in queue_view.trace(world.config.queue_directory, site, limit=MAILS):
            done = [entry.at for entry in story.happenings if entry.event == "delivered"]
            if story.entries[0].subject == "bench" and done:
                times.append((done[0] - story.entries[0].accepted_at).total_seconds() * 1000)
    if len(times) != MAILS:
        raise SystemExit(f"{len(times)} of {MAILS} mails were delivered")
    return times


def policy_change_to_kernel_ms(world: World) -> list[float]:
    """Alternate between two policies; each time from the commit until iptables shows the tenant's new gate."""
    database = Database(world.config.registry_url)
    bell = Doorbell(world.config.runtime_directory, "gateway")
    wide = topology.ACME_POLICY.replace("udp/47808, ping", "udp/47808, udp/9999, ping")
    times = []
    for number in range(POLICY_CHANGES):
        before = _gate(world)
        with database.write() as session:
            policies.add_version(
                session, OPERATOR, tenant_id="acme", text=(wide, topology.ACME_POLICY)[number % 2],
                file_name="acme.yaml", author="bench", now=datetime.now(UTC),
            )  # fmt: skip
        committed = time.monotonic()
        bell.ring()
        wait_until("the new rule set", lambda before=before: _gate(world) != before, timeout_s=10, every_s=0.001)
        times.append((time.monotonic() - committed) * 1000)
        time.sleep(0.15)
    database.close()
    return times


def _gate(world: World) -> str:
    """The rule that leads to the tenant's version in force."""
    name = tenant_name(int(world.plan.tenants["acme"].network_address))
    return world.gateway.run(["iptables-legacy", "-t", "mangle", "-S", name]).stdout


def fsync_ms(world: World) -> float:
    """The median of a 4 KiB write and fsync on the disk that registry and queue are on."""
    path = world.ground.network.directory / "fsync"
    times = []
    with path.open("wb") as stream:
        for _ in range(100):
            begun = time.monotonic()
            stream.write(os.urandom(4096))
            stream.flush()
            os.fsync(stream.fileno())
            times.append((time.monotonic() - begun) * 1000)
    return statistics.median(times)


def gateway_recovery_s(world: World) -> float:
    """Kill daemon and charon, start the daemon; seconds from the kill until every tunnel is back."""
    wanted = world.sites_in_charon()
    begun = recovery.kill_gateway(world)
    world.start_daemon("gateway")
    world.wait_for_tunnels(wanted, timeout_s=60)
    return time.monotonic() - begun


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def main() -> int:
    """Measure, print the table, then the JSON line."""
    world = build(topology.DEMO, name="bench")
    figures: dict[str, float] = {"tunnels_up_s": steps.start_everything(world).tunnels_s}
    outcome = matrix.compare(world)
    figures |= {"probe_disagreements": len(outcome.disagreements), "probes": outcome.probes}
    mails = mail_accept_to_delivery_ms(world)
    figures["mail_accept_to_delivery_ms_p50"] = statistics.median(mails)
    figures["mail_accept_to_delivery_ms_p95"] = _p95(mails)
    changes = policy_change_to_kernel_ms(world)
    figures["policy_change_to_kernel_ms_p50"] = statistics.median(changes)
    figures["policy_change_to_kernel_ms_p95"] = _p95(changes)
    figures["gateway_rss_mib"] = world.gateway.processes["gateway"].rss_mib()
    figures["agent_rss_mib"] = max(site.router.processes["agent"].rss_mib() for site in world.ground.sites.values())
    figures["gateway_recovery_s"] = gateway_recovery_s(world)
    figures["fsync_4k_ms_p50"] = fsync_ms(world)
    table = Table(title="bench demo", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console(width=100).print(table)
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")
    sys.stdout.flush()
    world.close()
    return 0 if figures["probe_disagreements"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
