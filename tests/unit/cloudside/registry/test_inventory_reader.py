"""Reading again only what changed gives what reading everything gives."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from registry_engines import Engine
from sqlalchemy.orm import Session

from cloudside.errors import UnavailableError
from cloudside.registry import devices, grants, inventory, platform_policies, policies, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.inventory import InventoryReader, Snapshot
from cloudside.registry.revisions import SHARED
from cloudside.registry.tables import Policy, Site, Tenant
from rules import model
from rules.parts import parts_of

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OVERLAY = ip_network("10.0.0.0/8")


def _sites(found: Snapshot) -> list[str]:
    return sorted(site.name for part in found.parts.own.values() for site in part.sites)


def _read(database: Database, reader: InventoryReader, *, whole: bool = False) -> Snapshot:
    """What the reader finds, which must be what a reading of everything finds."""
    with database.read() as session:
        found = reader.read(session, whole=whole)
        assert found.parts == parts_of(inventory.load(session))
        assert found.policies == inventory.policy_sources(session)
        assert found.platform == inventory.platform_source(session)
    return found


def _policy(session: Session, tenant: str, text: str) -> None:
    policies.add_version(session, OPERATOR, tenant_id=tenant, text=text, file_name="f.yaml", author="ann", now=NOW)


def test_parts_are_one_tenants_and_what_all_share(populated: Database) -> None:
    with populated.write() as session:
        _policy(session, "acme", "old")
        _policy(session, "acme", "new")
        platform_policies.add_version(session, OPERATOR, text="p", file_name="p.yaml", author="ops", now=NOW)
    with populated.read() as session:
        assert inventory.load_tenant(session, "acme") == inventory.TenantPart(
            "acme",
            ip_network("10.10.0.0/16"),
            (model.Site("tokyo-1", "acme", ip_network("10.10.0.0/24")),),
            (model.Device("tokyo-1", "plc", ip_address("10.10.0.20")),),
            (model.Server("db", "acme", ip_address("10.254.0.11")),),
            model.PolicySource("acme", "f.yaml", "new"),
        )
        zenith = inventory.load_tenant(session, "zenith")
        assert zenith is not None
        assert (zenith.servers, zenith.policy) == ((), None)
        assert inventory.load_tenant(session, "nobody") is None
        assert inventory.load_shared(session) == inventory.SharedPart(
            (model.Server("web", None, ip_address("10.254.0.10")),), model.PlatformSource("p.yaml", "p")
        )


def test_first_reading_is_whole_and_the_next_finds_nothing_new(populated: Database) -> None:
    reader = InventoryReader()
    first = _read(populated, reader)
    assert first.changed == {SHARED, "acme", "zenith"}
    second = _read(populated, reader)
    assert second.changed == frozenset()
    assert second.parts.shared is first.parts.shared
    assert all(second.parts.own[tenant] is part for tenant, part in first.parts.own.items())


_CHANGES: dict[str, tuple[Callable[[Session], object], set[str]]] = {
    "site": (lambda s: sites.add(s, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW), {"acme"}),
    "site retired": (lambda s: sites.change(s, OPERATOR, site_id="tokyo-1", phase="retired"), {"acme"}),
    "site moved": (
        lambda s: setattr(sites.get(s, OPERATOR, "tokyo-1"), "tenant_id", "zenith"),
        {"acme", "zenith"},
    ),
    "device": (
        lambda s: devices.add(s, OPERATOR, site_id="osaka-1", name="a", lan_address="192.168.1.9"),
        {"zenith"},
    ),
    "device removed": (lambda s: devices.remove(s, OPERATOR, site_id="osaka-1", name="plc"), {"zenith"}),
    "server": (
        lambda s: servers.add(s, OPERATOR, server_id="a", address="10.254.0.9", tenant_id="acme", overlay=OVERLAY),
        {"acme"},
    ),
    "shared server removed": (lambda s: servers.remove(s, OPERATOR, server_id="web"), {SHARED}),
    "server offered to all": (
        lambda s: setattr(servers.get(s, OPERATOR, "db"), "tenant_id", None),
        {SHARED, "acme"},
    ),
    "policy": (lambda s: _policy(s, "zenith", "text"), {"zenith"}),
    "platform": (
        lambda s: platform_policies.add_version(s, OPERATOR, text="p", file_name="p", author="o", now=NOW),
        {SHARED},
    ),
    "tenant": (lambda s: tenants.add(s, OPERATOR, tenant_id="b", overlay=OVERLAY, now=NOW), {"b"}),
    "grant": (
        lambda s: grants.add(
            s, OPERATOR, grant_id="01", tenant_id="acme", source="web", destination="tokyo-1", services="ssh",
            starts_at=NOW, ends_at=NOW + timedelta(hours=1), reason="r", author="a", overlay=OVERLAY, now=NOW,
        ),
        {"acme"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _CHANGES)
@pytest.mark.parametrize("whole", [False, True])
def test_a_change_is_read_and_named(populated: Database, name: str, whole: bool) -> None:
    reader = InventoryReader()
    _read(populated, reader)
    act, scopes = _CHANGES[name]
    with populated.write() as session:
        act(session)
    assert _read(populated, reader, whole=whole).changed == scopes
    assert _read(populated, reader).changed == frozenset()


def test_tenant_that_went_is_gone(populated: Database) -> None:
    reader = InventoryReader()
    with populated.write() as session:
        tenants.add(session, OPERATOR, tenant_id="new", overlay=OVERLAY, now=NOW)
    _read(populated, reader)
    with populated.write() as session:
        session.delete(session.get(Tenant, "new"))
    found = _read(populated, reader)
    assert found.changed == {"new"}
    assert "new" not in found.parts.own


def test_only_what_changed_is_read_again(populated: Database, populated_url: str, engine: Engine) -> None:
    """The other tenant's site changes without a mark: nobody looks, until everything is looked at."""
    reader = InventoryReader()
    with populated.write() as session:
        _policy(session, "zenith", "text")
    first = _read(populated, reader)
    engine.execute(populated_url, "UPDATE sites SET phase = 'retired' WHERE id = 'osaka-1'")
    with populated.write() as session:
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
    with populated.read() as session:
        found = reader.read(session)
    assert _sites(found) == ["kobe-1", "osaka-1", "tokyo-1"]
    assert found.policies[0] is first.policies[0]
    whole = _read(populated, reader, whole=True)
    assert whole.changed == {"zenith"}
    assert _sites(whole) == ["kobe-1", "tokyo-1"]


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_equal_stays_the_very_object(populated: Database, whole: bool) -> None:
    reader = InventoryReader()
    with populated.write() as session:
        _policy(session, "acme", "text")
    first = _read(populated, reader)
    with populated.write() as session:
        sites.change(session, OPERATOR, site_id="tokyo-1", timezone="Asia/Tokyo")
    found = _read(populated, reader, whole=whole)
    assert found.changed == {"acme"}  # marked, though nothing came of it
    assert all(found.parts.own[tenant] is part for tenant, part in first.parts.own.items())
    with populated.write() as session:
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
    assert _read(populated, reader, whole=whole).policies[0] is first.policies[0]


