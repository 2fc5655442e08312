"""Many routers that keep their tunnels up by themselves, as the agent does: its states, its back-off, its probes.

``CHARON-DIRECTORY SITES-FILE STATE-FILE``. Runs on the sites' host until it is killed; the state file has, for each
site, when its tunnel last carried a probe (monotonic seconds).
"""

import json
import random
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

from linux.charon import Charon
from linux.charon_process import socket_path
from linux.errors import CharonRefusedError
from router_agent.tunnel import machine
from router_agent.tunnel.machine import WIRED_TIMING, Actions, Phase, Seen
from router_agent.tunnel.probe import Probe
from tests.bench.vpn_world import CHILD, PROBE_PORT, SERVICE, carrying

#: Seconds between looks: the agent's.
TICK_S = 0.5


def run(directory: Path, owns: dict[str, IPv4Address], state_file: Path) -> None:
    """Keep all tunnels up for ever."""
    charon = Charon(socket_path(directory), timeout_s=30)
    began = time.monotonic()
    states = {site: machine.start(began) for site in owns}
    probes = {site: Probe(own, SERVICE, PROBE_PORT) for site, own in owns.items()}
    while True:
        now = time.monotonic()
        sas = charon.sas()
        present = {sa.connection for sa in sas}
        established = {sa.connection for sa in sas if carrying(sa)}
        for site, state in states.items():
            probe = probes[site].outcome(now) if state.phase is Phase.UP else None
            seen = Seen(site in established, site in present, probe)
            states[site], actions = machine.step(
                state, seen, now=now, roll=random.random(), gateways=1, timing=WIRED_TIMING, line=True
            )
            _do(charon, site, actions, probes[site], now)
        document = {site: state.proven_at for site, state in states.items() if state.phase is Phase.UP}
        fresh = state_file.with_suffix(".new")
        fresh.write_text(json.dumps(document))
        fresh.rename(state_file)
        time.sleep(max(0.0, TICK_S - (time.monotonic() - now)))


def _do(charon: Charon, site: str, actions: Actions, probe: Probe, now: float) -> None:
    if actions.terminate:
        charon.terminate(connection=site)
    if actions.initiate:
        try:
            charon.initiate(site, CHILD)
        except CharonRefusedError as error:
            sys.stderr.write(f"{site}: {error}\n")
    if actions.probe:
        probe.begin(now, WIRED_TIMING.probe_wait_s)


def main() -> None:
    """Read the arguments and run."""
    directory, sites_file, state_file = map(Path, sys.argv[1:])
    owns = {site: IPv4Address(own) for site, own in json.loads(sites_file.read_text()).items()}
    run(directory, owns, state_file)


if __name__ == "__main__":
    main()
