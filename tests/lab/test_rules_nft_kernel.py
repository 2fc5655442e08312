"""The nft script on the real kernel: the same probes, the same evaluator, the other renderer. Assumes the box."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from linux.errors import ProgramFailedError
from rules.render_nft import (
    ASKING_RULES,
    GUARD,
    GUARD_RULES,
    NftTable,
    build,
    flip,
    nft_table,
    removal,
    table_name,
)
from tests.lab import nft_readback, rules_wires
from tests.lab.rules_proof_world import proof_probes, proof_rule_set
from tests.lab.rules_wires import NETFILTER, SIDES, Probe, disagreements, expectations

#: As many take-overs happen under traffic.
REPLACEMENTS = 15


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with rules_wires.wires():
        yield


@pytest.fixture(autouse=True)
def _only_nft() -> Iterator[None]:
    """Nothing but our table decides: no rule and no policy of iptables in this namespace."""
    present = "".join(NETFILTER.save_rules(table) for table in ("filter", "mangle"))
    assert "\n-A " not in present
    assert " DROP " not in present
    yield
    nft_readback.remove()


def test_every_probe_meets_the_fate_the_evaluator_says() -> None:
    rule_set = proof_rule_set()
    probes = proof_probes(rule_set)
    expected = expectations(rule_set, probes)
    nft_readback.put(nft_table(rule_set, sides=SIDES))
    assert len(probes) > 20_000
    assert sum(expected) > 2_000
    assert disagreements(probes, expected) == []


def test_what_the_kernel_gives_back_is_what_was_rendered() -> None:
    rendered = nft_table(proof_rule_set(), sides=SIDES)
    version = nft_readback.put(rendered)
    assert nft_readback.sets(version) == rendered.sets
    chains = nft_readback.chains(table_name(version))
    assert chains.pop("forward")[1:] == ASKING_RULES
    assert chains == rendered.chains
    assert nft_readback.chains(GUARD)["forward"][1:] == GUARD_RULES
    assert sum(len(one.elements) for one in rendered.sets.values()) > 100


def _mutants(table: NftTable) -> dict[str, NftTable]:
    """The table with one thing left out or made wider, by what it is."""

    def without(chain: str, ending: str) -> NftTable:
        rules = table.chains[chain]
        left = tuple(rule for rule in rules if ending not in rule)
        assert len(left) == len(rules) - 1
        return replace(table, chains={**table.chains, chain: left})

    def altered(chain: str, old: str, new: str) -> NftTable:
        rules = tuple(rule.replace(old, new) for rule in table.chains[chain])
        assert rules != table.chains[chain]
        return replace(table, chains={**table.chains, chain: rules})

    def changed(name: str, old: tuple[tuple[int, int], ...], new: tuple[tuple[int, int], ...] | None) -> NftTable:
        elements = dict(table.sets[name].elements)
        value = elements.pop(old)
        if new is not None:
            elements[new] = value
        return replace(table, sets={**table.sets, name: replace(table.sets[name], elements=elements)})

    def element(name: str, *beginning: int) -> tuple[tuple[int, int], ...]:
        return next(
            key for key in table.sets[name].elements if [low for low, _ in key][: len(beginning)] == [*beginning]
        )

    acme = "t0a0a0000"
    site_4, site_8, device, web = 0x0A0A0400, 0x0A0A0800, 0x0A0A0214, 0x0AC8000A
    source = element(f"{acme}_sites", site_4)
    port = element(f"{acme}_g0_port", web, 6, 443)
    same = element(f"{acme}_same", site_4)
    grown = element(f"{acme}_g0_port", web, 6, 8000)
    return {
        "a site that is no source": changed(f"{acme}_sites", source, None),
        "a site whose last address is no source": changed(f"{acme}_sites", source, ((source[0][0], source[0][1] - 1),)),
        "a grant that is not there": changed(f"{acme}_g0_port", port, None),
        "a range of ports that is one too long": changed(
            f"{acme}_g0_port", grown, (*grown[:2], (grown[2][0], grown[2][1] + 1))
        ),
        "a denial that is not there": changed(f"{acme}_d0_icmp", element(f"{acme}_d0_icmp", device), None),
        "a nested group without a member": changed(f"{acme}_n0", element(f"{acme}_n0", site_8), None),
        "a site that talks to itself": changed(f"{acme}_same", same, None),
        "a forbidden service that is not": without("decide", "@forbidden_port"),
        "a way from servers that is closed": without("decide", "@receivers"),
        "servers that anybody can claim to be": altered("decide", 'iifname "lan0" ', ""),
        "a tenant that is asked nothing": changed("senders", element("senders", 0x0A280000), None),
    }


def test_probes_notice_what_is_wrong_in_the_kernel() -> None:
    """The proof can fail: with one thing of the table left out or widened, some probe disagrees."""
    rule_set = proof_rule_set()
    probes = proof_probes(rule_set)
    expected = expectations(rule_set, probes)
    mutants = _mutants(nft_table(rule_set, sides=SIDES))
    unnoticed = []
    for what, mutant in mutants.items():
        nft_readback.put(mutant)
        if disagreements(probes, expected) == []:
            unnoticed.append(what)
    assert len(mutants) >= 10
    assert unnoticed == []


def _allowed() -> list[Probe]:
    probes = proof_probes(proof_rule_set())
    return [probe for probe, passes in zip(probes, expectations(proof_rule_set(), probes), strict=True) if passes]


def test_a_failure_at_any_step_leaves_the_version_that_was_there() -> None:
    rendered = nft_table(proof_rule_set(), sides=SIDES)
    allowed = _allowed()
    version = nft_readback.put(rendered)
    broken = replace(rendered, chains={**rendered.chains, "decide": ("ip saddr vmap @nowhere",)})
    with pytest.raises(ProgramFailedError):
        nft_readback.nft(build(broken, version + 1))
    assert nft_readback.present() == [version]
    nothing = replace(rendered, chains={**rendered.chains, "decide": ("drop",)})
    nft_readback.nft(build(nothing, version + 1))
    with pytest.raises(ProgramFailedError):
        nft_readback.nft(flip(version + 1, [version, version + 2]))
    assert disagreements(allowed, [True] * len(allowed)) == []
    # Killed between flip and removal: both are there, and the new one alone is asked. The next one tidies up.
    nft_readback.nft(flip(version + 1, [version]))
    assert rules_wires.arrivals(allowed) == {"rk-sites": set(), "rk-servers": set()}
    assert nft_readback.put(rendered) == version + 2
    assert nft_readback.present() == [version + 2]
    assert disagreements(allowed, [True] * len(allowed)) == []


def test_without_rules_the_guard_lets_nothing_begin() -> None:
    version = nft_readback.put(nft_table(proof_rule_set(), sides=SIDES))
    nft_readback.nft(removal([version]))
    assert rules_wires.arrivals(_allowed()) == {"rk-sites": set(), "rk-servers": set()}


def test_fates_hold_while_versions_take_over_from_each_other() -> None:
    """No packet meets a mixture, or a moment without rules: none that may pass is lost, none that may not gets by."""
    rule_set = proof_rule_set()
    table = nft_table(rule_set, sides=SIDES)
    nft_readback.put(table)
    probes = proof_probes(rule_set) + _allowed() * 5
    expected = expectations(rule_set, probes)
    done = threading.Event()
    replaced: list[int] = []

    def replace_it() -> None:
        while not done.is_set():
            replaced.append(nft_readback.put(table))

    replacing = threading.Thread(target=replace_it)
    replacing.start()
    try:
        while len(replaced) < REPLACEMENTS:
            assert replacing.is_alive()
            assert disagreements(probes, expected) == []
    finally:
        done.set()
        replacing.join()
