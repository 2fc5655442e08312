from dataclasses import replace
from ipaddress import ip_network

import pytest

from cloudside.vpn.tunnels import Table, after_event, after_listing, judge
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
    table = after_event(Table(), SaEvent("child", True, installing))
    table = after_event(table, SaEvent("ike", True, _sa(1)))
    live = judge(table, PREFIXES).live["tokyo"]
    assert (live.prefixes, live.peer, live.suite) == ((ip_network("10.10.1.0/24"),), "198.51.100.7", "IKE AES")


def test_child_that_came_before_its_ike_sa_was_established_counts_when_it_is() -> None:
    early = _sa(1, "tokyo", "10.10.1.0/24", state="CONNECTING")
    table = after_event(Table(), SaEvent("child", True, early))
    assert judge(table, PREFIXES).live == {}
    table = after_event(table, SaEvent("ike", True, _sa(1)))
    assert judge(table, PREFIXES).live.keys() == {"tokyo"}


def test_tunnel_is_gone_with_its_child_or_its_ike_sa() -> None:
    sa = _sa(1, "tokyo", "10.10.1.0/24")
    assert judge(after_event(_up(sa), SaEvent("child", False, sa)), PREFIXES).live == {}
    assert after_event(_up(sa), SaEvent("ike", False, sa)).sas == {}


def test_one_listing_without_an_sa_that_is_in_work_does_not_drop_it_two_do() -> None:
    sa = _sa(1, "tokyo", "10.10.1.0/24")
    once = after_listing(_up(sa), [])
    assert judge(once, PREFIXES).live.keys() == {"tokyo"}
    assert judge(after_listing(once, [sa]), PREFIXES).live.keys() == {"tokyo"}
    assert after_listing(after_listing(once, [sa]), []).sas.keys() == {1}
    assert after_listing(once, []).sas == {}


def test_sign_of_life_between_two_listings_keeps_the_sa() -> None:
    sa = _sa(1, "tokyo", "10.10.1.0/24")
    once = after_event(after_listing(_up(sa), []), SaEvent("child", True, sa))
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
