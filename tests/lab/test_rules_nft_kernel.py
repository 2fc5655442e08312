"""The nft script on the real kernel: the same probes, the same evaluator, the other renderer. Assumes the box."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import nft_readback
import pytest
import rules_probes
import rules_wires
from rules_wires import NETFILTER, SIDES, disagreements

from linux.errors import ProgramFailedError
from rules.evaluate import evaluate
from rules.render_nft import TABLE, NftTable, nft_table, render_nft, script


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
    rule_set = rules_probes.rule_set()
    probes = rules_probes.probes()
    nft_readback.put(render_nft(rule_set, sides=SIDES))
    assert len(probes) > 20_000
    assert sum(evaluate(rule_set, probe.packet).allowed for probe in probes) > 250
    assert disagreements(rule_set, probes) == []


def test_what_the_kernel_gives_back_is_what_was_rendered() -> None:
    rendered = nft_table(rules_probes.rule_set(), sides=SIDES)
    nft_readback.put(script(rendered))
    assert nft_readback.sets() == rendered.sets
    assert nft_readback.chains() == rendered.chains
    assert sum(len(one.elements) for one in rendered.sets.values()) > 100


def _mutants(table: NftTable) -> dict[str, NftTable]:
    """The table with one thing left out or made wider, by what it is."""

    def without(chain: str, ending: str) -> NftTable:
        rules = table.chains[chain]
        left = tuple(rule for rule in rules if ending not in rule)
        assert len(left) == len(rules) - 1
        return replace(table, chains={**table.chains, chain: left})

    def changed(name: str, old: tuple[tuple[int, int], ...], new: tuple[tuple[int, int], ...] | None) -> NftTable:
        elements = dict(table.sets[name].elements)
        value = elements.pop(old)
        if new is not None:
            elements[new] = value
        return replace(table, sets={**table.sets, name: replace(table.sets[name], elements=elements)})

    def element(name: str, *beginning: int) -> tuple[tuple[int, int], ...]:
        return next(key for key in table.sets[name].elements if all(b == r[0] for b, r in zip(beginning, key)))

    acme = "t0a0a0000"
    site_4, site_8, device, web = 0x0A0A0400, 0x0A0A0800, 0x0A0A0214, 0x0AC8000A
    source = element(f"{acme}_sites", site_4)
    port = element(f"{acme}_g0_port", web, 6, 443)
    same = element(f"{acme}_same", site_4)
    grown = element(f"{acme}_g0_port", web, 6, 8000)
    return {
        "a site that is no source": changed(f"{acme}_sites", source, None),
        "a site whose last address is no source": changed(f"{acme}_sites", source, ((source[0][0], source[0][1] - 1),)),
        "a source that is a site too wide": changed(f"{acme}_sites", source, ((source[0][0] - 1, source[0][1]),))
        if (source[0][0] - 1) not in {r[0][1] for r in table.sets[f"{acme}_sites"].elements}
        else changed(f"{acme}_sites", source, ((source[0][0] + 1, source[0][1]),)),
        "a grant that is not there": changed(f"{acme}_g0_port", port, None),
        "a range of ports that is one too long": changed(
            f"{acme}_g0_port", grown, (*grown[:2], (grown[2][0], grown[2][1] + 1))
        ),
        "a denial that is not there": changed(f"{acme}_d0_icmp", element(f"{acme}_d0_icmp", device), None),
        "a nested group without a member": changed(f"{acme}_n0", element(f"{acme}_n0", site_8), None),
        "a site that talks to itself": changed(f"{acme}_same", same, None),
        "a forbidden service that is not": without("decide", "@forbidden_port"),
        "a way from servers that is closed": without("decide", "@receivers"),
        "servers that anybody can claim to be": replace(
            table,
            chains={
                **table.chains,
                "decide": tuple(rule.replace('iifname "lan0" ', "") for rule in table.chains["decide"]),
            },
        ),
        "a tenant that is asked nothing": changed("senders", element("senders", 0x0A140000), None),
        "a default that accepts": replace(
            table,
            chains={
                **table.chains,
                "forward": tuple(rule.replace("policy drop", "policy accept") for rule in table.chains["forward"]),
            },
        ),
    }


def test_probes_notice_what_is_wrong_in_the_kernel() -> None:
    """The proof can fail: with one thing of the table left out or widened, some probe disagrees."""
    rule_set = rules_probes.rule_set()
    probes = rules_probes.probes()
    mutants = _mutants(nft_table(rule_set, sides=SIDES))
    unnoticed = []
    for what, mutant in mutants.items():
        nft_readback.put(script(mutant))
        if disagreements(rule_set, probes) == []:
            unnoticed.append(what)
    assert len(mutants) >= 10
    assert unnoticed == []


def test_a_script_that_fails_leaves_the_table_that_was_there() -> None:
    rendered = nft_table(rules_probes.rule_set(), sides=SIDES)
    nft_readback.put(script(rendered))
    broken = replace(rendered, chains={**rendered.chains, "decide": ("ip saddr vmap @nowhere",)})
    with pytest.raises(ProgramFailedError):
        nft_readback.put(script(broken))
    assert nft_readback.tables() == [TABLE]
    assert nft_readback.chains() == rendered.chains


def test_fates_hold_while_the_table_is_replaced_again_and_again() -> None:
    """No packet meets a mixture, or a moment without a table: none that may pass is lost, none that may not gets by."""
    rule_set = rules_probes.rule_set()
    text = render_nft(rule_set, sides=SIDES)
    nft_readback.put(text)
    done = threading.Event()
    replaced: list[int] = []

    def replace_it() -> None:
        while not done.is_set():
            nft_readback.put(text)
            replaced.append(1)

    replacing = threading.Thread(target=replace_it)
    replacing.start()
    try:
        probes = rules_probes.probes()
        allowed = [probe for probe in probes if evaluate(rule_set, probe.packet).allowed]
        assert disagreements(rule_set, probes + allowed * 20) == []
    finally:
        done.set()
        replacing.join()
    assert len(replaced) > 10
