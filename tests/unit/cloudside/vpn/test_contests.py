from cloudside.vpn.contests import Comings, Contested, problem_of
from linux.charon import IkeSa, SaEvent


def _up(host: str, port: int = 4500, *, kind: str = "ike", up: bool = True) -> SaEvent:
    sa = IkeSa(1, "sites", "ESTABLISHED", "203.0.113.2", host, port, "tokyo", 0, "", ())
    return SaEvent("ike" if kind == "ike" else "child", up, sa)


def _played(*peers: tuple[str, int], every_s: float = 1.0) -> list[Contested]:
    comings = Comings(returns=3, window_s=60)
    noted = (comings.note(_up(*peer), now_s=at * every_s) for at, peer in enumerate(peers))
    return [found for found in noted if found is not None]


A, B, C = ("198.51.100.1", 4500), ("198.51.100.2", 4500), ("198.51.100.3", 4500)


def test_two_peers_that_take_the_tunnel_from_each_other_are_told_of_with_both_names() -> None:
    assert _played(A, B, A, B) == []
    found = _played(A, B, A, B, A)
    assert [(one.site, {one.first, one.second}) for one in found] == [("tokyo", {A[0], B[0]})]
    problem = problem_of(found[0], window_s=300)
    assert dict(problem.params) == {"site": "tokyo", "first": A[0], "second": B[0], "minutes": 5}


def test_slow_changes_and_ever_new_addresses_are_none() -> None:
    assert _played(A, B, A, B, A, B, every_s=30) == []
    assert _played(A, B, C, *(("192.0.2.1", port) for port in range(10))) == []


def test_one_router_that_reconnects_is_no_contest() -> None:
    assert _played(A, A, A, A, A, A, A) == []


def test_two_routers_behind_one_address_are_told_apart_by_their_ports() -> None:
    first, second = ("198.51.100.1", 1001), ("198.51.100.1", 1002)
    assert _played(first, second, first, second, first)


def test_two_behind_carriers_that_give_new_ports_are_seen_by_their_addresses() -> None:
    assert _played(*((host, 1000 + at) for at, host in enumerate(["a", "b", "a", "b", "a"])))


def test_only_new_ike_sas_count() -> None:
    comings = Comings(returns=2, window_s=60)
    for at, host in enumerate(["a", "b"] * 5):
        assert comings.note(_up(host, kind="child"), now_s=at) is None
        assert comings.note(_up(host, up=False), now_s=at) is None


def test_sites_that_are_quiet_are_forgotten() -> None:
    comings = Comings(returns=3, window_s=60)
    comings.note(_up("a"), now_s=0)
    comings.forget_old(now_s=61)
    assert comings._seen == {}
