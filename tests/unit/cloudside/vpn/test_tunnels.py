from dataclasses import replace
from ipaddress import ip_network

import pytest

from cloudside.vpn.tunnels import Rules, Table, after_events, after_listing, judge, unannounced
from linux.charon import ChildSa, IkeSa, SaEvent

PREFIXES = {"tokyo": ip_network("10.10.1.0/24"), "osaka": ip_network("10.10.2.0/24")}


def _sa(number: int = 1, site: str = "tokyo", *carried: str, state: str = "ESTABLISHED") -> IkeSa:
    children = (
        ChildSa("site", "INSTALLED", (ip_network("10.0.0.0/8"),), tuple(map(ip_network, carried)), 0, 0, "AES"),
    )
    return IkeSa(
        number, "sites", state, "203.0.113.2", "198.51.100.7", 4500, site, 12, "IKE", children if carried else ()
    )


def _up(*sas: IkeSa) -> Table:
    return after_listing(Table(), sas)


def test_tunnel_is_live_from_its_child_event_on() -> None:
    connecting = _sa(1, "tokyo", "10.10.1.0/24", state="ESTABLISHED")
    installing = replace(connecting, children=(replace(connecting.children[0], state="INSTALLING"),))
    table = after_events(Table(), [SaEvent("child", True, installing)])
    table = after_events(table, [SaEvent("ike", True, _sa(1))])
    live = judge(table, PREFIXES).live["tokyo"]
    assert (live.prefixes, live.peer, live.suite) == ((ip_network("10.10.1.0/24"),), "198.51.100.7", "IKE AES")


def test_child_that_came_before_its_ike_sa_was_established_counts_when_it_is() -> None:
    early = _sa(1, "tokyo", "10.10.1.0/24", state="CONNECTING")
    table = after_events(Table(), [SaEvent("child", True, early)])
    assert judge(table, PREFIXES).live == {}
    table = after_events(table, [SaEvent("ike", True, _sa(1))])
    assert judge(table, PREFIXES).live.keys() == {"tokyo"}


def test_tunnel_is_gone_with_its_child_or_its_ike_sa() -> None:
    sa = _sa(1, "tokyo", "10.10.1.0/24")
    assert judge(after_events(_up(sa), [SaEvent("child", False, sa)]), PREFIXES).live == {}
    assert after_events(_up(sa), [SaEvent("ike", False, sa)]).sas == {}


def test_one_listing_without_an_sa_that_is_in_work_does_not_drop_it_two_do() -> None:
    sa = _sa(1, "tokyo", "10.10.1.0/24")
    once = after_listing(_up(sa), [])
    assert judge(once, PREFIXES).live.keys() == {"tokyo"}
    assert judge(after_listing(once, [sa]), PREFIXES).live.keys() == {"tokyo"}
    assert after_listing(after_listing(once, [sa]), []).sas.keys() == {1}
    assert after_listing(once, []).sas == {}


def test_sign_of_life_between_two_listings_keeps_the_sa() -> None:
    sa = _sa(1, "tokyo", "10.10.1.0/24")
    once = after_events(after_listing(_up(sa), []), [SaEvent("child", True, sa)])
    assert after_listing(once, []).sas.keys() == {1}


@pytest.mark.parametrize("site", ["nobody", "", "nagoya"])
def test_site_that_is_not_in_the_registry_is_expelled(site: str) -> None:
    judgement = judge(_up(_sa(7, site, "10.10.1.0/24"), _sa(8, "tokyo", "10.10.1.0/24")), PREFIXES)
    assert judgement.expelled == (7,)
    assert judgement.live.keys() == {"tokyo"}
    assert [found.key for found in judgement.problems] == ["vpn.site-not-admitted"]


def test_unknown_site_is_expelled_before_it_has_a_child() -> None:
    assert judge(_up(_sa(7, "nobody")), PREFIXES).expelled == (7,)


@pytest.mark.parametrize("carried", ["10.10.2.0/24", "10.10.0.0/16", "10.10.1.0/23", "0.0.0.0/0", "2001:db8::/64"])
def test_tunnel_that_carries_more_than_its_prefix_is_expelled(carried: str) -> None:
    table = _up(_sa(7, "tokyo", str(ip_network(carried, strict=False))))
    judgement = judge(table, PREFIXES)
    assert judgement.expelled == (7,)
    assert judgement.live == {}
    assert [found.key for found in judgement.problems] == ["vpn.foreign-prefix"]


def test_part_of_the_prefix_is_fine_and_routed_as_it_is() -> None:
    judgement = judge(_up(_sa(7, "tokyo", "10.10.1.128/25")), PREFIXES)
    assert judgement.expelled == ()
    assert judgement.live["tokyo"].prefixes == (ip_network("10.10.1.128/25"),)