def test_registry_restored_from_a_backup_is_read_again(populated_path: Path, tmp_path: Path) -> None:
    """As many writes after the restore as before it: a counter would be where it was."""
    path, backup = populated_path, tmp_path / "backup.sqlite"
    populated = Database(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as raw, closing(sqlite3.connect(backup)) as copy:
        raw.backup(copy)
    reader = InventoryReader()
    with populated.write() as session:
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
    _read(populated, reader)
    backup.rename(path)
    for left in ("-wal", "-shm"):
        path.with_name(path.name + left).unlink(missing_ok=True)
    with populated.write() as session:
        sites.add(session, OPERATOR, site_id="nara-1", tenant_id="acme", now=NOW)
    found = _read(populated, reader)
    assert found.changed == {"acme"}
    assert _sites(found) == ["nara-1", "osaka-1", "tokyo-1"]


def test_tenant_that_a_restored_registry_does_not_know_is_gone(populated_path: Path, tmp_path: Path) -> None:
    path, backup = populated_path, tmp_path / "backup.sqlite"
    populated = Database(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as raw, closing(sqlite3.connect(backup)) as copy:
        raw.backup(copy)
    reader = InventoryReader()
    with populated.write() as session:
        tenants.add(session, OPERATOR, tenant_id="new", overlay=OVERLAY, now=NOW)
    assert "new" in _read(populated, reader).parts.own
    backup.rename(path)
    assert _read(populated, reader).changed == {"new"}


def test_looking_at_everything_finds_what_is_shared_too(
    populated: Database, populated_url: str, engine: Engine
) -> None:
    reader = InventoryReader()
    _read(populated, reader)
    engine.execute(populated_url, "UPDATE servers SET address = '10.254.0.99' WHERE id = 'web'")
    assert _read(populated, reader, whole=True).changed == {SHARED}


def test_highest_version_is_in_force_in_whatever_order_rows_lie(populated: Database) -> None:
    with populated.write() as session:
        for version in (3, 2):
            session.add(
                Policy(tenant_id="acme", version=version, text=str(version), file_name="", author="", applied_at=NOW)
            )
            session.flush()
    with populated.read() as session:
        part = inventory.load_tenant(session, "acme")
        assert part is not None
        assert part.policy == model.PolicySource("acme", "", "3")
        assert inventory.policy_sources(session) == (part.policy,)


def test_reading_that_fails_is_made_up_for(populated: Database, populated_url: str, engine: Engine) -> None:
    reader = InventoryReader()
    _read(populated, reader)
    with populated.write() as session:
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
    engine.execute(populated_url, "ALTER TABLE policies RENAME TO away")
    with pytest.raises(UnavailableError), populated.read() as session:
        reader.read(session)
    engine.execute(populated_url, "ALTER TABLE away RENAME TO policies")
    assert _read(populated, reader).changed == {"acme"}


def test_what_a_writing_session_has_not_flushed_is_seen(populated: Database) -> None:
    with populated.write() as session:
        sites.get(session, OPERATOR, "tokyo-1").revoked_at = NOW
        assert [site.name for site in inventory.load(session).sites] == ["osaka-1"]


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_changes_is_followed(populated: Database, seed: int) -> None:
    """Many tenants, so that the reader exchanges parts at times and reads everything at others."""
    chance = random.Random(seed)
    reader = InventoryReader()
    with populated.write() as session:
        for number in range(60):
            block = ip_network(f"10.{100 + number}.0.0/16")
            session.add(Tenant(id=f"t{number}", block=block, created_at=NOW))
        session.flush()
        for number in range(180):
            overlay = ip_network(f"10.{100 + number % 60}.{number // 60}.0/24")
            owner = f"t{number % 60}"
            session.add(Site(id=f"s{number}", tenant_id=owner, overlay=overlay, lan=overlay, created_at=NOW))
    _read(populated, reader)
    for _ in range(12):
        with populated.write() as session:
            touched: set[str] = set()
            for _ in range(chance.choice((1, 2, 80))):
                site = sites.get(session, OPERATOR, f"s{chance.randrange(180)}")
                touched.add(site.tenant_id)
                match chance.randrange(4):
                    case 0:
                        site.tenant_id = f"t{chance.randrange(60)}"
                        touched.add(site.tenant_id)
                    case 1:
                        site.revoked_at = NOW if site.revoked_at is None else None
                    case 2:
                        _policy(session, site.tenant_id, str(chance.random()))
                    case _:
                        name = f"d{chance.randrange(10**9)}"
                        address = str(site.lan.network_address + chance.randrange(2, 250))
                        if all(str(one.lan_address) != address for one in devices.every(session, OPERATOR)):
                            devices.add(session, OPERATOR, site_id=site.id, name=name, lan_address=address)
        assert _read(populated, reader).changed <= touched
