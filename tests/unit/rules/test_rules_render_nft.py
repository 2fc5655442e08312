from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

from rules.compile import RuleSet, compile_policy
from rules.intervals import WORD_BITS, rectangles
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse
from rules.render import Sides
from rules.render_nft import NftTable, flip, guard_script, nft_table, removal, render_nft, versions

Decide = Callable[[str], RuleSet]
SIDES = Sides("ipsec0", "lan0")
ACME = "t0a0a0000"
OSAKA = 0x0A0A0200
WEB = 0x0AC8000A


def _table(rule_set: RuleSet) -> NftTable:
    return nft_table(rule_set, sides=SIDES)


def test_an_empty_policy_leads_nowhere(decide: Decide) -> None:
    table = _table(decide(""))
    assert table.sets["senders"].elements == {}
    assert table.sets["receivers"].elements == {}
    assert set(table.chains) == {"granted", "decide"}


def test_a_range_of_ports_is_one_element_and_services_that_overlap_are_cut(decide: Decide) -> None:
    table = _table(
        decide("allow: [{from: tokyo-1, to: web, services: tcp/1-60000}, {from: osaka-1, to: web, services: https}]")
    )
    found = {key[2]: bits for key, bits in table.sets[f"{ACME}_g0_port"].elements.items()}
    both = found.pop((443, 443))
    assert set(found) == {(1, 442), (444, 60000)}
    assert len(set(found.values())) == 1
    assert set(found.values()) < {1, 2}
    assert both == 3


def test_a_site_is_cut_at_devices_that_the_rules_name(decide: Decide) -> None:
    both = "{from: osaka-1, to: web, services: ssh}, {from: web, to: osaka-1/plc, services: ssh}"
    table = _table(decide(f"allow: [{both}]"))
    assert list(table.sets[f"{ACME}_sites"].elements) == [
        ((OSAKA, OSAKA + 19),),
        ((OSAKA + 20, OSAKA + 20),),
        ((OSAKA + 21, OSAKA + 255),),
    ]
    assert table.sets[f"{ACME}_same"].elements.keys() >= {((OSAKA, OSAKA + 255),) * 2}
    whole = _table(decide("allow: [{from: osaka-1, to: web, services: ssh}]"))
    assert list(whole.sets[f"{ACME}_sites"].elements) == [((OSAKA, OSAKA + 255),)]


def test_sources_that_may_do_the_same_share_a_profile(decide: Decide) -> None:
    same = _table(decide("allow: [{from: [tokyo-1, osaka-1], to: web, services: ssh}]"))
    assert [name for name in same.chains if "_p" in name] == [f"{ACME}_p0"]
    apart = _table(decide("allow: [{from: tokyo-1, to: web, services: ssh}, {from: osaka-1, to: web, services: http}]"))
    assert [name for name in apart.chains if "_p" in name] == [f"{ACME}_p0", f"{ACME}_p1"]


def test_denials_come_before_grants_and_nested_groups_before_both(decide: Decide) -> None:
    table = _table(
        decide(
            "groups: {all: [tokyo-1, osaka-1, db], in: {members: [osaka-1], inside: all}}\n"
            "allow: [{from: all, to: all, services: [ssh, ping]}]\n"
            "deny: [{from: tokyo-1, to: osaka-1, services: ssh}]"
        )
    )
    (tokyo,) = (rules for name, rules in table.chains.items() if "_p" in name and any("_d0_" in one for one in rules))
    asked = [rule.split(" map @")[1].split()[0].removeprefix(f"{ACME}_") for rule in tokyo]
    assert asked == ["n0", "d0_port", "g0_icmp", "g0_port"]


def test_a_shared_server_in_a_nested_group_stays_open_and_a_site_does_not(decide: Decide) -> None:
    table = _table(
        decide(
            "groups: {all: [tokyo-1, osaka-1, web], in: {members: [osaka-1, web], inside: all}}\n"
            "allow: [{from: all, to: all, services: ssh}]"
        )
    )
    assert list(table.sets[f"{ACME}_n0"].elements) == [((OSAKA, OSAKA + 255),)]
    assert ((WEB, WEB), (6, 6), (22, 22)) in table.sets[f"{ACME}_g0_port"].elements


