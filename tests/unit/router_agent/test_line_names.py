"""Gateways' names: never waited for, kept while they cannot be resolved; and the checksum of an echo."""

import threading
from collections.abc import Sequence
from ipaddress import ip_address

from lab.network import wait_until
from router_agent.bundle import Address
from router_agent.link.echo import checksum, targets_of
from router_agent.link.names import AGAIN_S, FAILED_AGAIN_S, WAIT_S, Names
from router_agent.problems import Problem

NAME = "gw.example"
FIRST, SECOND = ip_address("203.0.113.2"), ip_address("203.0.113.3")


class NameServer:
    """Answers what it is told to, or not before it is told to."""

    def __init__(self) -> None:
        self.answer: Sequence[Address] | OSError = [FIRST]
        self.open = threading.Event()
        self.open.set()
        self.asked = 0

    def resolve(self, _name: str) -> Sequence[Address]:
        self.asked += 1
        self.open.wait(10)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def known(names: Names, now: float, wanted: tuple[Address, ...]) -> None:
    wait_until("the addresses", lambda: names.addresses([NAME], now) == wanted, timeout_s=5, every_s=0.01)


def test_an_address_is_itself_and_asks_nobody() -> None:
    server = NameServer()
    names = Names(server.resolve)
    assert names.addresses(["203.0.113.3", "203.0.113.2", "203.0.113.3"], 0) == (SECOND, FIRST)
    assert server.asked == 0


def test_a_name_server_that_hangs_holds_nothing_up_and_is_told() -> None:
    server = NameServer()
    server.open.clear()
    names = Names(server.resolve)
    assert names.addresses([NAME, "203.0.113.3"], 0) == (SECOND,)
    assert names.problems([NAME]) == ()
    names.addresses([NAME], WAIT_S + 1)
    assert [problem.key for problem in names.problems([NAME])] == ["agent.dns-failed"]
    server.open.set()
    known(names, WAIT_S + 2, (FIRST,))
    assert names.problems([NAME]) == ()
    assert server.asked == 1, "asked again while the first question was open"


def test_what_was_found_once_is_kept_while_the_name_server_is_down() -> None:
    server = NameServer()
    names = Names(server.resolve)
    known(names, 0, (FIRST,))
    server.answer = OSError("no route")
    wait_until(
        "the failure",
        lambda: names.addresses([NAME], AGAIN_S) == (FIRST,) and bool(names.problems([NAME])),
        timeout_s=5,
        every_s=0.01,
    )
    assert names.problems([NAME]) == (Problem("agent.dns-failed", {"name": NAME, "reason": "no route"}),)
    server.answer = [SECOND]
    names.addresses([NAME], AGAIN_S + FAILED_AGAIN_S - 1)
    assert names.problems([NAME]), "asked again too soon"
    known(names, AGAIN_S + FAILED_AGAIN_S, (SECOND,))


def test_the_checksum_is_rfc_1071s() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # the example of section 3, complemented


def test_targets_are_each_once_the_gateways_first() -> None:
    found = targets_of((FIRST, FIRST), {SECOND: (8443,), FIRST: (443,)})
    assert [(target.address, target.ports) for target in found] == [(FIRST, (443,)), (SECOND, (8443,))]
