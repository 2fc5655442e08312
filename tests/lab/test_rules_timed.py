"""Timed grants on the real kernel: they end on time with nobody there, and their flows with them. Assumes the box."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
import rules_wires

from rules.compile import RuleSet, compile_policy
from rules.model import Grant, Inventory, PolicySource, Server, Site
from rules.parse import parse
from rules.services import BUILT_IN, merged

INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")),),
    devices=(),
    servers=(Server("jump", None, ip_address("10.200.0.10")),),
)
#: Answers each connection with a byte every 50 ms for as long as it can.
TALKER = """
import socket, time
listener = socket.create_server(("10.10.1.7", 8080))
print(flush=True)
connection, _ = listener.accept()
while True:
    connection.sendall(b"x")
    time.sleep(0.05)
"""
#: Prints when each byte came.
HEARER = """
import socket, time
connection = socket.create_connection(("10.10.1.7", 8080), 3, ("10.200.0.10", 0))
connection.settimeout(1.5)
try:
    while connection.recv(1):
        print(time.time(), flush=True)
except TimeoutError:
    pass
"""


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with rules_wires.wires():
        rules_wires.run("ip", "-n", "rk-sites", "addr", "add", "10.10.1.7/32", "dev", "lo")
        rules_wires.run("ip", "-n", "rk-servers", "addr", "add", "10.200.0.10/32", "dev", "lo")
        yield


def _rule_set(until: datetime | None) -> RuleSet:
    policy = parse([PolicySource("acme", "p", "tenant: acme\n")], INVENTORY)
    services = merged((*BUILT_IN["ping"], *BUILT_IN["http"], *BUILT_IN["https"]))
    services = merged((*services, *rules_wires.ports(8080)))
    grants = [] if until is None else [Grant("a1", "acme", "jump", "tokyo", services, until)]
    return compile_policy(policy, INVENTORY, at=datetime.now(UTC), grants=grants)


def _ping(count: int = 1) -> bool:
    argv = ["ip", "netns", "exec", "rk-servers", "ping", "-q", "-c", str(count), "-i", "0.05", "-W", "1"]
    return subprocess.run([*argv, "-I", "10.200.0.10", "10.10.1.7"], check=False, capture_output=True).returncode == 0


def test_a_flow_ends_with_its_grant_and_nobody_has_to_end_it() -> None:
    enforcement = rules_wires.enforcement()
    enforcement.apply(_rule_set(None))
    assert not _ping()
    talker = subprocess.Popen(
        ["ip", "netns", "exec", "rk-sites", sys.executable, "-c", TALKER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert talker.stdout is not None
        talker.stdout.readline()
        until = datetime.now(UTC) + timedelta(seconds=4)
        enforcement.apply(_rule_set(until))
        assert enforcement.grant(_rule_set(until), now=datetime.now(UTC)) == ()
        assert _ping(3)
        # From here on nobody touches the kernel.
        hearer = ["ip", "netns", "exec", "rk-servers", sys.executable, "-c", HEARER]
        heard = subprocess.run(hearer, capture_output=True, text=True, check=True).stdout.split()
        last = max(map(float, heard))
        assert until.timestamp() - 1.6 < last <= until.timestamp() + 0.3
        assert not _ping()
    finally:
        talker.kill()
        talker.communicate()


def test_a_grant_ended_early_takes_its_flows_along() -> None:
    enforcement = rules_wires.enforcement()
    until = datetime.now(UTC) + timedelta(hours=1)
    enforcement.apply(_rule_set(until))
    enforcement.grant(_rule_set(until), now=datetime.now(UTC))
    pinging = subprocess.Popen(
        ["ip", "netns", "exec", "rk-servers", "ping", "-O", "-i", "0.1", "-I", "10.200.0.10", "10.10.1.7"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(0.6)
        enforcement.grant(_rule_set(None), now=datetime.now(UTC))
        time.sleep(0.6)
    finally:
        pinging.kill()
        output = pinging.communicate()[0]
    answers = [line for line in output.splitlines() if "bytes from" in line]
    silent = [line for line in output.splitlines() if "no answer yet" in line]
    assert 3 <= len(answers) <= 9
    assert len(silent) >= 3
    # One that is given again opens the way again, also for a flow that was cut.
    enforcement.grant(_rule_set(until), now=datetime.now(UTC))
    assert _ping()
