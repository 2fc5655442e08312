"""What the relay knows of the registry: whose an address is, what changed, what ends by itself."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from cloudside.errors import RefusedError, UnavailableError
from cloudside.mail.intake.directory import Defaults, Directory
from cloudside.mail.intake.places import Places, read
from cloudside.mail.model import Action, Limit, Scope
from cloudside.registry.tables import (
    MailHold,
    MailLimit,
    MailProfile,
    Server,
    Site,
    SmtpCredential,
    Suppression,
    Tenant,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PREFIXES = st.builds(
    lambda number, length: ip_network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(4, 32)
)


@given(st.lists(PREFIXES, max_size=30), st.integers(0, 2**32 - 1))
def test_the_longest_prefix_is_found(prefixes, number):
    address = ip_address(number)
    holding = [prefix for prefix in prefixes if address in prefix]
    wanted = max(holding, key=lambda prefix: prefix.prefixlen, default=None)
    assert Places((prefix, prefix) for prefix in prefixes).find(address) == wanted


def test_families_do_not_mix_and_mapped_addresses_are_ipv4():
    places = Places([(ip_network("10.0.0.0/8"), "four"), (ip_network("::/0"), "six")])
    assert places.find(read("10.1.2.3")) == places.find(read("::ffff:10.1.2.3")) == "four"
    assert places.find(read("2001:db8::1")) == places.find(read("fe80::1%eth0")) == "six"
    with pytest.raises(ValueError, match="unknown"):
        read("unknown")


@pytest.fixture
def directory(registry):
    with registry.write() as session:
        session.add(Server(id="web", address=ip_address("127.0.3.1")))
    found = Directory(registry, Defaults(hourly=60, daily=500))
    assert found.refresh(NOW)
    return found


@pytest.fixture
def queries(registry):
    """Statements that were run."""
    run = []
    event.listen(registry.engine, "before_cursor_execute", lambda *args: run.append(args[2]))
    return run


def add(registry, *rows):
    with registry.write() as session:
        for row in rows:
            session.add(row)
            session.flush()


def site_limit(hourly=60, daily=500, action=Action.NOTIFY):
    return Limit(Scope.SITE, "tokyo-1", hourly, daily, action)


def test_nothing_is_known_before_the_first_reading(registry):
    with pytest.raises(UnavailableError):
        _ = Directory(registry).snapshot


def test_who_is_who(directory):
    snapshot = directory.snapshot
    assert snapshot.origin_at("127.0.1.20").name == "tokyo-1"
    assert (snapshot.origin_at("127.0.3.1").name, snapshot.origin_at("127.0.3.1").tenant) == ("server/web", "")
    assert snapshot.origin_of("plc").tenant == "acme"
    for source in ("127.0.9.9", "127.0.2.20", "", "unknown"):
        with pytest.raises(RefusedError):
            snapshot.origin_at(source)
    for user in ("old", "nobody"):
        with pytest.raises(RefusedError):
            snapshot.origin_of(user)


def test_nothing_is_read_again_when_nothing_changed(directory, queries):
    before = directory.snapshot
    assert not directory.refresh(NOW + timedelta(seconds=1))
    assert directory.snapshot is before
    assert len([query for query in queries if query.startswith("SELECT")]) == 1


def test_a_change_of_something_else_reads_nothing(directory, registry, queries):
    add(registry, Tenant(id="other", block=ip_network("10.9.0.0/16"), created_at=NOW))
    queries.clear()
    assert not directory.refresh(NOW + timedelta(seconds=1))
    assert len([query for query in queries if query.startswith("SELECT")]) == 1


def test_everything_is_read_once_in_a_while(directory):
    assert directory.refresh(NOW + timedelta(seconds=601))


def test_what_could_not_be_read_is_read_later(directory, registry, monkeypatch):
    add(registry, MailHold(scope="site", name="tokyo-1", tenant_id="acme", reason="flood", author="x", since=NOW))
    monkeypatch.setattr("cloudside.mail.intake.directory._clients", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        directory.refresh(NOW + timedelta(seconds=1))
    assert directory.snapshot.origins["tokyo-1"].hold == ""
    monkeypatch.undo()
    directory.refresh(NOW + timedelta(seconds=2))
    assert directory.snapshot.origins["tokyo-1"].hold == "flood"


def test_limits_of_tenant_site_and_device_with_what_is_raised(directory, registry):
    origin = directory.snapshot.origins["tokyo-1"]
    assert directory.snapshot.limits(origin, "plc") == (site_limit(),)
    add(
        registry,
        MailLimit(scope="tenant", name="acme", tenant_id="acme", hourly=1000, daily=None, action="refuse"),
        MailLimit(scope="site", name="tokyo-1", tenant_id="acme", hourly=5, daily=50, action="hold", raised=10,
                  raised_until=NOW + timedelta(hours=1)),
        MailLimit(scope="device", name="plc", tenant_id="acme", hourly=None, daily=9, action="notify"),
        MailLimit(scope="device", name="127.0.1.20", tenant_id=None, hourly=1, daily=1, action="refuse"),
    )  # fmt: skip
    assert directory.refresh(NOW)
    tenant = Limit(Scope.TENANT, "acme", 1000, None, Action.REFUSE)
    device = Limit(Scope.DEVICE, "plc", None, 9, Action.NOTIFY)
    origin = directory.snapshot.origins["tokyo-1"]
    assert directory.snapshot.limits(origin, "plc") == (tenant, site_limit(50, 500, Action.HOLD), device)
    assert directory.snapshot.limits(origin, "127.0.1.20") == (tenant, site_limit(50, 500, Action.HOLD))  # not its own
    assert directory.refresh(NOW + timedelta(hours=1))
    assert directory.snapshot.origins["tokyo-1"].limits == (tenant, site_limit(5, 50, Action.HOLD))
    assert not directory.refresh(NOW + timedelta(hours=1, seconds=1))


def test_a_sites_own_hourly_number_still_counts(directory, registry):
    with registry.write() as session:
        session.get(Site, "tokyo-1").mail_hourly_limit = 700
    directory.refresh(NOW)
    assert directory.snapshot.origins["tokyo-1"].limits == (site_limit(700, 700),)


def test_holds_of_tenant_site_and_device(directory, registry):
    def held(device="plc"):
        snapshot = directory.snapshot
        return snapshot.hold(snapshot.origins["tokyo-1"], device)

    assert held() == ""
    for scope, name in (("device", "plc"), ("site", "tokyo-1"), ("tenant", "acme")):
        add(registry, MailHold(scope=scope, name=name, tenant_id="acme", reason=scope, author="x", since=NOW))
        assert directory.refresh(NOW)
        assert held() == scope
        assert held("other") == ("" if scope == "device" else scope)


def test_profiles_and_credentials(directory, registry):
    add(registry, MailProfile(site_id="tokyo-1", notify="o@x.test", old_tls=True, senders=["A@x.test"], recipients=[]))
    with registry.write() as session:
        session.get(SmtpCredential, "plc").sources = ["10.0.0.0/8", "2001:db8::/32"]
    directory.refresh(NOW)
    origin = directory.snapshot.origins["tokyo-1"]
    assert (origin.notify, origin.old_tls, origin.senders) == ("o@x.test", True, frozenset({"a@x.test"}))
    credential = directory.snapshot.credentials["plc"]
    assert credential.usable_from(read("10.1.1.1")) and credential.usable_from(read("2001:db8::7"))
    assert not credential.usable_from(read("11.1.1.1")) and "argon2" not in repr(credential)


def suppression(address, expires_at=None, tenant="acme"):
    return Suppression(tenant_id=tenant, address=address, cause="bounce", reason="550", author="x", created_at=NOW,
                       expires_at=expires_at)  # fmt: skip


def test_suppressed_addresses_come_change_end_and_go(directory, registry, queries):
    add(
        registry,
        suppression("a@x.test", NOW + timedelta(days=1)),
        suppression("b/c@x.test"),
        suppression("a@x.test", tenant=""),
    )
    queries.clear()
    assert directory.refresh(NOW)
    assert not [query for query in queries if "FROM sites" in query]
    snapshot = directory.snapshot
    assert snapshot.suppressed("acme", "A@X.test").reason == "550" and snapshot.suppressed("acme", "b/c@x.test")
    assert snapshot.suppressed("", "a@x.test") and snapshot.suppressed("other", "a@x.test") is None
    directory.refresh(NOW + timedelta(days=1))
    assert directory.snapshot.suppressed("acme", "a@x.test") is None and directory.snapshot.suppressed("", "a@x.test")
    with registry.write() as session:
        session.delete(session.get(Suppression, ("acme", "b/c@x.test")))
    directory.refresh(NOW + timedelta(days=1))
    assert directory.snapshot.suppressed("acme", "b/c@x.test") is None
    add(registry, *(suppression(f"{number}@x.test") for number in range(300)))
    directory.refresh(NOW + timedelta(days=1))
    assert directory.snapshot.suppressed("acme", "299@x.test")
