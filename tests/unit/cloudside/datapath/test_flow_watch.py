"""The watch without a kernel: what it makes of the set, of what conntrack says, and of failures."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

from cloudside.datapath.flow_watch import LIST, LISTENS, REMEMBER_S, FlowWatch
from linux.errors import ProgramFailedError
from linux.runner import Finished
from rules.compile import compile_policy
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")),),
    devices=(),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)
RULE_SET = compile_policy(
    parse(
        [PolicySource("acme", "p", "tenant: acme\nallow: [{name: web, from: tokyo, to: web, services: ping}]")],
        INVENTORY,
    ),
    INVENTORY,
)
FLOW = "ipv4 2 icmp 1 9 src=10.10.1.1 dst=10.255.0.10 type=8 code=0 id=4 src=10.255.0.10 dst=10.10.1.1 id=4 id=%d\n"


class _Kernel:
    """Answers ipset and conntrack."""

    def __init__(self) -> None:
        self.left_s: dict[int, int] = {}
        self.flows: list[int] = []
        self.broken = False

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        if self.broken:
            raise ProgramFailedError(argv[0], 1, "made to fail")
        if tuple(argv) == LIST:
            return Finished(0, "".join(FLOW % number for number in self.flows), "")
        lines = [
            f"add kyoten-refused 10.10.1.1,tcp:{port},10.255.0.10 timeout {s}\n" for port, s in self.left_s.items()
        ]
        return Finished(0, "".join(lines), "")


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _watch(kernel: _Kernel, clock: _Clock | None = None) -> FlowWatch:
    watch = FlowWatch(kernel, clock=clock or _Clock())
    watch.use(RULE_SET)
    return watch


def _ports(watch: FlowWatch, at: datetime, *, told: bool = True) -> list[tuple[str, datetime]]:
    batch = watch.take(at)
    if told:
        watch.settle(batch)
    else:
        watch.give_back(batch)
    return [(one.service, one.last_seen) for one in batch.refused]


def _keys(watch: FlowWatch) -> list[str]:
    return [found.key for found in watch.problems()]


def test_only_what_moved_is_told_again() -> None:
    kernel = _Kernel()
    watch = _watch(kernel)
    kernel.left_s = {23: 590, 443: 600}
    assert _ports(watch, NOW) == [("tcp/23", NOW - timedelta(seconds=10)), ("tcp/443", NOW)]
    later = NOW + timedelta(seconds=10)
    kernel.left_s = {23: 580, 443: 598}
    assert _ports(watch, later) == [("tcp/443", later - timedelta(seconds=2))]
    kernel.left_s = {23: 579}  # a second's rounding
    assert _ports(watch, later) == []


def test_what_could_not_be_told_is_told_again() -> None:
    kernel = _Kernel()
    watch = _watch(kernel)
    kernel.left_s = {23: 600}
    assert len(_ports(watch, NOW, told=False)) == 1
    assert len(_ports(watch, NOW)) == 1
    assert _ports(watch, NOW) == []


def test_set_that_cannot_be_read_is_reported_and_forgets_nothing() -> None:
    kernel = _Kernel()
    watch = _watch(kernel)
    kernel.left_s = {23: 600}
    _ports(watch, NOW)
    kernel.broken = True
    assert _ports(watch, NOW) == []
    assert _keys(watch) == ["datapath.refused-unread"]
    kernel.broken = False
    assert _ports(watch, NOW) == []


def test_before_a_rule_set_is_known_nothing_is_judged() -> None:
    kernel = _Kernel()
    kernel.left_s = {23: 600}
    watch = FlowWatch(kernel, clock=_Clock())
    watch.use(None)
    assert _ports(watch, NOW) == []
    watch.use(RULE_SET)
    assert len(_ports(watch, NOW)) == 1


def test_events_the_kernel_threw_away_are_reported_for_a_while() -> None:
    clock = _Clock()
    watch = _watch(_Kernel(), clock)
    rest = watch._hear(b"WARNING: We have hit ENO")
    assert watch.problems() == ()
    assert watch._hear(rest + b"BUFS! We are losing events.\n") == b""
    assert _keys(watch) == ["datapath.counting-lost"]
    clock.now += REMEMBER_S + 1
    assert watch.problems() == ()


def test_listener_that_comes_back_makes_good_what_is_open_and_reports_the_gap() -> None:
    kernel, clock = _Kernel(), _Clock()
    watch = _watch(kernel, clock)
    kernel.flows = [1]
    watch._hear(b"NOTICE: Netlink socket " + LISTENS)
    assert (watch.take(NOW).uses[0].flows, watch.problems()) == (0, ())  # in use; the process before has counted it
    watch._deaf_since = clock.now
    clock.now += 7
    kernel.flows = [1, 2, 3]
    watch._hear(b"NOTICE: Netlink socket " + LISTENS)
    assert [use.flows for use in watch.take(NOW).uses] == [2]
    assert [(found.key, dict(found.params)) for found in watch.problems()] == [
        ("datapath.counting-interrupted", {"seconds": 7})
    ]


def test_time_without_a_process_is_reported() -> None:
    watch = _watch(_Kernel())
    watch.missed(NOW - timedelta(minutes=2), NOW)
    assert [dict(found.params) for found in watch.problems()] == [{"seconds": 120}]
