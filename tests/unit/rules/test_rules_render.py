from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, ip_network

import pytest

from rules.compile import RuleSet
from rules.dispatch import LEAF_MAX, STRIDE_BITS, Level, tree
from rules.model import Endpoint, Kind
from rules.render import Rendered, Sides, render

Decide = Callable[[str], RuleSet]


SIDES = Sides("ipsec0", "lan0")


def _render(rule_set: RuleSet, version: int = 1, sides: Sides = SIDES) -> Rendered:
    return render(rule_set, version=version, sides=sides)


def _chains(rendered: Rendered) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in rendered.chains.splitlines():
        if line.startswith(":"):
            found[line[1:].split()[0]] = []
        elif line.startswith("-A"):
            _, name, rule = line.split(" ", 2)
            found[name].append(rule)
    return found


def test_every_chain_ends_in_a_drop_or_leads_on_and_names_fit(decide: Decide) -> None:
    rendered = _render(decide("allow: [{from: tokyo-1, to: web, services: [ssh, tcp/1-9999, any]}]"), 10**9 - 1)
    chains = _chains(rendered)
    for rules in chains.values():
        word, target = rules[-1].split()
        assert (word, target) == ("-j", "DROP") or (word == "-g" and target in {*chains, "KY-REFUSED"})
    assert all(len(name) <= 28 for name in chains)
    assert all(len(line.split()[1]) <= 31 for line in rendered.sets.splitlines())
    with pytest.raises(ValueError, match="does not fit"):
        _render(decide(""), 10**9)


def test_an_empty_policy_grants_nothing(decide: Decide) -> None:
    rendered = _render(decide(""))
    assert "KY-GRANT" not in rendered.chains
    assert "ACCEPT" not in rendered.chains
    assert rendered.chains.startswith("*mangle\n")
    assert rendered.chains.endswith("COMMIT\n")


def test_however_many_statements_a_tenant_has_one_word_decides_for_31_sources(decide: Decide) -> None:
    one = _render(decide("allow: [{from: tokyo-1, to: web, services: ssh}]"))
    many = "".join(f"{{from: tokyo-1, to: web, services: tcp/{port}}}, " for port in range(1000, 1200))
    more = _render(decide(f"allow: [{many}{{from: osaka-1, to: tokyo-1, services: ssh}}]"))
    assert _chains(one).keys() == _chains(more).keys()
    assert one.chains.count("\n") == more.chains.count("\n")


def test_wide_ranges_are_compared_and_narrow_ones_listed(decide: Decide) -> None:
    rendered = _render(
        decide("allow: [{from: tokyo-1, to: web, services: [tcp/1-60000, udp/5-7, icmp/8, icmp/13/0, icmp/3]}]")
    )
    assert "-p tcp -m tcp --dport 1:60000 -j SET" in rendered.chains
    assert "-p icmp -m icmp --icmp-type 8 -j SET" in rendered.chains
    assert "icmp:timestamp-request " in rendered.sets
    # An error starts nothing: it passes with the flow it is about.
    assert "--icmp-type 3" not in rendered.chains
    assert "udp:6" in rendered.sets
    assert rendered.sets.count("\n") < 300


def test_with_kernel_esp_only_what_was_encrypted_comes_from_the_tunnel(decide: Decide) -> None:
    rendered = _render(decide("allow: [{from: tokyo-1, to: web, services: ssh}]"), sides=Sides("ipsec0", "lan0", True))
    entries = [rule for rule in _chains(rendered)["ky.1"] if rule.startswith("-i ipsec0")]
    assert len(entries) == 2
    assert all("-m policy --dir in --pol ipsec --mode tunnel" in rule for rule in entries)
    assert "policy" not in _render(decide("")).chains


def test_ipv6_members_are_left_out_and_told(decide: Decide) -> None:
    rule_set = decide("allow: [{from: tokyo-1, to: web, services: ssh}]")
    six = {"six": Endpoint("six", Kind.SERVER, None, ip_network("fd00:1::1/128"), None)}
    known = {"shared": rule_set.shared, "servers": rule_set.servers, "endpoints": rule_set.endpoints}
    rendered = _render(replace(rule_set, **{field: {**members, **six} for field, members in known.items()}))
    assert [(problem.kind, problem.params["name"]) for problem in rendered.problems] == [
        ("rules.ipv6-not-rendered", "six")
    ]
    assert "fd00" not in rendered.sets + rendered.chains
    assert rendered.chains == _render(rule_set).chains


def _walk(level: Level[int], address: IPv4Network) -> tuple[int | None, int]:
    """The target of the address, and how many prefixes were compared."""
    compared = 0
    for network, target in level.cases:
        compared += 1
        if address.subnet_of(network):
            if isinstance(target, Level):
                found, more = _walk(target, address)
                return found, compared + more
            return target, compared
    return None, compared


def test_the_prefix_tree_finds_each_of_10_000_sites_in_few_steps() -> None:
    networks = [ip_network((0x0A000000 + number * 256 * (1 + number % 3 * 7), 24)) for number in range(10_000)]
    networks = sorted(set(networks))
    root = tree((network, number) for number, network in enumerate(networks))
    assert len(root.cases) <= max(LEAF_MAX, 2**STRIDE_BITS)
    worst = 0
    for number, network in enumerate(networks):
        found, compared = _walk(root, IPv4Network(network[7]))
        assert found == number
        worst = max(worst, compared)
    assert worst <= 60
    assert _walk(root, ip_network("11.0.0.0/32"))[0] is None


def test_networks_of_unequal_length_in_one_tree() -> None:
    texts = ["0.0.0.0/1", "128.0.0.0/8", "129.0.0.0/32", "129.0.0.1/32", *(f"200.0.{n}.0/24" for n in range(20))]
    networks = [ip_network(text) for text in texts]
    root = tree((network, number) for number, network in enumerate(reversed(networks)))
    for number, network in enumerate(reversed(networks)):
        assert _walk(root, IPv4Network(network[-1]))[0] == number
