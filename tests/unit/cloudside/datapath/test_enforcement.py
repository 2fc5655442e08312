import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from fake_kernel import FakeKernel

from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.skeleton import Doors
from linux.errors import LinuxError
from linux.netfilter import Netfilter
from rules.compile import RuleSet, compile_policy
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse

DOORS = Doors(ip_address("10.255.255.1"), "lan0", "wan0", (25,), (25,), ())
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")), Site("osaka", "acme", ip_network("10.10.2.0/24"))),
    devices=(),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)


def _rule_set(service: str) -> RuleSet:
    text = f"tenant: acme\nallow:\n  - {{from: tokyo, to: [osaka, web], services: [{service}]}}\n"
    return compile_policy(parse([PolicySource("acme", "p", text)], INVENTORY), INVENTORY)


OLD, NEW = _rule_set("http"), _rule_set("ssh")


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


def _held(kernel: FakeKernel, record: Path) -> Enforcement:
    enforcement = Enforcement(Netfilter(kernel), DOORS, record / "record")
    enforcement.hold()
    return enforcement


def _jump(kernel: FakeKernel) -> str:
    return " ".join(kernel.rules["KY-POLICY"])


def test_nothing_is_forwarded_before_the_first_rule_set(kernel: FakeKernel, tmp_path: Path) -> None:
    enforcement = _held(kernel, tmp_path)
    assert kernel.policies["FORWARD"] == "DROP"
    assert _jump(kernel) == ""
    assert enforcement.fingerprint == ""


def test_new_version_comes_in_one_transaction_and_the_old_goes(kernel: FakeKernel, tmp_path: Path) -> None:
    enforcement = _held(kernel, tmp_path)
    enforcement.apply(OLD)
    kernel.ran.clear()
    enforcement.apply(NEW)
    changing = [program for program, _ in kernel.ran if program.endswith("restore")]
    assert changing == ["ipset restore", "iptables-legacy-restore"]
    assert _jump(kernel).endswith("-j ky2")
    assert NEW.fingerprint in _jump(kernel)
    enforcement.sweep()
    assert not any(name.startswith("ky1") for name in (*kernel.rules, *kernel.sets))


@pytest.mark.parametrize("program", ["ipset restore", "iptables-legacy-restore"])
def test_failed_step_leaves_the_old_version_whole(kernel: FakeKernel, tmp_path: Path, program: str) -> None:
    enforcement = _held(kernel, tmp_path)
    enforcement.apply(OLD)
    before = json.dumps(kernel.rules), {name: members for name, (_, members) in kernel.sets.items()}
    kernel.fail = {program}
    with pytest.raises(LinuxError):
        enforcement.apply(NEW)
    assert (json.dumps(kernel.rules), {name: members for name, (_, members) in kernel.sets.items()}) == before
    assert enforcement.fingerprint == OLD.fingerprint
    enforcement.apply(NEW)
    assert enforcement.fingerprint == NEW.fingerprint


def test_whole_version_is_adopted_without_a_change(kernel: FakeKernel, tmp_path: Path) -> None:
    _held(kernel, tmp_path).apply(OLD)
    rules = json.dumps(kernel.rules)
    later = _held(kernel, tmp_path)
    assert later.adopt()
    assert later.fingerprint == OLD.fingerprint
    assert json.dumps(kernel.rules) == rules
    later.apply(NEW)
    assert _jump(kernel).endswith("-j ky2")


def test_damaged_version_is_not_adopted(kernel: FakeKernel, tmp_path: Path) -> None:
    _held(kernel, tmp_path).apply(OLD)
    some_set = next(name for name in kernel.sets if name.startswith("ky1"))
    kernel.sets[some_set][1].add("10.99.0.0/16")
    later = _held(kernel, tmp_path)
    assert not later.adopt()
    later.apply(OLD)
    later.sweep()
    assert not any(name.startswith("ky1") for name in (*kernel.rules, *kernel.sets))


def test_unknown_version_is_not_adopted(kernel: FakeKernel, tmp_path: Path) -> None:
    _held(kernel, tmp_path).apply(OLD)
    (tmp_path / "record").unlink()
    assert not _held(kernel, tmp_path).adopt()


def test_admitted_are_exchanged_in_one_step_and_only_when_they_change(kernel: FakeKernel, tmp_path: Path) -> None:
    enforcement = _held(kernel, tmp_path)
    prefixes = [site.prefix for site in INVENTORY.sites]
    assert enforcement.admit(prefixes, [ip_address("10.255.0.10")])
    assert kernel.sets["kyoten-sites"][1] == {"10.10.1.0/24", "10.10.2.0/24"}
    assert not enforcement.admit(prefixes, [ip_address("10.255.0.10")])
    assert enforcement.admit(prefixes[:1], [ip_address("10.255.0.10")])
    assert kernel.sets["kyoten-sites"][1] == {"10.10.1.0/24"}
    assert "kyoten-sites-new" not in kernel.sets


def test_drift_is_named_and_mended(kernel: FakeKernel, tmp_path: Path) -> None:
    enforcement = _held(kernel, tmp_path)
    enforcement.admit([site.prefix for site in INVENTORY.sites], [])
    enforcement.apply(OLD)
    assert enforcement.repair() == ()
    kernel.rules["FORWARD"].insert(0, "-j ACCEPT")
    kernel.sets["kyoten-sites"][1].add("10.99.0.0/16")
    assert enforcement.repair() == ("chain FORWARD", "set kyoten-sites")
    assert kernel.rules["FORWARD"] == ["-j KY-FORWARD"]
    assert enforcement.repair() == ()
    assert enforcement.fingerprint == OLD.fingerprint


def test_damaged_version_is_given_up_so_that_it_is_applied_anew(kernel: FakeKernel, tmp_path: Path) -> None:
    enforcement = _held(kernel, tmp_path)
    enforcement.apply(OLD)
    kernel.rules["ky1"].insert(0, "-j ACCEPT")
    assert enforcement.repair() == ("chain ky1",)
    assert enforcement.fingerprint == ""
    enforcement.apply(OLD)
    assert _jump(kernel).endswith("-j ky2")


def test_closing_leaves_drop_and_no_version(kernel: FakeKernel, tmp_path: Path) -> None:
    enforcement = _held(kernel, tmp_path)
    enforcement.apply(OLD)
    enforcement.close()
    assert _jump(kernel) == ""
    assert kernel.policies["FORWARD"] == "DROP"
    assert sorted(kernel.sets) == ["kyoten-servers", "kyoten-sites"]
    assert not any(name.startswith("ky") for name in kernel.rules)
