"""Counting sets: cut, read, forgotten; with a packet filter in memory."""

import pytest
from fake_kernel import FakeKernel

from cloudside.datapath.skeleton import FROM_SITES_SET, TO_SITES_SET, sets_text
from cloudside.datapath.traffic import Carried, Traffic, parse_counts
from linux.errors import LinuxError
from linux.netfilter import Netfilter


@pytest.fixture
def kernel() -> FakeKernel:
    fresh = FakeKernel()
    fresh.run(["ipset", "restore"], stdin=sets_text())
    return fresh


def _count(kernel: FakeKernel, name: str, prefix: str, amount: int) -> None:
    kernel.sets[name][1][prefix] = f"packets 3 bytes {amount}"


def _admit(kernel: FakeKernel, traffic: Traffic, *prefixes: str) -> None:
    with traffic.lock:
        kernel.run(["ipset", "restore"], stdin=traffic.lines(prefixes))


def test_a_cut_takes_what_was_counted_and_counting_begins_anew(kernel: FakeKernel) -> None:
    traffic = Traffic(Netfilter(kernel))
    _admit(kernel, traffic, "10.10.1.0/24", "10.10.2.0/24")
    _count(kernel, FROM_SITES_SET, "10.10.1.0/24", 1000)
    _count(kernel, TO_SITES_SET, "10.10.1.0/24", 70)
    _count(kernel, TO_SITES_SET, "10.10.2.0/24", 5)
    traffic.cut(4, ["10.10.1.0/24", "10.10.2.0/24"])
    assert traffic.cuts() == (4,)
    assert traffic.read(4) == {"10.10.1.0/24": Carried(1000, 70), "10.10.2.0/24": Carried(0, 5)}
    assert set(kernel.sets[FROM_SITES_SET][1].values()) == {""}
    traffic.forget(4)
    assert traffic.cuts() == ()


def test_prefixes_that_are_no_sites_any_more_go_with_the_cut(kernel: FakeKernel) -> None:
    traffic = Traffic(Netfilter(kernel))
    _admit(kernel, traffic, "10.10.1.0/24")
    traffic.cut(1, ["10.10.1.0/24"])
    _count(kernel, FROM_SITES_SET, "10.10.1.0/24", 7)
    traffic.cut(2, ["10.10.9.0/24"])
    assert kernel.sets[FROM_SITES_SET][1].keys() == {"10.10.9.0/24"}
    assert traffic.read(2) == {"10.10.1.0/24": Carried(7, 0)}


def test_a_site_admitted_after_the_sites_were_read_and_before_the_cut_goes_on_counting(kernel: FakeKernel) -> None:
    traffic = Traffic(Netfilter(kernel))
    _admit(kernel, traffic, "10.10.1.0/24")
    traffic.cut(1, ["10.10.1.0/24"])
    sites = ["10.10.1.0/24"]
    _admit(kernel, traffic, "10.10.7.0/24")
    traffic.cut(2, sites)
    assert kernel.sets[FROM_SITES_SET][1].keys() == {"10.10.1.0/24", "10.10.7.0/24"}


def test_a_site_admitted_while_a_cut_is_made_counts_at_once(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(Netfilter(kernel))
    run, made = kernel.run, []

    def running(argv: list[str], *, stdin: str = "", **options: object) -> object:
        if stdin.startswith("create kyoten-from-sites.1") and not made:
            made.append(True)
            _admit(kernel, traffic, "10.10.7.0/24")
        return run(argv, stdin=stdin)

    monkeypatch.setattr(kernel, "run", running)
    traffic.cut(1, ["10.10.1.0/24"])
    assert made
    assert kernel.sets[TO_SITES_SET][1].keys() == {"10.10.1.0/24", "10.10.7.0/24"}


def test_a_cut_that_failed_loses_nothing(kernel: FakeKernel) -> None:
    traffic = Traffic(Netfilter(kernel))
    _admit(kernel, traffic, "10.10.1.0/24")
    _count(kernel, FROM_SITES_SET, "10.10.1.0/24", 7)
    kernel.fail = {"ipset restore"}
    with pytest.raises(LinuxError):
        traffic.cut(1, ["10.10.1.0/24"])
    traffic.cut(2, ["10.10.1.0/24"])
    assert traffic.read(2) == {"10.10.1.0/24": Carried(7, 0)}


def test_entries_without_traffic_are_left_out() -> None:
    text = "create a hash:net counters\nadd a 10.1.0.0/24 packets 0 bytes 0\nadd a 10.2.0.7 packets 2 bytes 168\n"
    assert parse_counts(text) == {"10.2.0.7": 168}