def test_more_blocks_than_a_word_has_bits_take_another_word() -> None:
    sites = tuple(Site(f"s{n}", "acme", ip_network((0x0A0A0000 + n * 256, 24))) for n in range(WORD_BITS + 8))
    inventory = Inventory({"acme": ip_network("10.10.0.0/16")}, sites, (), ())
    lines = [f"  - {{from: s{n}, to: s0, services: tcp/{n}}}" for n in range(1, WORD_BITS + 8)]
    text = "\n".join(["tenant: acme", "allow:", *lines])
    table = _table(compile_policy(parse([PolicySource("acme", "acme.yaml", text)], inventory), inventory))
    words = [table.sets[f"{ACME}_g{word}_port"].elements for word in (0, 1)]
    assert [len(elements) for elements in words] == [WORD_BITS, 7]
    assert all(0 < bits < 1 << WORD_BITS for elements in words for bits in elements.values() if isinstance(bits, int))
    assert all(len(rules) == 1 for name, rules in table.chains.items() if "_p" in name)


def test_icmp_selectors_become_rectangles_of_types_and_codes() -> None:
    assert list(rectangles(8 * 256, 8 * 256)) == [((8, 8), (0, 0))]
    assert list(rectangles(0, 65535)) == [((0, 255), (0, 255))]
    assert list(rectangles(8 * 256 + 1, 11 * 256 + 3)) == [((8, 8), (1, 255)), ((11, 11), (0, 3)), ((9, 10), (0, 255))]
    for low, high in ((5, 700), (255, 256), (256, 511), (300, 1024)):
        cells = [
            kind * 256 + code
            for (first, last), (lowest, highest) in rectangles(low, high)
            for kind in range(first, last + 1)
            for code in range(lowest, highest + 1)
        ]
        assert sorted(cells) == list(range(low, high + 1))


def test_kernel_esp_is_asked_for_what_was_encrypted(decide: Decide) -> None:
    plain, ipsec = (
        nft_table(decide(""), sides=sides).chains["decide"] for sides in (SIDES, Sides("xfrm0", "lan0", ipsec=True))
    )
    assert not any("secpath" in rule for rule in plain)
    assert [rule for rule in ipsec if 'iifname "xfrm0"' in rule] == [
        rule for rule in ipsec if 'iifname "xfrm0" meta secpath exists ' in rule
    ]


def test_a_flip_is_all_rules_and_names_whatever_was_in_force(decide: Decide) -> None:
    rendered = render_nft(
        decide("allow: [{from: tokyo-1, to: web, services: ssh}]"), version=7, present=[5], sides=SIDES
    )
    assert rendered.build.startswith(guard_script())
    assert "\ntable inet kyoten-7\ndelete table inet kyoten-7\ntable inet kyoten-7 {\n" in rendered.build
    # Before the flip no packet is asked anything.
    assert "jump decide" not in rendered.build
    assert rendered.flip == flip(7, [5])
    assert rendered.flip.splitlines() == [
        "flush chain inet kyoten-5 forward",
        "flush chain inet kyoten-7 forward",
        "add rule inet kyoten-7 forward ct state != new accept",
        "add rule inet kyoten-7 forward jump decide",
        "add rule inet kyoten-7 forward drop",
    ]
    assert removal([5]) == "delete table inet kyoten-5\n"


def test_versions_are_read_from_the_tables_that_there_are() -> None:
    listed = "table ip filter\ntable inet kyoten-guard\ntable inet kyoten-12\ntable inet kyoten-3\ntable ip6 kyoten-4\n"
    assert versions(listed) == [3, 12]


def test_ipv6_is_left_out_and_said(inventory: Inventory) -> None:
    six = Server("six", None, ip_address("fd00::6"))
    wider = replace(inventory, servers=(*inventory.servers, six))
    text = "tenant: acme\nallow: [{from: tokyo-1, to: [web, six], services: ssh}]"
    policy = parse([PolicySource("acme", "acme.yaml", text)], wider)
    table = _table(compile_policy(policy, wider))
    assert [problem.params["name"] for problem in table.problems] == ["six"]
    assert table.sets == _table(compile_policy(policy, inventory)).sets
