"""A registry of its own for each test, on each engine: a copy of one that was filled once.

A test that takes ``database`` or ``populated`` runs on SQLite and on PostgreSQL.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from registry_engines import Engine, PostgresqlEngine, SqliteEngine, path_of

from cloudside.registry import devices, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from lab.postgresql import PostgresqlServer, postgresql_server

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OVERLAY = ip_network("10.0.0.0/8")


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresqlServer]:
    with postgresql_server() as running:
        yield running


@pytest.fixture(scope="session")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> SqliteEngine:
    return SqliteEngine(tmp_path_factory.mktemp("registries"))


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "postgresql":
        return PostgresqlEngine(request.getfixturevalue("server"))
    found: SqliteEngine = request.getfixturevalue("sqlite_engine")
    return found


@pytest.fixture(scope="session")
def migrated(engine: Engine) -> str:
    return _migrated(engine)


@pytest.fixture(scope="session")
def populated_template(engine: Engine, migrated: str) -> str:
    url = engine.new(migrated)
    _populate(url)
    return url


@pytest.fixture
def database_url(engine: Engine, migrated: str) -> Iterator[str]:
    url = engine.new(migrated)
    yield url
    engine.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty registry."""
    with closing(Database(database_url, lock_wait_s=5)) as database:
        yield database


@pytest.fixture
def populated_url(engine: Engine, populated_template: str) -> Iterator[str]:
    url = engine.new(populated_template)
    yield url
    engine.drop(url)


@pytest.fixture
def populated(populated_url: str) -> Iterator[Database]:
    """Two tenants with a site each on the same LAN, a device each, a shared server and one of acme's own."""
    with closing(Database(populated_url, lock_wait_s=5)) as database:
        yield database


@pytest.fixture(scope="session")
def populated_postgresql(server: PostgresqlServer) -> str:
    """For what only a server can do: a populated registry to copy."""
    engine = PostgresqlEngine(server, "prepared")
    url = _migrated(engine)
    _populate(url)
    return url


@pytest.fixture(scope="session")
def sqlite_migrated(sqlite_engine: SqliteEngine) -> str:
    return _migrated(sqlite_engine)


@pytest.fixture
def registry_path(sqlite_engine: SqliteEngine, sqlite_migrated: str) -> Path:
    """For what only a file can suffer: an empty registry of SQLite's."""
    return path_of(sqlite_engine.new(sqlite_migrated))


@pytest.fixture
def populated_path(registry_path: Path) -> Path:
    """The same, populated."""
    _populate(f"sqlite:///{registry_path}")
    return registry_path


def _migrated(engine: Engine) -> str:
    url = engine.new()
    with closing(Database(url)) as database:
        database.migrate()
    return url


def _populate(url: str) -> None:
    with closing(Database(url)) as database, database.write() as session:
        for tenant, block in (("acme", "10.10.0.0/16"), ("zenith", "10.20.0.0/16")):
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=OVERLAY, block=block, now=NOW)
        for site, tenant in (("tokyo-1", "acme"), ("osaka-1", "zenith")):
            sites.add(session, OPERATOR, site_id=site, tenant_id=tenant, lan="192.168.1.0/24", now=NOW)
            devices.add(session, OPERATOR, site_id=site, name="plc", lan_address="192.168.1.20")
        servers.add(session, OPERATOR, server_id="web", address="10.254.0.10", overlay=OVERLAY)
        servers.add(session, OPERATOR, server_id="db", address="10.254.0.11", tenant_id="acme", overlay=OVERLAY)
