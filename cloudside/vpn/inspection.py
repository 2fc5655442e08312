"""Looks at one site on the gateway's own machine: charon, routes, sets, a ping. Changes nothing."""

import os
import re
from collections.abc import Sequence

from cloudside.config import Address, Config, Network
from cloudside.datapath.site_routes import TABLE
from cloudside.datapath.skeleton import SITES_SET
from cloudside.vpn.diagnosis import Live
from linux.charon import Charon, IkeSa
from linux.charon_process import socket_path
from linux.errors import LinuxError
from linux.route_listing import list_routes
from linux.routes import RouteKind
from linux.runner import Runner

#: Devices that are asked; each that is silent costs a second.
MOST_DEVICES = 8
_PING_WAIT_S = 1
_TIME = re.compile(r"time=([0-9.]+) ms")


def is_here(config: Config) -> bool:
    """Whether this machine is the gateway and we may look."""
    return os.geteuid() == 0 and socket_path(config.runtime_directory / "charon").exists()


def look(
    config: Config,
    runner: Runner,
    *,
    site: str,
    overlay: Network,
    router: Address,
    devices: Sequence[tuple[str, Address]],
) -> Live:
    """How the site's links are here. What cannot be read counts as not there."""
    charon = Charon(socket_path(config.runtime_directory / "charon"))
    version: str | None = None
    own: list[IkeSa] = []
    try:
        version = charon.version()
        own = [sa for sa in charon.sas() if sa.remote_id == site and sa.state == "ESTABLISHED"]
    except LinuxError:
        pass
    finally:
        charon.close()
    children = [child for sa in own for child in sa.children if child.state in ("INSTALLED", "REKEYED", "REKEYING")]
    ping_ms = _ping(runner, router, config.gateway.service_address) if children else None
    answers = [
        (name, str(address), _ping(runner, address, config.gateway.service_address) is not None)
        for name, address in (devices[:MOST_DEVICES] if ping_ms is not None else ())
    ]
    return Live(
        charon=version,
        ike_suite=own[0].suite if own else None,
        child_suite=children[0].suite if children else None,
        route=_routed(runner, overlay),
        admitted=_admitted(runner, overlay),
        ping_ms=ping_ms,
        devices=answers,
    )


def _routed(runner: Runner, overlay: Network) -> bool:
    try:
        found = list_routes(runner, TABLE, version=overlay.version)
    except LinuxError:
        return False
    return any(route.kind is RouteKind.UNICAST and route.prefix.overlaps(overlay) for route in found)


def _admitted(runner: Runner, overlay: Network) -> bool:
    try:
        return runner.run(["ipset", "test", SITES_SET, str(overlay)], check=False).status == 0
    except LinuxError:
        return False


def _ping(runner: Runner, address: Address, source: Address) -> float | None:
    argv = ["ping", "-n", "-c", "1", "-W", str(_PING_WAIT_S), "-I", str(source), str(address)]
    try:
        ended = runner.run(argv, check=False, timeout_s=_PING_WAIT_S + 5)
    except LinuxError:
        return None
    found = _TIME.search(ended.stdout)
    return float(found[1]) if ended.status == 0 and found else None
