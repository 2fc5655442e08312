"""Counters of statements and refused packets, with real packets; the daemon is restarted in between."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import gateway_world
import pytest
from gateway_world import WEB, GatewayWorld, background, pause

from cloudside.registry import counters
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.counters import Total
from cloudside.registry.tables import Refusal
from lab.network import wait_until

POLICY = """
tenant: acme
allow:
  - {name: web, from: [tokyo, osaka], to: web, services: [tcp/80]}
  - {name: also-web, from: tokyo, to: web, services: [tcp/80-90, ping]}
  - {name: never, from: osaka, to: web, services: [ssh]}
deny:
  - {name: no-telnet, from: [tokyo, osaka], to: web, services: tcp/23}
"""
#: Answers each connection with 100,000 bytes.
SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 80))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"x" * 100000)
    connection.close()
"""
CLIENT = """
import socket, sys
for _ in range(int(sys.argv[3])):
    connection = socket.create_connection((sys.argv[2], 80), source_address=(sys.argv[1], 0))
    count = 0
    while data := connection.recv(65536):
        count += len(data)
    assert count == 100000
"""
KNOCK = """
import socket, sys
knocker = socket.socket()
knocker.bind((sys.argv[1], 0))
knocker.settimeout(0.3)
try:
    knocker.connect((sys.argv[2], int(sys.argv[3])))
except TimeoutError:
    sys.exit(0)
sys.exit("it was answered")
"""


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("gc", connected=True) as built:
        before = built.flip()
        built.put_policy("acme", POLICY)
        wait_until("the policy", lambda: built.flip() != before, timeout_s=10)
        server = background(built.web, [sys.executable, "-c", SERVER])
        wait_until("the server", lambda: ":80 " in built.web.run(["ss", "-ltn"]).stdout, timeout_s=5)
        try:
            yield built
        finally:
            server.kill()
            server.communicate()


def _totals(world: GatewayWorld, caller: Caller = OPERATOR) -> dict[str, Total]:
    with world.database.read() as session:
        return counters.totals(session, caller, "acme", since=datetime.now(UTC).date() - timedelta(days=1))


def _refused(world: GatewayWorld, tenant: str = "acme") -> dict[tuple[str, str, str], Refusal]:
    with world.database.read() as session:
        rows = counters.refused(session, OPERATOR, tenant)
    return {(row.source, row.destination, row.service): row for row in rows}


def _fetch(world: GatewayWorld, site: str, times: int) -> None:
    router = world.routers[site]
    router.host.run([sys.executable, "-c", CLIENT, str(router.own), str(WEB), str(times)])


def _knock(world: GatewayWorld, site: str, destination: str, port: int) -> None:
    router = world.routers[site]
    router.host.run([sys.executable, "-c", KNOCK, str(router.own), destination, str(port)])


def _restart(world: GatewayWorld) -> None:
    """What was counted is told at the end."""
    assert world.daemon is not None
    world.daemon.stop()
    _start(world)


def _start(world: GatewayWorld) -> None:
    world.start()
    world.wait_ready()  # which it is at once, by what the process before left
    wait_until("the listener", lambda: len(_listeners(world)) == 1, timeout_s=10)
    pause(0.5)


def _end_flows(world: GatewayWorld) -> None:
    world.gateway.run(["conntrack", "-D", "-p", "tcp"], check=False)


def test_flows_and_bytes_are_counted_to_the_statements_that_let_them_in(world: GatewayWorld) -> None:
    assert _totals(world) == {}
    assert world.routers["tokyo"].ping(WEB)
    _fetch(world, "tokyo", 3)
    _fetch(world, "osaka", 2)
    _end_flows(world)
    pause(0.5)
    _restart(world)
    found = _totals(world)
    assert found["acme/web"].flows == 5
    assert found["acme/also-web"].flows == 4  # tokyo's, and its ping
    assert "acme/never" not in found
    # IP and TCP headers, and acknowledgements, come on top.
    assert 5 * 100_000 < found["acme/web"].bytes < 5 * 100_000 * 1.2
    assert 3 * 100_000 < found["acme/also-web"].bytes < 3 * 100_000 * 1.2
    assert (datetime.now(UTC) - found["acme/web"].last_used).total_seconds() < 60


