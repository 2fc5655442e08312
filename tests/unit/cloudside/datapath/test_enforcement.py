import json
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from fake_kernel import FakeKernel

from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.skeleton import Doors
from linux.errors import LinuxError
from linux.netfilter import Netfilter
from rules.compile import RuleSet, assemble, compile_policy
from rules.model import Inventory, PolicySource, Server, Site
from rules.parse import parse_stored
from rules.parts import Parts, parts_of

DOORS = Doors(ip_address("10.255.255.1"), "lan0", "wan0", (25,), (25,), ())
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16")},
    sites=(Site("tokyo", "acme", ip_network("10.10.1.0/24")), Site("osaka", "acme", ip_network("10.10.2.0/24"))),
    devices=(),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)


OTHER = Inventory(
    tenants={**INVENTORY.tenants, "zeta": ip_network("10.20.0.0/16")},
    sites=(*INVENTORY.sites, Site("oslo", "zeta", ip_network("10.20.1.0/24"))),
    devices=(),
    servers=INVENTORY.servers,
)
ZETA = PolicySource("zeta", "z", "tenant: zeta\nallow: [{from: oslo, to: web, services: ping}]\n")


def _source(service: str) -> PolicySource:
    names = "{from: tokyo, to: [osaka, web], services: [SERVICE]}".replace("SERVICE", service)
    return PolicySource("acme", "p", f"tenant: acme\nallow:\n  - {names}\n")


def _rule_set(service: str, inventory: Inventory = INVENTORY) -> RuleSet:
    policy, _ = parse_stored([_source(service), *([ZETA] if inventory is OTHER else [])], inventory)
    return compile_policy(policy, inventory)


OLD, NEW = _rule_set("http"), _rule_set("ssh")


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


def _held(kernel: FakeKernel) -> Enforcement:
    enforcement = Enforcement(Netfilter(kernel), DOORS)
    enforcement.hold()
    return enforcement


def _ours(kernel: FakeKernel) -> list[str]:
    """Names of versions in the kernel."""
    return sorted(name for name in (*kernel.mangle, *kernel.sets) if name.startswith("ky") and "kyoten" not in name)


def _content(kernel: FakeKernel) -> str:
    return json.dumps([kernel.mangle, kernel.filter, kernel.sets])


