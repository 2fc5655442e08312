"""The gateway's packet filter on a real kernel: changes, drift, failures half-way."""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import gateway_world
import pytest
from gateway_world import ACME, CLOSED, SERVICE, WEB, GatewayWorld, background, pause

from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.skeleton import Doors
from lab.network import wait_until
from linux.errors import LinuxError, ProgramFailedError
from linux.netfilter import Netfilter
from linux.runner import Finished, SubprocessRunner
from rules.compile import RuleSet, compile_policy
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse

COUNTER = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 80))
connection, _ = listener.accept()
count = 0
while data := connection.recv(100):
    count += len(data)
    print(count, flush=True)
"""
SENDER = """
import socket, sys, time
connection = socket.create_connection((sys.argv[2], 80), source_address=(sys.argv[1], 0))
while True:
    connection.send(b"x")
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("gp", connected=True) as built:
        yield built


def test_tightening_ends_an_established_flow_and_nobody_else_loses_a_packet(
    world: GatewayWorld, tmp_path: Path
) -> None:
    tokyo, nagoya = world.routers["tokyo"], world.routers["nagoya"]
    received = tmp_path / "received"
    with received.open("w") as output:
        server = background(world.web, [sys.executable, "-c", COUNTER], stdout=output)
        wait_until("the server", lambda: ":80 " in world.web.run(["ss", "-ltn"]).stdout, timeout_s=5)
        client = background(tokyo.host, [sys.executable, "-c", SENDER, str(tokyo.own), str(WEB)])
        other = background(
            nagoya.host, ["ping", "-q", "-i", "0.02", "-c", "150", "-W", "1", "-I", str(nagoya.own), str(WEB)]
        )
        try:
            wait_until("the flow", lambda: received.read_text().count("\n") > 5, timeout_s=5)
            assert "dport=80" in _conntrack(world)
            before = world.flip()
            world.put_policy("acme", CLOSED)
            wait_until("the flip", lambda: world.flip() != before, timeout_s=3)
            wait_until("the flow to end", lambda: "dport=80" not in _conntrack(world), timeout_s=2)
            count = received.read_text().count("\n")
            pause(0.7)
            assert received.read_text().count("\n") == count
            assert not tokyo.ping(WEB)
            output_text = other.communicate(timeout=20)[0]
            assert "150 packets transmitted, 150 received" in output_text
        finally:
            for process in (server, client, other):
                process.kill()
                process.communicate()
            world.put_policy("acme", ACME)
    wait_until("the way to open again", lambda: tokyo.ping(WEB), timeout_s=5)


def test_policy_change_reaches_the_kernel_quickly(
    world: GatewayWorld, record_property: Callable[[str, object], None]
) -> None:
    took_ms = []
    try:
        for number in range(20):
            before = world.flip()
            world.put_policy("acme", CLOSED if number % 2 == 0 else ACME)
            began = time.perf_counter()
            while world.flip() == before:
                assert time.perf_counter() - began < 3
            took_ms.append((time.perf_counter() - began) * 1000)
            pause(0.3)  # a change a while after the other: what is measured is one change, not a queue of them
    finally:
        world.put_policy("acme", ACME)
    p95 = statistics.quantiles(took_ms, n=20)[-1]
    record_property("policy_change_to_kernel_ms", f"median {statistics.median(took_ms):.0f}, p95 {p95:.0f}")
    assert p95 < 1000  # measured 60-100 ms; the bar is generous because the machine is shared


@pytest.mark.parametrize(
    "damage",
    [
        ["iptables-legacy", "-I", "FORWARD", "-j", "ACCEPT"],
        ["iptables-legacy", "-P", "FORWARD", "ACCEPT"],
        ["iptables-legacy", "-F", "KY-FORWARD"],
        ["iptables-legacy", "-t", "mangle", "-F", "KY-POLICY"],
        ["iptables-legacy", "-t", "mangle", "-F", "FORWARD"],
        ["iptables-legacy", "-t", "mangle", "-I", "KY-GRANT", "-j", "DROP"],
        ["iptables-legacy", "-I", "KY-IN-TUNNEL", "-j", "ACCEPT"],
        ["iptables-legacy", "-D", "INPUT", "-i", "ipsec0", "-j", "KY-INPUT"],
        ["ipset", "add", "kyoten-sites", "10.99.0.0/16"],
        ["ipset", "flush", "kyoten-servers"],
    ],
    ids=lambda words: " ".join(words),
)
def test_drift_is_repaired_and_reported(world: GatewayWorld, damage: list[str]) -> None:
    assert world.daemon is not None
    log = world.daemon.log
    whole, told = _permanent(world), log.read_text().count("key=datapath.drift")
    world.gateway.run(damage)
    # Seen broken, unless the gateway was faster.
    assert _permanent(world) != whole or log.read_text().count("key=datapath.drift") > told
    wait_until("the repair", lambda: _permanent(world) == whole, timeout_s=5)
    wait_until("the report", lambda: "datapath.drift" in world.problem_keys(), timeout_s=3)
    assert world.routers["tokyo"].ping(WEB)


