"""The rendered rules on the real kernel: every probe's fate must be what the evaluator says. Assumes the box."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from cloudside.datapath.snapshot import Chains, different_chains, parse_chains, parse_sets
from linux import readback
from rules.render import render
from tests.lab import rules_wires
from tests.lab.rules_proof_world import INVENTORY, proof_probes, proof_rule_set
from tests.lab.rules_wires import NETFILTER, RUNNER, SIDES, disagreements, expectations


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with rules_wires.wires():
        yield


def test_every_probe_meets_the_fate_the_evaluator_says() -> None:
    rule_set = proof_rule_set()
    probes = proof_probes(rule_set)
    expected = expectations(rule_set, probes)
    rules_wires.enforcement().apply(rule_set)
    assert len(INVENTORY.sites) >= 40
    assert len(probes) > 20_000
    assert sum(expected) > 2_000
    assert disagreements(probes, expected) == []


def test_what_the_kernel_gives_back_is_what_was_rendered_and_says_the_same() -> None:
    """Read back, by three ways: iptables-save, python-iptables, and packets walked through what that one said."""
    rule_set = proof_rule_set()
    enforcement = rules_wires.enforcement()
    enforcement.apply(rule_set)
    assert enforcement.repair(thorough=True) == ()
    assert rules_wires.enforcement().apply(rule_set).how == "adopted"
    found = readback.read(RUNNER)
    for table, content in found.tables.items():
        saved = parse_chains(NETFILTER.save_rules(table))
        assert content.rules == saved.rules
        assert content.policies == saved.policies
    mangle = Chains(found.tables["mangle"].rules, found.tables["mangle"].policies)
    assert mangle.rules["KY-POLICY"] == ("-g ky.1",)
    rendered = render(rule_set, version=1, sides=SIDES)
    assert different_chains(parse_chains(rendered.chains).rules, mangle) == ()
    sets = parse_sets(found.sets)
    assert {name: sets[name] for name in parse_sets(rendered.sets)} == parse_sets(rendered.sets)
    probes = proof_probes(rule_set)[::7]
    kernel = rules_wires.read_back_kernel(found)
    assert [*rules_wires.walked_disagreements(kernel, probes, expectations(rule_set, probes))] == []


def test_a_connection_and_its_replies_pass() -> None:
    """A whole TCP exchange, allowed in one direction only: the answers come back by connection tracking."""
    rules_wires.enforcement().apply(proof_rule_set())
    rules_wires.run("ip", "-n", "rk-sites", "addr", "add", "10.10.5.7/32", "dev", "lo")
    rules_wires.run("ip", "-n", "rk-servers", "addr", "add", "10.200.0.10/32", "dev", "lo")
    serve = "s = socket.create_server(('10.200.0.10', 443)); print(flush=True); s.accept()[0].sendall(b'hello')"
    ask = "s = socket.create_connection(('10.200.0.10', 443), 5, ('10.10.5.7', 0)); print(s.recv(9).decode())"
    serve, ask = f"import socket; {serve}", f"import socket; {ask}"
    server = subprocess.Popen(
        ["ip", "netns", "exec", "rk-servers", sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        argv = ["ip", "netns", "exec", "rk-sites", sys.executable, "-c", ask]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "hello\n"
    finally:
        server.kill()
        server.communicate()
        rules_wires.run("ip", "-n", "rk-sites", "addr", "del", "10.10.5.7/32", "dev", "lo")
        rules_wires.run("ip", "-n", "rk-servers", "addr", "del", "10.200.0.10/32", "dev", "lo")
