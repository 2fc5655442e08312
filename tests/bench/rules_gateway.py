"""From a commit in the registry to the kernel: changes of one site, and of one statement, with the real daemon.

`kyoten gateway` runs on its host with a registry (SQLite on disk) of the whole world; its charon runs, no tunnel is up.
A change is effective when `ipset test` says so of the tenant's set of homes, or when its gate leads to a new version.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address, IPv4Network, ip_address
from statistics import median, quantiles

from cloudside.config import Config
from cloudside.config import Gateway as GatewayConfig
from cloudside.pki import initialise, revocation
from cloudside.registry import policies
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import Device, Policy, Server, Site, Tenant
from lab.network import LabError, Network, address
from rules import model
from rules.model import Inventory, PolicySource
from rules.render import tenant_name
from tests.bench.rules_world import in_proportion
from tests.lab.gateway_world import GatewayWorld

#: Seconds to wait for a change to be effective before the bench gives up.
GIVE_UP_S = 20.0
#: Seconds between two questions to the kernel.
ASK_EVERY_S = 0.0005


class Kernel:
    """`ipset test`, asked of one ipset that stays open in the gateway's namespace."""

    def __init__(self, namespace: str) -> None:
        self._ipset = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "ipset", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def has(self, name: str, entry: object) -> bool:
        assert self._ipset.stdin is not None
        assert self._ipset.stdout is not None
        self._ipset.stdin.write(f"test {name} {entry}\n")
        self._ipset.stdin.flush()
        answer = self._ipset.stdout.readline()
        if "in set" not in answer:
            raise LabError(f"ipset says: {answer}")
        return "NOT in set" not in answer

    def close(self) -> None:
        self._ipset.kill()
        self._ipset.communicate()


@contextmanager
def running(inventory: Inventory, sources: list[PolicySource]) -> Iterator[GatewayWorld]:
    """The daemon with this world in force."""
    network = Network(f"rb{len(inventory.sites)}")
    gateway, web = network.add_host("gateway"), network.add_host("web")
    network.link(gateway, "wan0", web, "wan0")
    network.link(gateway, "lan0", web, "eth0")
    address(gateway, "wan0", "198.51.100.1/24")
    address(gateway, "lan0", "10.255.0.1/24")
    config = Config(
        state_directory=network.directory / "state",
        runtime_directory=network.directory / "run",
        gateway=GatewayConfig(public_addresses=("198.51.100.1",)),
    )
    config.state_directory.mkdir(mode=0o700)
    config.runtime_directory.mkdir()
    database = Database(config.registry_url)
    database.migrate()
    fill(database, config, inventory, sources)
    world = GatewayWorld(network, config, database, gateway, web, {})
    try:
        world.start()
        world.wait_ready(timeout_s=120)
        yield world
    finally:
        world.close()


