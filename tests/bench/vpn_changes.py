"""Changes of the registry while many are up: who loses a tunnel, and how fast a revoked site does.

``changes LIVE CHANGES`` and ``revoke LIVE REVOKED``. Prints JSON.

An IKE_SA is named by its unique id in the gateway's charon: a tunnel that ended and came back has another one.
"""

import json
import random
import sys
import time
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_address
from statistics import median

from cloudside.pki import revocation
from cloudside.registry import sites
from cloudside.registry.callers import OPERATOR
from cloudside.registry.tables import Device
from cloudside.registry.tables import Site as SiteRow
from lab.network import LabError
from tests.bench.vpn_storm import Figures
from tests.bench.vpn_watch import Watch
from tests.bench.vpn_world import VpnWorld, build

#: Seconds between changes, and after the last one: two looks at everything (5 s) and one thorough one (60 s) see them.
PACE_S, REST_S = 0.25, 65.0
#: For how long a revoked site goes on trying, how often, and how long its end may take before the bench gives up; s.
TRIES_S, TRY_EVERY_S, CUT_GIVE_UP_S = 15.0, 1.0, 30.0


class Changes:
    """In turns: a site is added, another is removed, a third gets another prefix. Every second one of those is up."""

    def __init__(self, world: VpnWorld, seed: int = 3) -> None:
        self._world = world
        self._chance = random.Random(seed)
        self._live = [site.name for site in world.fleet.sites]
        self._idle = [site.name for site in world.inventory.sites if site.name not in set(self._live)]
        self._tenants = list(world.inventory.tenants)
        self._free = {
            tenant: max(int(site.prefix[-1]) + 1 for site in world.inventory.sites if site.tenant == tenant)
            for tenant in self._tenants
        }
        self._added: list[str] = []
        #: Sites that were up and were removed or moved: they may lose their tunnel, and must.
        self.touched: set[str] = set()

    def make(self, number: int) -> None:
        """One change, committed and rung for."""
        kind = number % 3
        if kind == 0:
            self._add(f"new-{number}")
        elif kind == 1:
            self._remove(self._pick(number))
        else:
            self._move(self._pick(number))
        self._world.kyoten.world.ring()

    def _pick(self, number: int) -> str:
        live = number % 2 == 0
        chosen = self._chance.choice(self._live if live else self._idle)
        (self._live if live else self._idle).remove(chosen)
        if live:
            self.touched.add(chosen)
        return chosen

    def _prefix(self, tenant: str) -> IPv4Network:
        found = IPv4Network((self._free[tenant], 26))
        self._free[tenant] += 64
        return found

    def _add(self, name: str) -> None:
        tenant = self._chance.choice(self._tenants)
        with self._world.kyoten.world.database.write() as session:
            sites.add(
                session, OPERATOR, site_id=name, tenant_id=tenant, overlay=self._prefix(tenant), now=datetime.now(UTC)
            )

    def _remove(self, name: str) -> None:
        with self._world.kyoten.world.database.write() as session:
            sites.change(session, OPERATOR, site_id=name, phase=sites.Phase.RETIRED)

    def _move(self, name: str) -> None:
        with self._world.kyoten.world.database.write() as session:
            found = session.get(SiteRow, name)
            assert found is not None
            prefix = self._prefix(found.tenant_id)
            for device in session.query(Device).filter(Device.site_id == name):
                offset = int(device.lan_address) - int(found.lan.network_address)
                device.lan_address = ip_address(int(prefix.network_address) + offset)
            found.overlay = found.lan = prefix


def changes(world: VpnWorld, count: int, *, rest_s: float = REST_S) -> Figures:
    """Make changes while all of the fleet is up."""
    world.kyoten.start()
    world.fleet.start(world.kyoten.public)
    world.fleet.connect_all(world.kyoten)
    before = world.kyoten.ids()
    made = Changes(world)
    for number in range(count):
        made.make(number)
        time.sleep(PACE_S)
    time.sleep(rest_s)
    after = world.kyoten.ids()
    lost = [site for site, number in before.items() if site not in made.touched and after.get(site) != number]
    kept = [site for site in made.touched if site in after]
    if kept:
        raise LabError(f"removed or moved, and still up: {kept[:5]}")
    return {
        "sa_lost_on_change": len(lost),
        "sa_live": len(before),
        "changes_made": count,
        "sa_ended_of_changed_sites": len(made.touched),
    }


def revoked(world: VpnWorld, count: int, *, tries_s: float = TRIES_S) -> Figures:
    """Revoke sites one after the other; each goes on trying. From before the registry's transaction until charon says
    that the tunnel ended.
    """
    world.kyoten.start()
    world.fleet.start(world.kyoten.public)
    world.fleet.connect_all(world.kyoten)
    chosen = random.Random(4).sample([site.name for site in world.fleet.sites], count)
    others = {site: number for site, number in world.kyoten.ids().items() if site not in set(chosen)}
    watch = Watch(world.kyoten)
    began: dict[str, float] = {}
    tries = 0
    try:
        for site in chosen:
            began[site] = time.monotonic()
            with world.kyoten.world.database.write() as session:
                revocation.revoke_site(
                    session, world.kyoten.world.config, OPERATOR, site_id=site, now=datetime.now(UTC)
                )
            world.kyoten.world.ring()
            give_up = time.monotonic() + CUT_GIVE_UP_S
            while watch.ended(site) is None and time.monotonic() < give_up:
                time.sleep(0.01)
            tries += _try_all(world, watch, began)
        ends = time.monotonic() + tries_s
        while time.monotonic() < ends:
            tries += _try_all(world, watch, began)
            time.sleep(TRY_EVERY_S)
        time.sleep(2)
        cuts = [_cut_s(watch, site, at) for site, at in began.items()]
        back = [site for site in began if watch.came_back(site)] + [
            site for site in world.kyoten.ids() if site in began
        ]
        after = world.kyoten.ids()
    finally:
        watch.stop()
    return {
        "revoke_to_cut_s": max(cuts),
        "revoke_to_cut_s_p50": median(cuts),
        "revoked": len(cuts),
        "revoked_back_in": len(set(back)),
        "revoked_tries": tries,
        "sa_lost_of_others": sum(after.get(site) != number for site, number in others.items()),
    }


def _cut_s(watch: Watch, site: str, began: float) -> float:
    ended = watch.ended(site)
    if ended is None:
        raise LabError(f"{site} was revoked and is not cut off")
    return ended - began


def _try_all(world: VpnWorld, watch: Watch, began: dict[str, float]) -> int:
    """Those that are cut off try again; how many."""
    up = world.fleet.up()
    again = [site for site in began if site not in up and watch.ended(site) is not None]
    for site in again:
        world.fleet.begin(site)
    return len(again)


def main() -> int:
    """Measure and print."""
    live, count = map(int, sys.argv[2:])
    world = build(sys.argv[1], registered=2 * live, connecting=live)
    try:
        figures = changes(world, count) if sys.argv[1] == "changes" else revoked(world, count)
    finally:
        world.close()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