def test_nothing_is_forwarded_before_the_first_rule_set(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    assert kernel.tables["filter"].policies["FORWARD"] == "DROP"
    assert kernel.mangle["KY-POLICY"] == []
    assert enforcement.fingerprint == ""


def test_new_version_comes_in_one_transaction_and_the_old_goes(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    assert enforcement.apply(OLD).how == "new version"
    assert kernel.mangle["KY-POLICY"] == ["-g ky.1"]
    kernel.ran.clear()
    enforcement.apply(NEW)
    changing = [program for program, _ in kernel.ran if program.endswith("restore")]
    assert changing == ["ipset restore", "iptables-legacy-restore"]
    assert kernel.mangle["ky0a0a0000"] == ["-g ky0a0a0000.2"]
    # The top says the same: it stays.
    assert kernel.mangle["KY-POLICY"] == ["-g ky.1"]
    enforcement.sweep()
    assert not any(name.startswith("ky0a0a0000.1") for name in _ours(kernel))
    assert enforcement.repair(thorough=True) == ()


def test_one_tenants_change_leaves_the_others_alone(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.apply(_rule_set("http", OTHER))
    kernel.ran.clear()
    enforcement.apply(_rule_set("ssh", OTHER))
    enforcement.sweep()
    assert not any("ky0a140000" in text for program, text in kernel.ran if program.endswith("restore"))
    assert {name for name in _ours(kernel) if name.startswith("ky0a140000")} >= {"ky0a140000", "ky0a140000.1"}


def test_a_site_comes_and_goes_in_place(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    policy, _ = parse_stored([_source("http")], INVENTORY)
    parts = parts_of(INVENTORY)
    whole = assemble(policy, parts)
    enforcement.apply(whole)
    before = _content(kernel)
    acme = parts.own["acme"]
    without = Parts(parts.shared, {"acme": replace(acme, sites=acme.sites[:1])})
    smaller = assemble(policy, without, previous=whole)
    kernel.ran.clear()
    assert enforcement.apply(smaller).how == "in place"
    assert [program for program, _ in kernel.ran] == ["ipset restore"]
    assert not any("10.10.2.0/24" in members for _, members in kernel.sets.values())
    assert enforcement.repair(thorough=True) == ()
    assert enforcement.apply(assemble(policy, parts, previous=smaller)).how == "in place"
    assert json.loads(_content(kernel)) == json.loads(before)
    assert enforcement.fingerprint == whole.fingerprint


def test_a_site_in_a_living_ones_place_takes_a_new_version(kernel: FakeKernel) -> None:
    """Its entries would decide about the living one before the swap."""
    enforcement = _held(kernel)
    policy, _ = parse_stored([_source("http")], INVENTORY)
    parts = parts_of(INVENTORY)
    whole = assemble(policy, parts)
    enforcement.apply(whole)
    acme = parts.own["acme"]
    tokyo, osaka = acme.sites
    halves = [replace(tokyo, prefix=ip_network("10.10.1.0/25")), replace(osaka, prefix=ip_network("10.10.1.128/25"))]
    moved = Parts(parts.shared, {"acme": replace(acme, sites=tuple(halves))})
    assert enforcement.apply(assemble(policy, moved, previous=whole)).how == "new version"


@pytest.mark.parametrize("program", ["ipset restore", "iptables-legacy-restore"])
def test_failed_step_leaves_the_old_version_whole(kernel: FakeKernel, program: str) -> None:
    enforcement = _held(kernel)
    enforcement.apply(OLD)
    before = _content(kernel)
    kernel.fail = {program}
    with pytest.raises(LinuxError):
        enforcement.apply(NEW)
    assert _content(kernel) == before
    assert enforcement.fingerprint == OLD.fingerprint
    enforcement.apply(NEW)
    assert enforcement.fingerprint == NEW.fingerprint


def test_whole_version_is_adopted_without_a_change(kernel: FakeKernel) -> None:
    _held(kernel).apply(OLD)
    before = _content(kernel)
    later = _held(kernel)
    assert later.apply(OLD).how == "adopted"
    assert later.fingerprint == OLD.fingerprint
    assert _content(kernel) == before
    later.apply(NEW)
    assert kernel.mangle["ky0a0a0000"] == ["-g ky0a0a0000.2"]


def test_after_a_restart_only_the_damaged_tenant_is_made_anew(kernel: FakeKernel) -> None:
    rule_set = _rule_set("http", OTHER)
    _held(kernel).apply(rule_set)
    some_set = next(name for name in kernel.sets if name.startswith("ky0a0a0000.1g"))
    kernel.sets[some_set][1]["10.99.0.0/16"] = "skbmark 0x1/0x1"
    later = _held(kernel)
    assert later.apply(rule_set).how == "new version"
    later.sweep()
    assert {name.split(".")[1][0] for name in _ours(kernel) if name.startswith("ky0a0a0000.")} == {"2"}
    assert {name.split(".")[1][0] for name in _ours(kernel) if name.startswith("ky0a140000.")} == {"1"}


def test_a_strange_top_is_not_adopted(kernel: FakeKernel) -> None:
    _held(kernel).apply(OLD)
    kernel.mangle["ky.1"].insert(0, "-g KY-GRANT")
    later = _held(kernel)
    assert later.apply(OLD).how == "new version"
    later.sweep()
    assert not any(".1" in name for name in _ours(kernel))
    assert kernel.mangle["KY-POLICY"] == ["-g ky.2"]


def test_admitted_are_exchanged_and_only_when_they_change(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    parts = parts_of(INVENTORY)
    assert enforcement.admit(parts)
    assert kernel.sets["kyoten-sites"][1].keys() == {"10.10.1.0/24", "10.10.2.0/24"}
    assert kernel.sets["kyoten-servers"][1].keys() == {"10.255.0.10"}
    assert not enforcement.admit(parts)
    kernel.ran.clear()
    acme = parts.own["acme"]
    assert enforcement.admit(Parts(parts.shared, {"acme": replace(acme, sites=acme.sites[:1])}))
    assert kernel.ran == [("ipset restore", "del -exist kyoten-sites 10.10.2.0/24\n")]
    assert kernel.sets["kyoten-sites"][1].keys() == {"10.10.1.0/24"}
    assert enforcement.repair() == ()


def test_admitting_that_failed_half_way_is_done_anew(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    parts = parts_of(INVENTORY)
    enforcement.admit(parts)
    kernel.fail = {"ipset restore"}
    with pytest.raises(LinuxError):
        enforcement.admit(Parts(parts.shared, {}))
    kernel.sets["kyoten-sites"][1].pop("10.10.1.0/24")  # what the failed step may have done
    assert enforcement.admit(parts)
    assert kernel.sets["kyoten-sites"][1].keys() == {"10.10.1.0/24", "10.10.2.0/24"}


def test_drift_is_named_and_mended(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.admit(parts_of(INVENTORY))
    enforcement.apply(OLD)
    assert enforcement.repair() == ()
    kernel.filter["FORWARD"].insert(0, "-j ACCEPT")
    kernel.sets["kyoten-sites"][1]["10.99.0.0/16"] = ""
    assert enforcement.repair() == ("chain FORWARD", "set kyoten-sites")
    assert kernel.filter["FORWARD"] == ["-j KY-FORWARD"]
    assert enforcement.repair() == ()
    assert enforcement.fingerprint == OLD.fingerprint


def test_damaged_version_is_given_up_so_that_it_is_applied_anew(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.apply(OLD)
    kernel.mangle["ky0a0a0000.1w"].insert(0, "-g KY-GRANT")
    assert enforcement.repair() == ("chain ky0a0a0000.1w",)
    assert enforcement.fingerprint == ""
    enforcement.apply(OLD)
    assert kernel.mangle["ky0a0a0000"] == ["-g ky0a0a0000.2"]


def test_an_entry_exchanged_for_another_is_found_by_a_thorough_look(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.apply(OLD)
    members = kernel.sets["ky0a0a0000.1g0s"][1]
    members["10.99.0.0/16"] = members.pop("10.10.1.0/24")
    assert enforcement.repair() == ()
    assert enforcement.repair(thorough=True) == ("set ky0a0a0000.1g0s",)


def test_closing_leaves_drop_and_no_version(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.apply(OLD)
    enforcement.close()
    assert kernel.mangle["KY-POLICY"] == []
    assert kernel.tables["filter"].policies["FORWARD"] == "DROP"
    assert _ours(kernel) == []


def test_only_the_sets_that_were_asked_for_are_judged(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.admit(parts_of(INVENTORY))
    enforcement.apply(OLD)
    members = kernel.sets["ky0a0a0000.1g0s"][1]
    members["10.99.0.0/16"] = members.pop("10.10.1.0/24")
    kernel.sets["kyoten-sites"][1].clear()
    others = [name for name in enforcement.set_sizes() if name not in ("ky0a0a0000.1g0s", "kyoten-sites")]
    assert enforcement.judge_sets(others, enforcement.read_sets(others)) == ()
    assert enforcement.judge_sets(["kyoten-sites"], enforcement.read_sets(["kyoten-sites"])) == ("set kyoten-sites",)
    assert kernel.sets["kyoten-sites"][1].keys() == {"10.10.1.0/24", "10.10.2.0/24"}
    wanted = ["ky0a0a0000.1g0s"]
    assert enforcement.judge_sets(wanted, enforcement.read_sets(wanted)) == ("set ky0a0a0000.1g0s",)
    assert enforcement.fingerprint == ""


def test_a_set_that_is_gone_is_found(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.apply(OLD)
    del kernel.sets["ky0a0a0000.1g0s"]
    wanted = ["ky0a0a0000.1g0s"]
    assert enforcement.judge_sets(wanted, enforcement.read_sets(wanted)) == ("set ky0a0a0000.1g0s",)


def test_sets_are_read_beside_one_that_is_gone(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    enforcement.apply(OLD)
    assert enforcement.read_sets(["gone", "ky0a0a0000.1g0s"]).keys() == {"ky0a0a0000.1g0s"}


def test_each_write_is_counted(kernel: FakeKernel) -> None:
    enforcement = _held(kernel)
    for write in (
        lambda: enforcement.apply(OLD),
        lambda: enforcement.admit(parts_of(INVENTORY)),
        lambda: enforcement.sweep(),
        lambda: enforcement.hold(),
    ):
        before = enforcement.writes
        write()
        assert enforcement.writes > before
    before = enforcement.writes
    enforcement.repair(thorough=True)
    enforcement.admit(parts_of(INVENTORY))
    assert enforcement.writes == before
