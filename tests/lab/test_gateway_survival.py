"""What dies and comes back around the gateway: the daemon, charon, the registry. Default drop all the while."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import gateway_world
import pytest
from gateway_world import WEB, GatewayWorld, pause

from lab.network import wait_until


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("gs", connected=True) as built:
        yield built


def test_killed_daemon_drops_no_tunnel_and_is_taken_over(world: GatewayWorld) -> None:
    before = world.charon_sas(), world.charon_pid(), _rules(world)
    assert world.daemon is not None
    world.daemon.kill()
    pause(0.5)
    assert (world.charon_sas(), world.charon_pid(), _rules(world)) == before
    assert world.routers["tokyo"].ping(WEB)
    restarted = world.start()
    wait_until("the daemon", lambda: "how=adopted" in restarted.tail(), timeout_s=10)
    wait_until("a pass", lambda: world.routers["tokyo"].ping(WEB), timeout_s=3)
    pause(1.5)
    assert (world.charon_sas(), world.charon_pid(), _rules(world)) == before
    assert restarted.running


def test_daemon_that_is_stopped_leaves_tunnels_and_rules(world: GatewayWorld) -> None:
    before = world.charon_sas(), _rules(world)
    assert world.daemon is not None
    assert world.daemon.stop() == 0
    assert (world.charon_sas(), _rules(world)) == before
    starts = world.daemon.log.read_text().count("how=adopted")
    log = world.start().log
    wait_until("the daemon", lambda: log.read_text().count("how=adopted") > starts, timeout_s=10)
    pause(1.5)
    assert (world.charon_sas(), _rules(world)) == before


def test_killed_charon_is_started_again_and_sites_can_come_back(
    world: GatewayWorld, record_property: Callable[[str, object], None]
) -> None:
    old = world.charon_pid()
    rules = _rules(world)
    world.gateway.run(["kill", "-9", str(old)])
    held = _Watch(world)
    took_s = wait_until("another charon", lambda: world.charon_pid() != old, timeout_s=2)
    record_property("charon_killed_to_started_s", took_s)
    world.wait_ready()
    router = world.routers["tokyo"]
    wait_until("the router to notice", lambda: not router.sas() or router.connect(wait_s=1), timeout_s=15)
    assert router.connect()
    wait_until("the way", lambda: router.ping(WEB), timeout_s=5)
    assert held.finish() == []
    assert _rules(world) == rules
    wait_until("the report", lambda: world.tunnels()["tokyo"].up and not world.tunnels()["osaka"].up, timeout_s=5)


def test_registry_that_goes_away_changes_nothing_in_force(world: GatewayWorld) -> None:
    registry = world.config.state_directory / "registry.sqlite"
    rules = _rules(world)
    away = registry.with_name("away")
    assert world.daemon is not None
    earlier = len(world.daemon.log.read_text())
    registry.rename(away)
    try:
        world.ring()
        pause(2.5)
        assert _rules(world) == rules
        assert world.daemon.running
        said = world.daemon.log.read_text()[earlier:]
        assert "registry.unavailable" in said
        assert "vpn.charon-failed" not in said
    finally:
        for leftover in registry.parent.glob("registry.sqlite*"):
            if not leftover.name.endswith(("-wal", "-shm")):
                leftover.unlink()
        away.rename(registry)
    assert world.routers["tokyo"].ping(WEB)


def test_shut_down_leaves_nothing_but_drop(world: GatewayWorld) -> None:
    assert world.daemon is not None
    world.daemon.stop()
    file = world.network.directory / "config.json"
    code = (
        "import sys; from pathlib import Path; from cloudside import config; from cloudside.vpn import gateway; "
        f"gateway.shut_down(config.Config.model_validate_json(Path({str(file)!r}).read_text()))"
    )
    world.gateway.run([sys.executable, "-c", code])
    assert ":FORWARD DROP" in world.rules()
    assert world.flip() == ""
    names = world.gateway.run(["ipset", "list", "-name"]).stdout.split()
    kept = ["from-sites", "grants", "refused", "servers", "sites", "to-sites"]
    assert sorted(names) == [f"kyoten-{name}" for name in kept]
    assert world.charon_sas() == {}


def test_without_a_registry_everything_is_dropped() -> None:
    empty = gateway_world.build("ge")
    try:
        empty.database.close()
        for file in Path(empty.config.state_directory).glob("registry.sqlite*"):
            file.unlink()
        daemon = empty.start()
        wait_until("the skeleton", lambda: ":FORWARD DROP" in empty.rules(), timeout_s=10)
        pause(1.5)
        assert daemon.running
        assert empty.flip() == ""
        assert not empty.routers["tokyo"].connect(wait_s=1)
    finally:
        empty.close()


class _Watch:
    """Looks at the packet filter until told to finish: was FORWARD ever open?"""

    def __init__(self, world: GatewayWorld) -> None:
        self._world = world
        self._stop = threading.Event()
        self._open: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> list[str]:
        self._stop.set()
        self._thread.join()
        return self._open

    def _run(self) -> None:
        while not self._stop.is_set():
            rules = self._world.rules()
            if ":FORWARD DROP" not in rules or "-A FORWARD -j KY-FORWARD" not in rules:
                self._open.append(rules)


def _rules(world: GatewayWorld) -> list[str]:
    lines = (*world.rules().splitlines(), *world.marking().splitlines())
    return [line.split(" [")[0] for line in lines if not line.startswith("#")]