def fill(database: Database, config: Config, inventory: Inventory, sources: list[PolicySource]) -> None:
    """Put a world into a registry, keys and all."""
    now = datetime.now(UTC)
    with database.write() as session:
        initialise.initialise(session, config, now=now)
        session.add_all(Tenant(id=name, block=block, created_at=now) for name, block in inventory.tenants.items())
        session.flush()
        session.add_all(
            Site(id=one.name, tenant_id=one.tenant, overlay=one.prefix, lan=one.prefix, created_at=now)
            for one in inventory.sites
        )
        session.flush()
        session.add_all(Device(site_id=one.site, name=one.name, lan_address=one.address) for one in inventory.devices)
        session.add_all(Server(id=one.name, tenant_id=one.tenant, address=one.address) for one in inventory.servers)
        session.add_all(
            Policy(
                tenant_id=one.tenant, version=1, text=one.text, file_name=one.file_name, author="bench", applied_at=now
            )
            for one in sources
        )


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from a commit until it was effective in the kernel."""

    values: tuple[float, ...]

    @property
    def p50(self) -> float:
        return median(self.values)

    @property
    def p95(self) -> float:
        return quantiles(self.values, n=20)[-1]


class Changes:
    """One change after the other, each waited for."""

    def __init__(self, world: GatewayWorld, inventory: Inventory, seed: int = 5) -> None:
        self._world = world
        self._kernel = Kernel(world.gateway.namespace)
        self._chance = random.Random(seed)
        self._inventory = inventory
        self._free = {
            tenant: max(int(site.prefix[-1]) + 1 for site in inventory.sites if site.tenant == tenant)
            for tenant in inventory.tenants
        }
        self._prefix = {site.name: site.prefix for site in inventory.sites}
        marking = world.marking()
        self._homes = {
            tenant: f"{tenant_name(int(block[0]))}.{_version(marking, int(block[0]))}h"
            for tenant, block in inventory.tenants.items()
            if f"{tenant_name(int(block[0]))} " in marking
        }

    def sites(self, count: int) -> Latencies:
        """A random site of all: revoked, brought back, moved to another prefix, in turns."""
        found: list[float] = []
        while len(found) < count:
            found += self._one_site(self._chance.choice(self._inventory.sites))
        return Latencies(tuple(found[:count]))

    def _one_site(self, site: model.Site) -> list[float]:
        homes, old = self._homes[site.tenant], self._prefix[site.name][1]
        new = IPv4Network((self._free[site.tenant], 26))
        self._free[site.tenant] += 64
        self._prefix[site.name] = new
        return [
            self._timed(lambda: self._revoke(site.name), lambda: not self._has(homes, old)),
            self._timed(lambda: self._return(site.name), lambda: self._has(homes, old)),
            self._timed(
                lambda: self._move(site.name, new), lambda: self._has(homes, new[1]) and not self._has(homes, old)
            ),
        ]

    def statements(self, sources: list[PolicySource], count: int) -> Latencies:
        """A random tenant's policy with one more statement: a new version of its part."""
        found = []
        for number in range(count):
            source = self._chance.choice(sources)
            block = int(self._inventory.tenants[source.tenant][0])
            text = source.text + f"  - {{name: more{number}, from: g0, to: g1, services: tcp/{2000 + number}}}\n"
            found.append(
                self._timed(partial(self._put, source, text), partial(self._led_elsewhere, block, self._gate(block)))
            )
        return Latencies(tuple(found))

    def _led_elsewhere(self, block: int, before: str) -> bool:
        return self._gate(block) != before

    def _timed(self, write: Callable[[], None], effective: Callable[[], bool]) -> float:
        # Not in step with what the daemon does every few seconds.
        time.sleep(self._chance.uniform(0.15, 0.45))
        write()
        committed = time.perf_counter()
        self._world.ring()
        while not effective():
            if time.perf_counter() - committed > GIVE_UP_S:
                assert self._world.daemon is not None
                raise LabError(f"a change did not come into force\n{self._world.daemon.tail(40)}")
            time.sleep(ASK_EVERY_S)
        return (time.perf_counter() - committed) * 1000

    def _has(self, homes: str, host: IPv4Address) -> bool:
        return self._kernel.has(homes, host)

    def _gate(self, block: int) -> str:
        argv = ["iptables-legacy", "-t", "mangle", "-S", tenant_name(block)]
        return self._world.gateway.run(argv).stdout

    def _revoke(self, site: str) -> None:
        with self._world.database.write() as session:
            revocation.revoke_site(session, self._world.config, OPERATOR, site_id=site, now=datetime.now(UTC))

    def _return(self, site: str) -> None:
        with self._world.database.write() as session:
            found = session.get(Site, site)
            assert found is not None
            found.revoked_at = None

    def _move(self, site: str, prefix: IPv4Network) -> None:
        """To another prefix, its devices with it."""
        with self._world.database.write() as session:
            found = session.get(Site, site)
            assert found is not None
            for device in session.query(Device).filter(Device.site_id == site):
                offset = int(device.lan_address) - int(found.lan.network_address)
                device.lan_address = ip_address(int(prefix.network_address) + offset)
            found.overlay = found.lan = prefix

    def _put(self, source: PolicySource, text: str) -> None:
        with self._world.database.write() as session:
            policies.add_version(
                session,
                OPERATOR,
                tenant_id=source.tenant,
                text=text,
                file_name=source.file_name,
                author="bench",
                now=datetime.now(UTC),
            )

    def close(self) -> None:
        self._kernel.close()


def _version(marking: str, block: int) -> int:
    """The version that the tenant's gate leads to."""
    found = re.search(rf"-A {tenant_name(block)} -g {tenant_name(block)}\.(\d+)", marking)
    if found is None:
        raise LabError(f"no gate {tenant_name(block)}")
    return int(found[1])


def main() -> int:
    """``SITES CHANGES STATEMENTS``: print the latencies as JSON."""
    sites, changes, statements = (int(argument) for argument in sys.argv[1:])
    inventory, sources = in_proportion(sites)
    with running(inventory, sources) as world:
        asked = Changes(world, inventory)
        try:
            one = asked.sites(changes)
            found = {"apply_one_site_ms_p50": one.p50, "apply_one_site_ms_p95": one.p95}
            found["apply_one_site_ms_max"] = max(one.values)
            if statements:
                found["apply_one_statement_ms_p95"] = asked.statements(sources, statements).p95
            assert world.daemon is not None
            found["gateway_rss_mib"] = world.daemon.rss_mib()
        finally:
            asked.close()
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
