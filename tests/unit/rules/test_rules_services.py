import pytest

from rules.model import Protocol, Service
from rules.services import ANY, merged, numeric, shown, subtracted

TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("tcp/80", Service(TCP, 80, 80)),
        ("udp/1628-1629", Service(UDP, 1628, 1629)),
        ("tcp", Service(TCP)),
        ("icmp/8/0", Service(ICMP, 2048, 2048)),
        ("icmp/3", Service(ICMP, 768, 1023)),
        ("icmpv6", Service(Protocol.ICMPV6)),
    ],
)
def test_numbers_are_read_and_shown_alike(text: str, service: Service) -> None:
    assert numeric(text) == service
    assert shown(service) == text


def test_icmp_names() -> None:
    assert numeric("icmp/echo-request") == Service(ICMP, 2048, 2048)
    assert numeric("icmpv6/echo-request") == Service(Protocol.ICMPV6, 128 * 256, 128 * 256)


@pytest.mark.parametrize("text", ["tcp/0", "tcp/65536", "tcp/9-8", "icmp/256", "icmp/1/256"])
def test_numbers_that_do_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        numeric(text)


@pytest.mark.parametrize("text", ["", "tcp/", "TCP/80", "tcp/٨", "sctp/80", "tcp/80,81", "icmp/echo-reply", "tcp/80\n"])
def test_what_is_no_number(text: str) -> None:
    assert numeric(text) is None


def test_sets_merge_and_subtract() -> None:
    assert merged([Service(TCP, 5, 9), Service(TCP, 1, 4), Service(TCP, 11, 12)]) == (
        *(Service(TCP, 1, 9), Service(TCP, 11, 12)),
    )
    assert merged([Service(TCP, 1, 2), ANY]) == (ANY,)
    assert subtracted([Service(TCP, 1, 9)], [Service(TCP, 3, 4), Service(UDP, 5, 6)]) == (
        *(Service(TCP, 1, 2), Service(TCP, 5, 9)),
    )
    assert subtracted([Service(TCP, 1, 9)], [ANY]) == ()
    rest = subtracted([ANY], [Service(TCP)])
    assert {one.protocol for one in rest} == {Protocol.OTHER, ICMP, UDP, Protocol.ICMPV6}
    assert merged([*rest, Service(TCP)]) == (ANY,)
