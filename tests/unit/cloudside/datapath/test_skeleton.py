from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from fake_kernel import FakeKernel

from cloudside.config import Config, Listen, Relay, Web
from cloudside.datapath.skeleton import (
    Doors,
    Tables,
    doors,
    input_jumps,
    marking_rules,
    sets_text,
    skeleton_differences,
    skeleton_rules,
    skeleton_text,
)
from cloudside.datapath.snapshot import parse_chains

SERVICE = IPv4Address("10.255.255.1")
DOORS = Doors(SERVICE, "lan0", "wan0", (25, 587, 8443), (25, 587), ((IPv4Address("203.0.113.2"), 25),))


@pytest.fixture
def kernel() -> FakeKernel:
    fresh = FakeKernel()
    fresh.run(["ipset", "restore"], stdin=sets_text())
    return fresh


def _tables(kernel: FakeKernel) -> Tables:
    saved = [kernel.run(["iptables-legacy-save", "-t", table]).stdout for table in ("filter", "mangle")]
    return Tables(*map(parse_chains, saved))


def _put(kernel: FakeKernel) -> None:
    kernel.run(["iptables-legacy-restore"], stdin=skeleton_text(DOORS, _tables(kernel)))


def test_skeleton_is_complete_and_putting_it_again_changes_nothing(kernel: FakeKernel) -> None:
    assert skeleton_differences(DOORS, _tables(kernel)) != ()
    _put(kernel)
    assert skeleton_differences(DOORS, _tables(kernel)) == ()
    once = _tables(kernel)
    _put(kernel)
    assert _tables(kernel) == once
    assert kernel.tables["filter"].policies["FORWARD"] == "DROP"


def test_rule_set_in_force_is_kept(kernel: FakeKernel) -> None:
    _put(kernel)
    kernel.mangle["ky.7"] = ["-j DROP"]
    kernel.mangle["KY-POLICY"] = ["-g ky.7"]
    _put(kernel)
    assert kernel.mangle["KY-POLICY"] == ["-g ky.7"]


def test_operators_rules_come_before_ours_except_for_the_tunnel(kernel: FakeKernel) -> None:
    kernel.filter["INPUT"] = ["-i wan0 -p tcp -m tcp --dport 22 -j ACCEPT"]
    kernel.filter["FORWARD"] = ["-j ACCEPT"]
    _put(kernel)
    tunnel, *others = input_jumps(DOORS)
    assert kernel.filter["INPUT"] == [tunnel, "-i wan0 -p tcp -m tcp --dport 22 -j ACCEPT", *others]
    assert kernel.filter["FORWARD"] == ["-j KY-FORWARD"]


def test_operators_rules_in_mangle_stay_and_come_first(kernel: FakeKernel) -> None:
    clamp = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j ACCEPT"
    kernel.mangle["FORWARD"] = [clamp]
    _put(kernel)
    _put(kernel)
    assert kernel.mangle["FORWARD"] == [clamp, "-m conntrack --ctstate NEW -j KY-POLICY"]
    assert skeleton_differences(DOORS, _tables(kernel)) == ()


@pytest.mark.parametrize("chain", ["FORWARD", "INPUT", *skeleton_rules(DOORS), *marking_rules()])
def test_a_rule_that_is_missing_or_too_many_is_noticed(kernel: FakeKernel, chain: str) -> None:
    _put(kernel)
    rules = kernel.mangle if chain in marking_rules() else kernel.filter
    whole = list(rules[chain])
    for damaged in (whole[1:], ["-j ACCEPT", *whole]):
        rules[chain] = damaged
        assert skeleton_differences(DOORS, _tables(kernel)) == (chain,)
    rules[chain] = whole
    assert skeleton_differences(DOORS, _tables(kernel)) == ()


