from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from cloudside.datapath.accounting import TOUCH_S, FlowEvent, StatementCounters, parse_event
from cloudside.registry.counted import StatementUse
from rules.compile import RuleSet, compile_policy
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse

NOW = datetime(2026, 11, 21, 23, 59, tzinfo=UTC)
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")), Site("osaka", "acme", ip_network("10.10.2.0/24"))),
    devices=(),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)
POLICY = """
tenant: acme
allow:
  - {name: web, from: [tokyo, osaka], to: web, services: [tcp/80, ping]}
  - {name: wide, from: tokyo, to: web, services: [tcp/1-100]}
"""
CLOSED = "tenant: acme\n"

NEW = (
    "    [NEW] ipv4     2 tcp      6 120 SYN_SENT src=10.10.1.5 dst=10.255.0.10 sport=57756 dport=80 [UNREPLIED] "
    "src=10.255.0.10 dst=10.10.1.5 sport=80 dport=57756 id=2660091765"
)
DESTROY = (
    "[DESTROY] ipv4     2 tcp      6 119 TIME_WAIT src=10.10.1.5 dst=10.255.0.10 sport=57756 dport=80 packets=6 "
    "bytes=400 src=10.255.0.10 dst=10.10.1.5 sport=80 dport=57756 packets=4 bytes=9000 [ASSURED] id=2660091765 "
    "[USERSPACE] portid=3578605898 progname=conntrack"
)
ICMP = (
    "    [NEW] ipv4     2 icmp     1 30 src=10.10.2.1 dst=10.255.0.10 type=8 code=0 id=14 [UNREPLIED] "
    "src=10.255.0.10 dst=10.10.2.1 type=0 code=0 id=14 id=2444194169"
)
LISTED = (
    "ipv4     2 udp      17 29 src=10.10.1.5 dst=10.255.0.10 sport=4 dport=53 packets=1 bytes=60 [UNREPLIED] "
    "src=10.255.0.10 dst=10.10.1.5 sport=53 dport=4 packets=0 bytes=0 mark=0 use=1 id=7"
)


def _rule_set(text: str = POLICY) -> RuleSet:
    return compile_policy(parse([PolicySource("acme", "p.yaml", text)], INVENTORY), INVENTORY)


def _counters(text: str = POLICY, *, flows_max: int = 100) -> StatementCounters:
    found = StatementCounters(flows_max=flows_max)
    found.use(_rule_set(text))
    return found


def _flow(kind: str, identifier: int, source: str = "10.10.2.5", port: int = 80, amount: int = 0) -> FlowEvent:
    return FlowEvent(kind, str(identifier), source, "10.255.0.10", 6, port, amount, amount * 100)


def _taken(counters: StatementCounters, now: datetime = NOW) -> dict[str, tuple[int, int, int]]:
    return {one.statement: (one.flows, one.packets, one.bytes) for one in counters.take(now)}


def test_events_are_read() -> None:
    assert parse_event(NEW) == FlowEvent("NEW", "2660091765", "10.10.1.5", "10.255.0.10", 6, 80, 0, 0)
    assert parse_event(DESTROY) == FlowEvent("DESTROY", "2660091765", "10.10.1.5", "10.255.0.10", 6, 80, 10, 9400, 9000)
    assert parse_event(ICMP) == FlowEvent("NEW", "2444194169", "10.10.2.1", "10.255.0.10", 1, 2048, 0, 0)
    assert parse_event(LISTED) == FlowEvent("", "7", "10.10.1.5", "10.255.0.10", 17, 53, 0, 0)


@pytest.mark.parametrize(
    "line",
    ["", "conntrack v1.4.7 (conntrack-tools): 4 flow events have been shown.", NEW.replace("ipv4     2", "ipv6 10")],
)
def test_other_lines_are_passed_over(line: str) -> None:
    assert parse_event(line) is None


def test_generic_protocol_without_ports() -> None:
    line = "    [NEW] ipv4     2 gre      47 29 src=10.10.1.5 dst=10.255.0.10 srckey=0x0 dstkey=0x0 [UNREPLIED] id=9"
    event = parse_event(line)
    assert event is not None and (event.protocol, event.selector, event.identifier) == (47, 0, "9")


