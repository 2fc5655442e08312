"""What `kyoten usage` is made of beside the tunnel interface's own counters, over rekeys and a killed daemon.

``SITES`` of them send while their CHILD_SAs are rekeyed and the daemon is killed and started. Then it is stopped, which
tells the rest, and the registry's rows are added up. The interface is charon's, so charon stays. Prints JSON.
"""

import json
import re
import socket
import sys
import time

import vici
from sqlalchemy import func, select

from cloudside.registry.tables import SiteUsage
from cloudside.vpn.connections import CHILD
from lab.network import LabError, wait_until
from linux.charon_process import socket_path
from tests.bench.vpn_storm import Figures
from tests.bench.vpn_world import SERVICE, VpnWorld, build
from tests.lab.gateway_world import WEB, background

#: Seconds of traffic; at which of them CHILD_SAs are rekeyed, and when the daemon is killed and started again.
TRAFFIC_S, REKEY_AT_S, KILL_AT_S, START_AT_S = 30, (5, 16, 24), 9, 12
#: Bytes of each ping, and how many a second from each site.
SIZE_BYTES, A_SECOND = 1000, 20


def usage(world: VpnWorld) -> Figures:
    """Send, disturb, add up."""
    world.kyoten.start()
    world.fleet.start(world.kyoten.public)
    world.fleet.connect_all(world.kyoten)
    pings = [
        background(
            world.fleet.host,
            ["ping", "-q", "-i", str(1 / A_SECOND), "-s", str(SIZE_BYTES), "-w", str(TRAFFIC_S), "-I", str(site.own),
             str(WEB if number % 2 else SERVICE)],
        )
        for number, site in enumerate(world.fleet.sites)
    ]  # fmt: skip
    before, rekeyed = _children(world), 0
    for second in range(TRAFFIC_S):
        if second in REKEY_AT_S:
            rekeyed += _rekey(world)
        if second == KILL_AT_S:
            world.kyoten.daemon.kill()
        if second == START_AT_S:
            world.kyoten.world.start()
        time.sleep(1)
    for ping in pings:
        ping.communicate(timeout=60)
    if before & _children(world):
        raise LabError("CHILD_SAs were not rekeyed")
    wait_until("quiet", lambda: _interface(world) == (time.sleep(2), _interface(world))[1], timeout_s=30)
    received, sent = _interface(world)
    world.kyoten.daemon.stop(timeout_s=30)
    with world.kyoten.world.database.read() as session:
        row = session.execute(select(func.sum(SiteUsage.bytes_from_site), func.sum(SiteUsage.bytes_to_site))).one()
    told = tuple(int(value or 0) for value in row)
    return {
        "usage_error_pct": 100 * max(abs(told[0] - received) / received, abs(told[1] - sent) / sent),
        "usage_bytes_from_sites": [told[0], received],
        "usage_bytes_to_sites": [told[1], sent],
        "usage_rekeys": rekeyed,
    }


def _interface(world: VpnWorld) -> tuple[int, int]:
    """Bytes that came through tunnels, and bytes that went into them."""
    text = world.kyoten.host.run(["cat", "/proc/net/dev"]).stdout
    found = re.search(r"ipsec0:\s*(\d+)(?:\s+\d+){7}\s+(\d+)", text)
    if found is None:
        raise LabError("no tunnel interface")
    return int(found[1]), int(found[2])


def _session(world: VpnWorld) -> tuple[socket.socket, vici.Session]:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(30)
    connected.connect(str(socket_path(world.kyoten.directory)))
    return connected, vici.Session(connected)


def _rekey(world: VpnWorld) -> int:
    """Rekey every CHILD_SA; how many."""
    connected, session = _session(world)
    with connected:
        return int(session.rekey({"child": CHILD})["matches"])


def _children(world: VpnWorld) -> set[bytes]:
    """The CHILD_SAs' SPIs."""
    connected, session = _session(world)
    with connected:
        return {
            child["spi-in"]
            for entry in session.list_sas()
            for sa in entry.values()
            for child in sa["child-sas"].values()
        }


def main() -> int:
    """Measure and print."""
    sites = int(sys.argv[1])
    world = build("usage", registered=max(100, 2 * sites), connecting=sites)
    try:
        figures = usage(world)
    finally:
        world.close()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