@pytest.mark.parametrize("rules", [[], ["-m conntrack --ctstate NEW -j KY-POLICY"] * 2, ["-j KY-POLICY"]])
def test_the_way_to_the_decision_is_there_once(kernel: FakeKernel, rules: list[str]) -> None:
    _put(kernel)
    kernel.mangle["FORWARD"] = rules
    assert skeleton_differences(DOORS, _tables(kernel)) == ("FORWARD (mangle)",)
    _put(kernel)
    assert skeleton_differences(DOORS, _tables(kernel)) == ()


def test_only_marked_packets_are_accepted_and_only_granted_ones_marked() -> None:
    accepting = [rule for rule in skeleton_rules(DOORS)["KY-FORWARD"] if rule.endswith("ACCEPT")]
    assert accepting == [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m mark --mark 0x4b590001 -j ACCEPT",
    ]
    assert skeleton_rules(DOORS)["KY-TIMED"][-1] == "-j DROP"


def test_open_policy_and_missing_policy_chain_are_noticed(kernel: FakeKernel) -> None:
    _put(kernel)
    kernel.tables["filter"].policies["FORWARD"] = "ACCEPT"
    del kernel.mangle["KY-POLICY"]
    assert skeleton_differences(DOORS, _tables(kernel)) == ("FORWARD", "KY-POLICY")


def test_every_chain_of_input_ends_in_drop() -> None:
    for chain, rules in skeleton_rules(DOORS).items():
        if chain.startswith("KY-IN"):
            assert rules[-1] == "-j DROP"


def test_doors_follow_the_listeners() -> None:
    public = IPv4Address("203.0.113.2")
    config = Config(
        web=Web(listen=(Listen(address=SERVICE, port=8443), Listen(address=public, port=9443))),
        relay=Relay(bounce_listen=Listen(address=IPv4Address("0.0.0.0"), port=25)),
    )
    found = doors(config)
    assert found.site_ports == (25, 587, 8443)
    assert found.cloud_ports == (25, 587)
    assert found.public == ((None, 25), (public, 9443))
    rules = skeleton_rules(found)["KY-IN-INTERNET"]
    assert "-p tcp -m tcp --dport 25 -j ACCEPT" in rules
    assert f"-d {public}/32 -p tcp -m tcp --dport 9443 -j ACCEPT" in rules
    assert not any("8443" in rule for rule in rules)


def test_without_public_listeners_the_internet_gets_ike_and_ping_only() -> None:
    assert doors(Config()).public == ()
    assert not any("tcp" in rule for rule in skeleton_rules(doors(Config()))["KY-IN-INTERNET"])


def test_strangers_are_dropped_before_anything_is_accepted() -> None:
    rules = skeleton_rules(DOORS)
    for chain, members in (("KY-IN-TUNNEL", "kyoten-sites"), ("KY-IN-CLOUD", "kyoten-servers")):
        assert rules[chain][0] == f"-m set ! --match-set {members} src -j DROP"
    assert rules["KY-IN-TUNNEL"][1] == f"! -d {SERVICE}/32 -j DROP"
    assert not any(rule == "-j ACCEPT" for chain in rules for rule in rules[chain])


def test_kernel_that_does_esp_says_itself_what_came_through_it() -> None:
    guard = "-i ipsec0 -m policy --dir in --pol none -j DROP"
    assert skeleton_rules(replace(DOORS, kernel_esp=True))["KY-INPUT"][0] == guard
    assert guard not in skeleton_rules(DOORS)["KY-INPUT"]


def test_first_messages_of_ikev1_are_limited_before_anything_is_accepted() -> None:
    rules = skeleton_rules(DOORS)
    limited = [at for at, rule in enumerate(rules["KY-INPUT"]) if rule.endswith("-j KY-IKE1")]
    accepted = [at for at, rule in enumerate(rules["KY-INPUT"]) if rule.endswith("-j ACCEPT")]
    assert len(limited) == 2
    assert max(limited) < min(accepted)
    assert rules["KY-IKE1"][-1] == "-j DROP"