def test_half_open_and_dying_sas_are_not_judged() -> None:
    table = _up(_sa(1, "nobody", state="CONNECTING"), _sa(2, "tokyo", "10.10.1.0/24", state="DELETING"))
    judgement = judge(table, PREFIXES)
    assert (judgement.expelled, judgement.live) == ((), {})


def test_two_sas_of_a_site_during_a_takeover_are_one_tunnel() -> None:
    judgement = judge(_up(_sa(1, "tokyo", "10.10.1.0/24"), _sa(2, "tokyo", "10.10.1.0/24")), PREFIXES)
    assert judgement.live["tokyo"].prefixes == (ip_network("10.10.1.0/24"),)
    assert judgement.expelled == ()


def _old(number: int, site: str) -> IkeSa:
    return replace(_sa(number, site, str(PREFIXES[site])), connection="old-routers", ike_version=1)


def test_class_for_old_routers_is_for_those_who_are_named() -> None:
    table = _up(_old(7, "tokyo"), _old(8, "osaka"))
    judgement = judge(table, PREFIXES, None, Rules(old_sites=frozenset({"osaka"})))
    assert judgement.expelled == (7,)
    assert judgement.live.keys() == {"osaka"}
    assert judgement.live["osaka"].ike_version == 1
    assert [found.key for found in judgement.problems] == ["vpn.old-class-not-permitted"]
    assert judge(table, PREFIXES).expelled == (7, 8)


def _with_children(count: int) -> IkeSa:
    child = _sa(1, "tokyo", "10.10.1.0/24").children[0]
    return replace(_sa(7, "tokyo"), children=tuple(replace(child, unique_id=number) for number in range(count)))


def test_router_that_makes_tunnels_without_end_is_expelled() -> None:
    assert judge(_up(_with_children(16)), PREFIXES).expelled == ()
    judgement = judge(_up(_with_children(17)), PREFIXES)
    assert (judgement.expelled, judgement.live) == ((7,), {})
    assert [found.key for found in judgement.problems] == ["vpn.too-many-child-sas"]


def test_children_are_counted_by_events_too_and_one_that_goes_leaves_the_others() -> None:
    sa = _with_children(3)
    table = Table()
    for child in sa.children:
        table = after_events(table, [SaEvent("child", True, replace(sa, children=(child,)))])
    assert len(table.sas[7].children) == 3
    table = after_events(table, [SaEvent("child", False, replace(sa, children=sa.children[:1]))])
    assert [child.unique_id for child in table.sas[7].children] == [1, 2]


def test_sa_that_only_a_listing_tells_of_was_not_announced() -> None:
    known, older, half = _sa(1), replace(_sa(2), established_s=29), _sa(3, state="CONNECTING")
    assert unannounced(_up(known), [known, older, half, _sa(4)], younger_than_s=30) == (4,)


def test_what_was_accepted_and_has_not_changed_is_not_looked_at_again() -> None:
    tokyo, osaka = _sa(1, "tokyo", "10.10.1.0/24"), _sa(2, "osaka", "10.10.2.0/24")
    table = Table({1: tokyo, 2: osaka})
    first = judge(table, PREFIXES)
    again = judge(table, PREFIXES, before=first.accepted)
    assert again == first
    assert all(again.live[site] is one for site, one in first.live.items())


def test_an_accepted_tunnel_is_judged_anew_when_anything_about_it_changed() -> None:
    tokyo = _sa(1, "tokyo", "10.10.1.0/24")
    table = Table({1: tokyo})
    before = judge(table, PREFIXES).accepted
    elsewhere = {**PREFIXES, "tokyo": ip_network("10.10.7.0/24")}
    assert judge(table, elsewhere, before=before).expelled == (1,)
    assert judge(table, {}, before=before).expelled == (1,)
    assert judge(table, PREFIXES, {"tokyo": 0.5}, before=before).expelled == (1,)
    grown = replace(tokyo, children=(*tokyo.children, *_sa(1, "tokyo", "10.99.0.0/24").children))
    assert judge(Table({1: grown}), PREFIXES, before=before).expelled == (1,)


def test_two_tunnels_of_a_site_carry_what_both_do() -> None:
    older, newer = _sa(1, "tokyo", "10.10.1.0/25"), _sa(2, "tokyo", "10.10.1.128/25")
    first = judge(Table({1: older}), PREFIXES)
    both = judge(Table({1: older, 2: newer}), PREFIXES, before=first.accepted)
    assert set(map(str, both.live["tokyo"].prefixes)) == {"10.10.1.0/25", "10.10.1.128/25"}
    assert judge(Table({2: newer}), PREFIXES, before=both.accepted).live["tokyo"].prefixes == (
        ip_network("10.10.1.128/25"),
    )