def test_drift_inside_the_version_in_force_is_repaired(world: GatewayWorld) -> None:
    before = world.flip()
    chain = before.splitlines()[-1].rsplit(" ", 1)[1]
    world.gateway.run(["iptables-legacy", "-t", "mangle", "-I", chain, "-g", "KY-GRANT"])
    wait_until("a new version", lambda: world.flip() not in ("", before), timeout_s=5)
    wait_until("the old version to go", lambda: f":{chain} " not in world.marking(), timeout_s=5)
    chain = world.flip().splitlines()[-1].rsplit(" ", 1)[1]
    some_set = next(word for word in world.gateway.run(["ipset", "list", "-name"]).stdout.split() if chain in word)
    before = world.flip()
    world.gateway.run(["ipset", "add", some_set, "10.99.0.0/16"])
    wait_until("a new version", lambda: world.flip() not in ("", before), timeout_s=5)
    assert world.routers["tokyo"].ping(WEB)


def test_operators_own_input_rule_stays_and_counts(world: GatewayWorld) -> None:
    world.gateway.run(["iptables-legacy", "-I", "INPUT", "-i", "wan0", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"])
    pause(2.5)
    lines = [line for line in world.rules().splitlines() if line.startswith("-A INPUT")]
    assert lines[0] == "-A INPUT -i ipsec0 -j KY-INPUT"
    assert lines.index("-A INPUT -i wan0 -p tcp -m tcp --dport 22 -j ACCEPT") < lines.index(
        "-A INPUT -i wan0 -j KY-INPUT"
    )


def _conntrack(world: GatewayWorld) -> str:
    return world.gateway.run(["conntrack", "-L"], check=False).stdout


def _permanent(world: GatewayWorld) -> list[str]:
    """Everything but the version's own names and counters."""
    tables = (*world.rules().splitlines(), *world.marking().splitlines())
    lines = [line.split(" [")[0] for line in tables if not re.search(r"#|\bky[.0]", line)]
    jump = [line.split("-g")[0] for line in tables if line.startswith("-A KY-POLICY")]
    sets = world.gateway.run(["ipset", "save"]).stdout.splitlines()
    # What counts has counters, and a set of the same name with a number while it is told.
    members = sorted(line for line in sets if re.match("add kyoten-(?!refused |from-sites|to-sites)", line))
    return [*lines, *jump, *members]


# -- each step of an apply fails, on the box's own kernel -------------------------------------------------------------

INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")), Site("osaka", "acme", ip_network("10.10.2.0/24"))),
    devices=(),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)


def _rule_set(text: str) -> RuleSet:
    return compile_policy(parse([PolicySource("acme", "p.yaml", text)], INVENTORY), INVENTORY)


class _Failing:
    """Runs programs until the n-th, which fails: before it did its work, or after."""

    def __init__(self) -> None:
        self.real = SubprocessRunner()
        self.fail_at = 0
        self.after_work = False
        self.calls = 0

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        self.calls += 1
        failing = self.calls == self.fail_at
        if failing and not self.after_work:
            raise ProgramFailedError(argv[0], 4, "made to fail")
        ended = self.real.run(argv, stdin=stdin, timeout_s=timeout_s, check=check)
        if failing:
            raise ProgramFailedError(argv[0], 4, "made to fail")
        return ended


@pytest.mark.parametrize("after_work", [False, True], ids=["before", "after"])
def test_failure_at_any_step_leaves_the_old_or_the_new_version_whole(after_work: bool) -> None:
    runner = _Failing()
    doors = Doors(SERVICE, "lan0", "wan0", (25,), (25,), ())
    enforcement = Enforcement(Netfilter(runner), doors)
    old, new = _rule_set(ACME), _rule_set("tenant: acme\nallow:\n  - {from: osaka, to: web, services: [ssh]}\n")
    enforcement.hold()
    enforcement.apply(old)
    runner.calls = 0
    enforcement.apply(new)
    steps = runner.calls
    assert steps == 2  # the sets, the flip
    seen = set()
    for step in range(1, steps + 1):
        runner.fail_at = 0
        enforcement.apply(old)
        enforcement.sweep()
        whole = {"old": _in_force(runner)}
        runner.calls, runner.fail_at, runner.after_work = 0, step, after_work
        with pytest.raises(LinuxError):
            enforcement.apply(new)
        runner.fail_at = 0
        found = _in_force(runner)
        enforcement.apply(new)
        enforcement.sweep()
        whole["new"] = _in_force(runner)
        which = [name for name, content in whole.items() if content == found]
        assert len(which) == 1, (step, found)
        seen.update(which)
        # Nothing of other versions is left lying about.
        names = runner.real.run(["ipset", "list", "-name"]).stdout.split()
        assert len({name for name in names if name.startswith("ky0a0a0000.") and name.endswith("h")}) == 1
    assert "old" in seen
    enforcement.close()
    assert _in_force(runner) == []


def _in_force(runner: _Failing) -> list[str]:
    """What decides now, with versions' numbers taken out of the names: a mixture would show."""
    rules = runner.real.run(["iptables-legacy-save", "-t", "mangle"]).stdout.splitlines()
    sets = runner.real.run(["ipset", "save"]).stdout.splitlines()
    reached, lines = ["KY-POLICY"], []
    for chain in reached:  # grows as it goes
        for line in [line for line in rules if line.startswith(f"-A {chain} ")]:
            lines.append(line)
            found = re.findall(r" -[jg] (ky\S+)", line)
            reached += [name for name in found if name not in reached]
            names = re.findall(r"--(?:match|map)-set (\S+)", line)
            lines += sorted(one for one in sets for name in names if one.startswith(f"add {name} "))
    return [re.sub(r"\b(ky[0-9a-f]*)\.\d+", r"\1.V", line) for line in lines]
