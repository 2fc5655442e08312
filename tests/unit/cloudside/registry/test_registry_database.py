import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from registry_engines import Engine
from sqlalchemy import inspect, select
from sqlalchemy.exc import IntegrityError

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.registry.database import Database, Doorbell
from cloudside.registry.tables import Settings, Table, Tenant


def test_migrations_make_exactly_the_tables_in_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
        found = inspect(connection)
        names = {
            index["name"]
            for table in found.get_table_names()
            for index in found.get_indexes(table)
            if not index.get("duplicates_constraint")
        }
    assert names == {str(index.name) for table in Table.metadata.tables.values() for index in table.indexes}


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "registry.sqlite"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with sqlite3.connect(path) as raw:
        before = list(raw.execute("SELECT sql FROM sqlite_master"))
    raw.close()
    database.migrate()
    with sqlite3.connect(path) as raw:
        assert list(raw.execute("SELECT sql FROM sqlite_master")) == before
    raw.close()
    database.require_current()
    database.close()


def test_missing_file_is_named_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.sqlite"
    with pytest.raises(ConfigurationError) as caught:
        Database(f"sqlite:///{path}").require_current()
    assert caught.value.key == "registry.missing"
    assert caught.value.params == {"path": str(path)}
    assert not path.exists()


def _tenants(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Tenant.id)))


def test_registry_restored_from_a_backup_is_what_a_running_daemon_sees(registry_path: Path) -> None:
    database = Database(f"sqlite:///{registry_path}")
    assert _tenants(database) == []
    backup = registry_path.with_name("backup")
    with closing(sqlite3.connect(registry_path)) as raw, closing(sqlite3.connect(backup)) as copy:
        raw.backup(copy)
        copy.execute("INSERT INTO tenants VALUES ('acme', '10.10.0.0/16', '2026-11-21 00:00:00')")
        copy.commit()
    backup.rename(registry_path)
    assert _tenants(database) == ["acme"]


def test_registry_that_is_away_is_told_and_not_made_anew(registry_path: Path) -> None:
    database = Database(f"sqlite:///{registry_path}")
    assert _tenants(database) == []
    registry_path.unlink()
    for way in (database.read, database.write):
        with pytest.raises(UnavailableError) as caught, way():
            pass
        assert caught.value.key == "registry.unavailable"
    assert not registry_path.exists()


def test_older_schema_is_told_from_ours(database: Database, database_url: str, engine: Engine) -> None:
    engine.execute(database_url, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(ConfigurationError) as caught:
        database.require_current()
    assert caught.value.key == "registry.schema"
    assert caught.value.params["found"] == "0000"


def test_empty_file_has_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    database = Database(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError) as caught:
        database.require_current()
    database.close()
    assert caught.value.params["found"] == "-"


@pytest.mark.parametrize("act", ["require_current", "migrate"])
def test_file_that_is_no_database(tmp_path: Path, act: str) -> None:
    path = tmp_path / "letter.sqlite"
    content = b"Dear Sir or Madam, " * 300
    path.write_bytes(content)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError) as caught:
        getattr(database, act)()
    database.close()
    assert caught.value.key == "registry.damaged"
    assert caught.value.params["where"] == str(path)
    assert path.read_bytes() == content


def test_locked_registry_names_the_file(registry_path: Path) -> None:
    other = sqlite3.connect(registry_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database = Database(f"sqlite:///{registry_path}", lock_wait_s=0.05)
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught, database.write():
        pytest.fail("wrote beside another writer")
    assert time.monotonic() - started < 2
    assert caught.value.key == "registry.unavailable"
    assert caught.value.params["where"] == str(registry_path)
    with database.read() as session:  # readers go on
        assert session.scalars(select(Tenant)).all() == []
    other.execute("ROLLBACK")
    other.close()
    with database.write():
        pass
    database.close()


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError) as caught:
        Database(f"sqlite:///{tmp_path}/file/registry.sqlite").migrate()
    assert caught.value.params["where"] == str(tmp_path / "file" / "registry.sqlite")


def test_failed_write_leaves_nothing(populated: Database) -> None:
    with pytest.raises(RuntimeError), populated.write() as session:
        tenant = session.get(Tenant, "acme")
        assert tenant is not None
        session.delete(session.get(Tenant, "acme"))
        raise RuntimeError
    with populated.read() as session:
        assert session.get(Tenant, "acme") is not None


def test_an_error_of_the_database_tells_no_values(populated: Database) -> None:
    def state() -> None:
        with populated.write() as session:
            values = {"mobile.pin": "4711", "mobile.password": "hunter2"}
            session.add(
                Settings(site_id="none", version=1, values=values, author="alice", created_at=datetime.now(UTC))
            )

    with pytest.raises(IntegrityError) as failed:
        state()
    assert "4711" not in str(failed.value) and "hunter2" not in str(failed.value)


def test_what_a_session_returned_stays_usable_after_it(populated: Database) -> None:
    with populated.read() as session:
        tenant = session.get(Tenant, "acme")
    assert tenant is not None
    assert str(tenant.block) == "10.10.0.0/16"
    assert tenant.created_at.utcoffset() is not None


def test_reading_session_writes_nothing(populated: Database) -> None:
    with populated.read() as session:
        tenant = session.get(Tenant, "acme")
        assert tenant is not None
        session.delete(tenant)
    with populated.read() as session:
        assert session.get(Tenant, "acme") is not None


def test_doorbell_wakes_a_listener_and_needs_none(tmp_path: Path) -> None:
    bell = Doorbell(tmp_path, "gateway")
    bell.ring()
    with bell.listen() as listener:
        listener.setblocking(False)
        bell.ring()
        assert listener.recv(16) == b"\0"
    with bell.listen():  # the socket left behind is replaced
        bell.ring()
