"""The router's packet filter as text, and that a change by someone else is seen and undone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from linux.dataplane import Dataplane
from linux.errors import ProgramFailedError
from linux.netfilter import Netfilter
from linux.runner import Finished
from router_agent.bundle import Enrolment
from router_agent.firewall.keeper import FirewallKeeper
from router_agent.firewall.ruleset import comparable, render

USERLAND, KERNEL = Dataplane.USERLAND, Dataplane.KERNEL
#: How packets of the tunnel are told from others.
ARRIVED = {USERLAND: "-i ipsec0 ", KERNEL: "-i ipsec0 -m policy --dir in --pol ipsec --mode tunnel "}


class Kernel:
    """Keeps the tables it was given, and shows them as iptables-save does: with counters and comments."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], list[str]] = {}
        self.restores = 0
        self.broken = False

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        if self.broken:
            raise ProgramFailedError(argv[0], 4, "no such module")
        family, _, what = argv[0].partition("-legacy-")
        if what == "save":
            lines = self.tables.get((family, argv[2]), [])
            return Finished(0, "# now\n" + "\n".join(line.replace("[0:0]", "[7:9]") for line in lines) + "\n", "")
        assert "--noflush" not in argv, "what others wrote would stay"
        self.restores += 1
        for block in stdin.split("COMMIT\n")[:-1]:
            name, *lines = block.splitlines()
            self.tables[family, name[1:]] = lines
        return Finished(0, "", "")


def keeper(kernel: Kernel, enrolment: Enrolment) -> FirewallKeeper:
    return FirewallKeeper(Netfilter(kernel), Netfilter(kernel, version=6), render(enrolment, USERLAND, lan="lan0"))


def rules_of(text: str, chain: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"-A {chain} ")]


@pytest.mark.parametrize("plane", [USERLAND, KERNEL])
def test_everything_is_dropped_that_no_rule_lets_in(enrolment: Enrolment, plane: Dataplane) -> None:
    text = render(enrolment, plane, lan="lan0").ipv4
    assert ":INPUT DROP" in text
    assert ":FORWARD DROP" in text
    only_filter = text.partition("COMMIT")[0]
    for rule in rules_of(only_filter, "INPUT") + rules_of(only_filter, "FORWARD"):
        known = ("-i lo ", "-i lan0 ", ARRIVED[plane], "RELATED,ESTABLISHED", "INVALID")
        assert any(word in rule for word in known), f"lets the Internet in: {rule}"
        assert "-i wan" not in rule


def test_ssh_is_for_the_service_address_through_the_tunnel(enrolment: Enrolment) -> None:
    ssh = [rule for rule in render(enrolment, USERLAND, lan="lan0").ipv4.splitlines() if "--dport 22" in rule]
    assert ssh == ["-A INPUT -i ipsec0 -s 10.255.255.1 -d 10.10.1.1 -p tcp -m tcp --dport 22 -j ACCEPT"]


def test_the_lan_goes_nowhere_but_into_the_tunnel_with_its_own_source(enrolment: Enrolment) -> None:
    forward = rules_of(render(enrolment, USERLAND, lan="lan0").ipv4, "FORWARD")
    from_lan = [rule for rule in forward if "-i lan0" in rule]
    assert from_lan == [
        "-A FORWARD -i lan0 ! -s 192.168.1.0/24 -j DROP",
        "-A FORWARD -i lan0 -s 192.168.1.0/24 -d 10.0.0.0/8 -o ipsec0 -j ACCEPT",
    ]


def test_the_mapping_spares_the_router_itself(enrolment: Enrolment) -> None:
    text = render(enrolment, USERLAND, lan="lan0").ipv4
    assert rules_of(text, "PREROUTING") == [
        "-A PREROUTING -i ipsec0 -d 10.10.1.1 -j ACCEPT",
        "-A PREROUTING -i ipsec0 -d 10.10.1.0/24 -j NETMAP --to 192.168.1.0/24",
    ]
    assert "NETMAP" not in render(replace(enrolment, lan=enrolment.overlay), USERLAND, lan="lan0").ipv4


def test_the_first_look_sets_the_filter_and_later_ones_leave_it(enrolment: Enrolment) -> None:
    kernel = Kernel()
    kept = keeper(kernel, enrolment)
    assert kept.check() == (None, False)
    restores = kernel.restores
    assert kept.check() == (None, False)
    assert kernel.restores == restores


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("iptables", "filter"), "-A INPUT -j ACCEPT"),
        (("iptables", "nat"), "-A PREROUTING -j ACCEPT"),
        (("ip6tables", "filter"), "-A INPUT -j ACCEPT"),
    ],
)
def test_what_someone_else_changed_is_restored(enrolment: Enrolment, place: tuple[str, str], line: str) -> None:
    kernel = Kernel()
    kept = keeper(kernel, enrolment)
    kept.check()
    kernel.tables[place].append(line)
    assert kept.check() == (None, True)
    assert line not in kernel.tables[place]
    assert kept.check() == (None, False)


def test_a_filter_that_cannot_be_set_is_a_problem_until_it_can(enrolment: Enrolment) -> None:
    kernel = Kernel()
    kept = keeper(kernel, enrolment)
    kernel.broken = True
    problem, _ = kept.check()
    assert problem is not None
    assert problem.key == "agent.firewall-failed"
    assert not kept.in_force
    kernel.broken = False
    assert kept.check() == (None, False)
    assert kept.in_force


def test_counters_and_comments_are_no_change() -> None:
    assert comparable("# a\n:INPUT DROP [1:2]\n-A INPUT -j ACCEPT\n") == comparable(
        ":INPUT DROP [3:4]\n-A INPUT -j ACCEPT\n"
    )
    assert comparable(":INPUT DROP [1:2]\n") != comparable(":INPUT ACCEPT [1:2]\n")


def test_a_lan_that_is_shut_leaves_the_router_itself_reachable(enrolment: Enrolment) -> None:
    open_, shut = (render(enrolment, Dataplane.USERLAND, lan="lan0", lan_shut=each).ipv4 for each in (False, True))
    assert "-A FORWARD" in shut, "what is dropped for other reasons still is"
    gone = set(open_.splitlines()) - set(shut.splitlines())
    assert len(gone) == 2
    assert all(rule.startswith("-A FORWARD") and rule.endswith("-j ACCEPT") for rule in gone)
    assert not [line for line in shut.splitlines() if line.startswith("-A FORWARD") and line.endswith("-j ACCEPT")]
