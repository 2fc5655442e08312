"""Which tunnel stands with the certificate in use."""

from linux.charon import IkeSa
from router_agent.tunnel.takeover import Takeover


def sa(number: int) -> IkeSa:
    return IkeSa(number, "cloud", "ESTABLISHED", "198.51.100.11", "203.0.113.2", 4500, "vpn", 1, "", ())


def test_a_second_tunnel_takes_over_and_the_first_is_ended() -> None:
    takeover = Takeover()
    assert takeover.is_new(sa(3)), "nothing has changed yet"
    takeover.due([sa(3)], standing=True)
    takeover.begin()
    assert not takeover.is_new(sa(3))
    assert takeover.due([sa(3)], standing=True)
    takeover.initiated()
    assert not takeover.due([sa(3), sa(4)], standing=True), "once"
    assert not takeover.is_new(sa(3))
    assert takeover.is_new(sa(4))
    assert takeover.outlived([sa(3), sa(4)]) == (3,)


def test_without_a_tunnel_the_next_one_has_it() -> None:
    takeover = Takeover()
    takeover.begin()
    assert not takeover.due([], standing=False)
    assert not takeover.is_new(None)
    takeover.initiated()
    assert takeover.is_new(sa(1))


def test_one_that_was_connecting_at_that_moment_does_not_count() -> None:
    takeover = Takeover()
    takeover.begin()
    takeover.due([sa(5)], standing=False)
    assert not takeover.is_new(sa(5))
    assert takeover.due([sa(5)], standing=True), "it has come up with the certificate before"
    takeover.initiated()
    assert takeover.is_new(sa(6))


def test_given_back_the_first_counts_again_and_a_new_charon_numbers_anew() -> None:
    takeover = Takeover()
    takeover.due([sa(7)], standing=True)
    takeover.begin()
    takeover.initiated()
    takeover.give_up()
    assert takeover.is_new(sa(7))
    assert takeover.outlived([sa(7)]) == ()
    takeover.begin()
    takeover.charon_started()
    assert takeover.is_new(sa(1))