def test_each_statement_that_covers_a_flow_counts_it() -> None:
    counters = _counters()
    for line in (NEW, DESTROY, ICMP):
        event = parse_event(line)
        assert event is not None
        counters.count(event, NOW)
    assert _taken(counters) == {"acme/web": (2, 10, 9400), "acme/wide": (1, 10, 9400)}
    assert counters.take(NOW) == ()


def test_flows_of_nobody_and_flows_that_are_not_allowed_count_nothing() -> None:
    counters = _counters()
    counters.count(_flow("NEW", 1, source="192.0.2.1"), NOW)
    counters.count(_flow("NEW", 2, port=443), NOW)
    counters.count(_flow("DESTROY", 2, port=443, amount=5), NOW)
    assert counters.take(NOW) == ()
    assert counters.remembered == 0


def test_days_are_apart_and_the_end_belongs_to_the_statement_that_let_it_in() -> None:
    counters = _counters()
    counters.count(_flow("NEW", 1), NOW)
    counters.use(_rule_set(CLOSED))
    counters.use(_rule_set("tenant: acme\nallow: [{name: other, from: osaka, to: web, services: tcp/80}]"))
    counters.count(_flow("DESTROY", 1, amount=3), NOW + timedelta(minutes=2))
    found = sorted((one.statement, one.day.day, one.flows, one.packets) for one in counters.take(NOW))
    assert found == [("acme/web", 21, 1, 0), ("acme/web", 22, 0, 3)]


def test_flow_told_of_after_a_change_is_judged_by_the_rules_that_let_it_in() -> None:
    counters = _counters()
    counters.use(_rule_set(CLOSED))
    counters.count(_flow("NEW", 1), NOW)
    assert _taken(counters) == {"acme/web": (1, 0, 0)}
    counters.use(_rule_set("tenant: acme\nallow: []"))  # the same content: nothing changes
    counters.count(_flow("NEW", 2), NOW)
    assert _taken(counters) == {"acme/web": (1, 0, 0)}


def test_memory_is_bounded_and_the_end_of_a_forgotten_flow_still_counts() -> None:
    counters = _counters(flows_max=10)
    for number in range(100):
        counters.count(_flow("NEW", number), NOW)
    assert counters.remembered == 10
    for number in range(100):
        counters.count(_flow("DESTROY", number, amount=1), NOW)
    assert _taken(counters) == {"acme/web": (100, 100, 10_000)}
    assert counters.remembered == 0


def test_flows_of_the_process_before_count_their_bytes_and_no_flow() -> None:
    counters = _counters()
    counters.hold_against([_flow("", 1), _flow("", 2)], NOW, count=False)
    assert all(one.flows == 0 for one in counters.take(NOW))
    counters.count(_flow("DESTROY", 1, amount=4), NOW)
    assert _taken(counters) == {"acme/web": (0, 4, 400)}


def test_what_began_while_the_listener_was_away_is_counted_once() -> None:
    counters = _counters()
    counters.count(_flow("NEW", 1), NOW)
    counters.count(_flow("NEW", 2), NOW)
    # 1 ended, 3 began meanwhile; of 4 the event comes after the listing.
    counters.hold_against([_flow("", 2), _flow("", 3), _flow("", 4)], NOW, count=True)
    counters.count(_flow("NEW", 4), NOW)
    assert _taken(counters)["acme/web"][0] == 4
    assert counters.remembered == 3
    counters.count(_flow("DESTROY", 4), NOW)
    counters.count(_flow("NEW", 4), NOW)  # the number is given again
    assert _taken(counters)["acme/web"][0] == 1


def test_statement_whose_flow_stays_open_is_in_use() -> None:
    counters = _counters()
    counters.count(_flow("NEW", 1), NOW)
    counters.take(NOW)
    assert counters.take(NOW + timedelta(seconds=TOUCH_S - 1)) == ()
    later = NOW + timedelta(seconds=TOUCH_S)
    (use,) = counters.take(later)
    assert (use.statement, use.flows, use.last_used, use.day.day) == ("acme/web", 0, later, 22)


def test_what_could_not_be_told_comes_again() -> None:
    counters = _counters()
    counters.count(_flow("NEW", 1), NOW)
    taken = counters.take(NOW)
    counters.count(_flow("DESTROY", 1, amount=2), NOW + timedelta(seconds=5))
    counters.give_back(taken)
    expected = StatementUse("acme/web", NOW.date(), 1, 2, 200, NOW + timedelta(seconds=5))
    assert counters.take(NOW) == (expected,)
    assert expected.tenant == "acme"
