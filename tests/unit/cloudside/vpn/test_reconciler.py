"""Passes with a charon, a kernel and a routing table in memory; registry and packet filter text are real."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest

from cloudside.config import Config
from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.flows import Flow
from cloudside.datapath.skeleton import doors
from cloudside.pki import revocation
from cloudside.registry import grants, policies
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.vpn.credentials import CredentialLoader
from cloudside.vpn.parts import Parts
from cloudside.vpn.reconciler import Reconciler
from cloudside.vpn.reports import Report
from lab import enrolled
from linux.charon import ChildSa, Connection, IkeSa, SaEvent
from linux.dataplane import Dataplane
from linux.errors import CharonUnavailableError, ProgramFailedError
from linux.netfilter import Netfilter

sys.path.insert(0, str(Path(__file__).parents[1] / "datapath"))
from fake_kernel import FakeKernel

NOW = datetime.now(UTC)
#: Seconds after which everything is looked at again.
RESYNC_S = 5.0


def _sa(number: int, site: str, prefix: str) -> IkeSa:
    child = ChildSa("site", "INSTALLED", (ip_network("10.0.0.0/8"),), (ip_network(prefix),), 0, 0, "AES")
    return IkeSa(number, "sites", "ESTABLISHED", "203.0.113.2", "198.51.100.7", 4500, site, 12, "IKE", (child,))


@dataclass
class _Charon:
    """charon and its process: SAs that exist until they are terminated; may be dead or hung."""

    alive: bool = True
    hung: bool = False
    ends_nothing: bool = False
    log_full: bool = False
    log_opened: Callable[[], None] = lambda: None
    after_listing: Callable[[], None] = lambda: None
    pid_count: int = 1
    existing: dict[int, IkeSa] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        return self.pid_count if self.alive else None

    def set_log_aside(self) -> bool:
        full, self.log_full = self.log_full, False
        return full

    def reopen_log(self) -> None:
        self.log_opened()

    def ensure(self) -> bool:
        self.alive, self.pid_count = True, self.pid_count + 1
        self.existing.clear()
        self.loaded.clear()
        return True

    def used_s(self) -> float:
        return 0.0

    def kill(self) -> None:
        self.alive = self.hung = False
        self.existing.clear()

    def refresh(self) -> bool:
        return False

    def need_restart(self) -> tuple[str, ...]:
        return ()

    def version(self, *, timeout_s: float = 0) -> str:
        self._answer()
        return "5.9.8"

    def connection_names(self) -> tuple[str, ...]:
        return ("sites",)

    def unload_connection(self, name: str) -> None:
        self.loaded.remove(name)

    def _answer(self) -> None:
        if self.hung or not self.alive:
            raise CharonUnavailableError("charon does not answer")

    def sas(self) -> tuple[IkeSa, ...]:
        self._answer()
        found = tuple(self.existing.values())
        self.after_listing()
        return found

    def terminate(self, *, unique_id: int) -> None:
        if self.ends_nothing:
            raise CharonUnavailableError("charon does not answer")
        self._answer()
        self.loaded.append(f"end {unique_id}")
        self.existing.pop(unique_id, None)

    def close(self) -> None:
        pass

    def load_authority(self, pem: str) -> None:
        self._answer()
        self.loaded.append("authority")

    def load_private_key(self, pem: str) -> None:
        self.loaded.append("key")

    def load_revocation_list(self, der: bytes) -> None:
        self.loaded.append("list")

    def flush_certificates(self) -> None:
        self.loaded.append("flush")

    def load_connection(self, name: str, connection: Connection) -> None:
        self.loaded.append(name)


@dataclass
class _Machine:
    """Routing and connection table."""

    live: list[IPv4Network] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    followed: list[list[IPv4Network]] = field(default_factory=list)

    changes: int = 0
    judged: int = 0
    adjusted: list[set[IPv4Network]] = field(default_factory=list)
    while_reading: Callable[[], None] = lambda: None

    def follow(self, blocks: object, live: list[IPv4Network]) -> int:
        self.live = list(live)
        self.followed.append(self.live)
        return 0

    def adjust(self, come: set[IPv4Network], gone: set[IPv4Network]) -> bool:
        assert gone <= set(self.live)
        self.live = [*(one for one in self.live if one not in gone | come), *sorted(come)]
        self.adjusted += [come | gone] if come or gone else []
        return True

    def read(self) -> frozenset[object]:
        self.while_reading()
        return frozenset()

    def judge(self, found: object) -> int:
        self.judged += 1
        return 0

    def interfaces(self) -> tuple[()]:
        return ()

    def list(self) -> Sequence[Flow]:
        return self.flows

    def end(self, flows: Sequence[Flow]) -> int:
        self.flows = [flow for flow in self.flows if flow not in flows]
        return len(flows)


@dataclass
class _Gateway:
    reconciler: Reconciler
    charon: _Charon
    machine: _Machine
    kernel: FakeKernel
    enforcement: Enforcement
    clock: list[float]

    def run(self, *, now: datetime = NOW) -> Report:
        """Time goes by until everything was looked at; nobody says that anything has changed."""
        self.clock[0] += RESYNC_S
        self.reconciler.look_at_all(now=now)
        return self.reconciler.report(now=now)

    def take_up(self, *events: SaEvent, changed: bool = False, now: datetime = NOW) -> Report:
        """What happened is taken up, with what follows from it at once."""
        self.reconciler.take_up(events, now=now, changed=changed)
        self.reconciler.look_at_all(now=now)
        return self.reconciler.report(now=now)


@pytest.fixture
def gateway(config: Config, database: Database) -> _Gateway:
    charon, machine, kernel = _Charon(), _Machine(), FakeKernel()
    config.runtime_directory.mkdir()
    enforcement = Enforcement(Netfilter(kernel), doors(config))
    enforcement.hold()
    loader = CredentialLoader(charon, config, Dataplane.USERLAND)
    parts = Parts(database, charon, charon, charon, loader, enforcement, machine, machine, machine)
    clock = [0.0]
    reconciler = Reconciler(config, parts, Dataplane.USERLAND, lambda: clock[0])
    return _Gateway(reconciler, charon, machine, kernel, enforcement, clock)


def _keys(report: Report) -> set[str]:
    return {found.key for found in report.problems}


def test_first_pass_brings_rules_credentials_and_routes(gateway: _Gateway) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    report = gateway.run()
    assert report.rule_set == gateway.enforcement.fingerprint != ""
    assert "sites" in gateway.charon.loaded
    assert gateway.machine.live == [ip_network("10.10.1.0/24")]
    assert report.live is not None
    assert report.live.keys() == {"tokyo"}
    assert report.problems == ()


def test_restarted_gateway_takes_no_route_away_before_it_knows_the_tunnels(gateway: _Gateway) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    gateway.reconciler.take_up([], now=NOW, changed=True, whole=True)
    while gateway.reconciler.look(now=NOW) or gateway.reconciler.wait_s() == 0:
        told = gateway.reconciler.report(now=NOW).live
        assert told is None or told.keys() == {"tokyo"}
    assert gateway.machine.followed == [[ip_network("10.10.1.0/24")]]


def test_event_alone_is_enough_for_a_route(gateway: _Gateway) -> None:
    gateway.run()
    gateway.take_up(SaEvent("child", True, _sa(1, "osaka", "10.10.2.0/24")))
    assert gateway.machine.live == [ip_network("10.10.2.0/24")]


def test_registry_that_goes_away_changes_nothing(gateway: _Gateway, config: Config, database: Database) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    before = gateway.run()
    database.close()
    registry = config.state_directory / "registry.sqlite"
    registry.rename(registry.with_name("away"))
    registry.mkdir()
    report = gateway.run()
    assert _keys(report) == {"registry.unavailable"}
    assert (report.rule_set, report.live) == (before.rule_set, before.live)
    assert gateway.charon.existing.keys() == {1}
    registry.rmdir()
    registry.with_name("away").rename(registry)
    assert gateway.run().problems == ()


def test_failed_apply_keeps_the_old_rules_and_is_tried_again(gateway: _Gateway, database: Database) -> None:
    before = gateway.run().rule_set
    with database.write() as session:
        policies.add_version(
            session, OPERATOR, tenant_id="acme", text="tenant: acme\nallow: []\n", file_name="p", author="t", now=NOW
        )
    gateway.kernel.fail = {"iptables-legacy-restore"}
    report = gateway.take_up(changed=True)
    assert report.rule_set == before
    assert _keys(report) == {"datapath.filter-failed"}
    report = gateway.run()
    assert report.rule_set not in ("", before)
    assert report.problems == ()


def test_policy_that_closes_a_way_ends_its_flows(gateway: _Gateway, database: Database) -> None:
    doomed = Flow(ip_network("10.10.1.0/24")[5], ip_network("10.10.2.0/24")[5], 6, 4000, 80)
    gateway.machine.flows = [doomed]
    gateway.run()
    assert gateway.machine.flows == [doomed]
    with database.write() as session:
        policies.add_version(
            session, OPERATOR, tenant_id="acme", text="tenant: acme\nallow: []\n", file_name="p", author="t", now=NOW
        )
    assert gateway.run().problems == ()
    assert gateway.machine.flows == []
    # Nothing of the version before is left.
    assert not any(name.startswith("ky0a0a0000.1") for name in (*gateway.kernel.sets, *gateway.kernel.mangle))


def test_revoked_site_loses_set_tunnel_route_and_flows(gateway: _Gateway, config: Config, database: Database) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24"), 2: _sa(2, "osaka", "10.10.2.0/24")}
    doomed = Flow(ip_network("10.10.1.0/24")[5], ip_network("10.10.2.0/24")[5], 6, 4000, 80)
    kept = Flow(ip_network("10.10.1.0/24")[5], ip_network("10.255.0.10/32")[0], 6, 4000, 80)
    gateway.machine.flows = [doomed, kept]
    gateway.run()
    assert gateway.machine.flows == [doomed, kept]
    gateway.charon.loaded.clear()
    with database.write() as session:
        revocation.revoke_site(session, config, OPERATOR, site_id="osaka", now=NOW)
    report = gateway.take_up(changed=True)
    assert gateway.kernel.sets["kyoten-sites"][1].keys() == {"10.10.1.0/24", "10.20.1.0/24"}
    assert gateway.charon.existing.keys() == {1}
    assert gateway.machine.live == [ip_network("10.10.1.0/24")]
    assert gateway.machine.flows == [kept]
    assert "vpn.site-not-admitted" in _keys(report)


def test_charon_has_the_list_before_the_tunnel_of_a_revoked_site_ends(
    gateway: _Gateway, config: Config, database: Database
) -> None:
    # Its router tries again at once. Somebody else's event comes in after the rules were read and before the lists are.
    _enrol(database, config, "osaka")
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24"), 2: _sa(2, "osaka", "10.10.2.0/24")}
    gateway.run()
    gateway.charon.loaded.clear()
    with database.write() as session:
        revocation.revoke_site(session, config, OPERATOR, site_id="osaka", now=NOW)
    gateway.reconciler.take_up([SaEvent("ike", True, _sa(1, "tokyo", "10.10.1.0/24"))], now=NOW, changed=True)
    assert gateway.charon.loaded == ["list", "flush", "end 2"]


def _enrol(database: Database, config: Config, site: str) -> None:
    output = config.runtime_directory / "bundle"
    gateway = config.gateway.model_copy(update={"public_addresses": ("203.0.113.2",)})
    config = config.model_copy(update={"gateway": gateway})
    with database.write() as session:
        enrolled.enrol(session, config, site_id=site, output=output, now=NOW)


def test_router_that_was_replaced_loses_its_tunnel_and_the_new_one_keeps_it(
    gateway: _Gateway, config: Config, database: Database
) -> None:
    _enrol(database, config, "tokyo")
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24"), 2: _sa(2, "osaka", "10.10.2.0/24")}
    assert gateway.run().problems == ()
    _enrol(database, config, "tokyo")
    gateway.clock[0] = 20.0
    report = gateway.take_up(changed=True)
    assert gateway.charon.existing.keys() == {2}
    assert _keys(report) == {"vpn.router-replaced"}
    gateway.clock[0] = 40.0
    gateway.charon.existing[3] = _sa(3, "tokyo", "10.10.1.0/24")  # established 12 s ago
    assert (gateway.run().live or {}).keys() == {"tokyo", "osaka"}


def test_restarted_gateway_keeps_tunnels_younger_than_the_last_enrolment(
    gateway: _Gateway, config: Config, database: Database
) -> None:
    _enrol(database, config, "tokyo")
    _enrol(database, config, "tokyo")
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    report = gateway.run(now=NOW + timedelta(seconds=20))
    assert (report.live or {}).keys() == {"tokyo"}
    assert report.problems == ()


def test_dead_charon_is_started_and_told_everything(gateway: _Gateway) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    rules = gateway.run().rule_set
    gateway.charon.alive = False
    report = gateway.run()
    assert gateway.charon.alive
    assert "sites" in gateway.charon.loaded
    assert gateway.machine.live == []
    assert (report.rule_set, dict(report.live or {})) == (rules, {})


def test_a_listing_of_the_same_tunnels_changes_no_route(gateway: _Gateway) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24"), 2: _sa(2, "osaka", "10.10.2.0/24")}
    gateway.run()
    gateway.machine.adjusted.clear()
    gateway.charon.existing = {number: replace(sa, established_s=99) for number, sa in gateway.charon.existing.items()}
    assert {one.established_s for one in (gateway.run().live or {}).values()} == {99}
    assert gateway.machine.adjusted == []
    gateway.charon.existing[2] = _sa(2, "osaka", "10.10.2.128/25")
    gateway.run()
    assert gateway.machine.adjusted == [{ip_network("10.10.2.0/24"), ip_network("10.10.2.128/25")}]


def test_routes_that_change_without_end_are_looked_at_all_the_same(gateway: _Gateway) -> None:
    gateway.run()
    judged = gateway.machine.judged

    def change() -> None:
        gateway.machine.changes += 1

    gateway.machine.while_reading = change
    gateway.run()
    assert gateway.machine.judged == judged + 1


def test_a_listing_of_a_charon_that_died_meanwhile_counts_for_nothing(gateway: _Gateway) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    gateway.run()

    def die() -> None:
        gateway.charon.after_listing = lambda: None
        gateway.charon.ensure()
        gateway.charon.existing = {1: _sa(1, "osaka", "10.10.2.0/24")}

    gateway.charon.after_listing = die
    report = gateway.run()
    assert (report.live or {}).keys() == {"osaka"}
    assert gateway.charon.existing.keys() == {1}


def test_the_route_of_a_revoked_site_goes_though_charon_ends_no_tunnel(
    gateway: _Gateway, config: Config, database: Database
) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24"), 2: _sa(2, "osaka", "10.10.2.0/24")}
    gateway.run()
    gateway.charon.ends_nothing = True
    with database.write() as session:
        revocation.revoke_site(session, config, OPERATOR, site_id="osaka", now=NOW)
    gateway.take_up(changed=True)
    assert gateway.machine.live == [ip_network("10.10.1.0/24")]


def test_a_log_that_was_set_aside_is_opened_anew_though_charon_was_silent(gateway: _Gateway) -> None:
    opened: list[bool] = []

    def silent() -> None:
        raise CharonUnavailableError("charon does not answer")

    gateway.run()
    gateway.charon.log_full, gateway.charon.log_opened = True, silent
    gateway.run()
    gateway.charon.log_opened = lambda: opened.append(True)
    gateway.run()
    gateway.run()
    assert opened == [True]


def test_hung_charon_is_reported_and_rules_go_on(gateway: _Gateway, database: Database) -> None:
    gateway.charon.existing = {1: _sa(1, "tokyo", "10.10.1.0/24")}
    before = gateway.run()
    gateway.charon.hung = True
    with database.write() as session:
        policies.add_version(
            session, OPERATOR, tenant_id="acme", text="tenant: acme\nallow: []\n", file_name="p", author="t", now=NOW
        )
    report = gateway.run()
    assert _keys(report) == {"vpn.charon-failed"}
    assert report.rule_set != before.rule_set
    assert report.live == before.live


def test_drift_is_repaired_and_told(gateway: _Gateway) -> None:
    before = gateway.run().rule_set
    tenant = next(name for name in gateway.kernel.mangle if name.startswith("ky0a0a") and name.endswith(".1w"))
    gateway.kernel.mangle[tenant].insert(0, "-g KY-GRANT")
    gateway.kernel.tables["filter"].policies["FORWARD"] = "ACCEPT"
    report = gateway.run()
    assert _keys(report) == {"datapath.drift"}
    assert report.rule_set == before
    assert gateway.kernel.tables["filter"].policies["FORWARD"] == "DROP"
    assert tenant not in gateway.kernel.mangle
    assert "-g KY-GRANT" not in gateway.kernel.mangle[tenant.replace(".1w", ".2w")]


def test_a_reading_that_fails_because_rules_changed_meanwhile_is_begun_again(gateway: _Gateway) -> None:
    gateway.run()
    real, failed = gateway.enforcement.read_tables, []

    def unlucky() -> object:
        if not failed:
            failed.append(True)
            gateway.enforcement.sweep()
            raise ProgramFailedError("iptables-legacy-save", 2, "Set with index 7 in kernel doesn't exist.")
        return real()

    gateway.enforcement.read_tables = unlucky  # type: ignore[method-assign,assignment]
    assert _keys(gateway.run()) == set()
    assert failed
    # One that fails though nothing was written is told.
    gateway.kernel.fail.add("iptables-legacy-save")
    assert _keys(gateway.run()) == {"datapath.drift-failed"}


def _grant(database: Database, **changes: str) -> None:
    words = {"source": "10.10.1.5", "destination": "osaka", "services": "tcp/8080"} | changes
    with database.write() as session:
        grants.add(
            session,
            OPERATOR,
            grant_id="0a",
            tenant_id="acme",
            starts_at=NOW,
            ends_at=NOW + timedelta(minutes=5),
            reason="commissioning",
            author="t",
            overlay=ip_network("10.0.0.0/8"),
            now=NOW,
            **words,
        )


def test_a_timed_grant_is_kept_in_the_kernel_with_its_end_and_goes_when_it_is_ended(
    gateway: _Gateway, database: Database
) -> None:
    gateway.run()
    _grant(database)
    gateway.kernel.ran.clear()
    assert gateway.take_up(changed=True).problems == ()
    entry = "10.10.1.5,tcp:8080,10.10.2.0/24"
    assert gateway.kernel.sets["kyoten-grants"][1].keys() == {entry}
    assert ("ipset restore", f"add -exist kyoten-grants {entry} timeout 300\n") in gateway.kernel.ran
    assert gateway.reconciler.next_change == NOW + timedelta(minutes=5)
    with database.write() as session:
        grants.end(session, OPERATOR, grant_id="0a", now=NOW)
    gateway.take_up(changed=True)
    assert gateway.kernel.sets["kyoten-grants"][1] == {}


def test_a_timed_grant_that_no_set_can_hold_is_told(gateway: _Gateway, database: Database) -> None:
    _grant(database, services="any")
    assert _keys(gateway.run()) == {"rules.grant-too-wide"}
    assert gateway.kernel.sets["kyoten-grants"][1] == {}