def test_restart_counts_nothing_twice_and_is_reported(world: GatewayWorld) -> None:
    _fetch(world, "tokyo", 2)  # in the connection table still when the daemon starts again
    pause(0.5)
    _restart(world)
    once = _totals(world)["acme/web"]
    wait_until("the report", lambda: "datapath.counting-interrupted" in world.problem_keys(), timeout_s=10)
    _end_flows(world)
    pause(0.5)
    _restart(world)
    again = _totals(world)["acme/web"]
    assert again.flows == once.flows
    assert 2 * 100_000 < again.bytes - once.bytes < 2 * 100_000 * 1.2


def test_listener_that_is_killed_is_started_again(world: GatewayWorld) -> None:
    before = _totals(world)["acme/web"].flows
    pids = _listeners(world)
    assert len(pids) == 1
    world.gateway.run(["kill", "-9", pids[0]])
    wait_until("another listener", lambda: _listeners(world) not in ([], pids), timeout_s=5)
    pause(0.5)
    _fetch(world, "osaka", 1)
    pause(0.5)
    _restart(world)
    assert _totals(world)["acme/web"].flows == before + 1


def test_killed_daemon_leaves_no_listener(world: GatewayWorld) -> None:
    assert world.daemon is not None
    assert len(_listeners(world)) == 1
    world.daemon.kill()
    wait_until("the listener to end", lambda: _listeners(world) == [], timeout_s=5)
    _start(world)


def _listeners(world: GatewayWorld) -> list[str]:
    """Listeners in this world's gateway, by the network namespace they are in."""
    found = world.gateway.run(["ip", "netns", "pids", world.gateway.namespace], check=False).stdout.split()
    names = {pid: world.gateway.run(["cat", f"/proc/{pid}/cmdline"], check=False).stdout for pid in found}
    return [pid for pid, line in names.items() if line.startswith("conntrack\0-E")]


def test_who_was_refused_is_shown_with_the_reason(world: GatewayWorld) -> None:
    _knock(world, "tokyo", str(WEB), 23)
    _knock(world, "osaka", str(WEB), 443)
    _knock(world, "tokyo", "10.20.1.1", 80)
    _knock(world, "nagoya", "10.10.1.1", 80)
    assert not world.routers["osaka"].ping(WEB)
    _restart(world)
    found = _refused(world)
    denied = found["tokyo", "web", "tcp/23"]
    assert (denied.reason, denied.statements, denied.source_address) == ("rules.denied", "acme/no-telnet", "10.10.1.1")
    assert found["osaka", "web", "tcp/443"].reason == "rules.no-statement"
    assert found["osaka", "web", "icmp/8/0"].reason == "rules.no-statement"
    # What is another tenant's is an address and nothing more, and each tenant sees what it did itself.
    assert found["tokyo", "10.20.1.1", "tcp/80"].reason == "rules.unknown-destination"
    assert "nagoya" not in str([(row.source, row.destination, row.params) for row in found.values()])
    assert ("nagoya", "10.10.1.1", "tcp/80") in _refused(world, "birch")
    assert (datetime.now(UTC) - denied.last_seen).total_seconds() < 60
    assert ("tokyo", "web", "tcp/80") not in found


def test_refused_again_after_a_restart_is_one_row(world: GatewayWorld) -> None:
    rows = len(_refused(world))
    before = _refused(world)["tokyo", "web", "tcp/23"]
    pause(3)
    _knock(world, "tokyo", str(WEB), 23)
    _restart(world)
    after = _refused(world)["tokyo", "web", "tcp/23"]
    assert after.last_seen > before.last_seen
    assert (after.first_seen, len(_refused(world))) == (before.first_seen, rows)
