"""A registry of its own for each test: a copy of one that was migrated once."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from cloudside.registry import devices, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OVERLAY = ip_network("10.0.0.0/8")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "registry.sqlite"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def registry_path(migrated: Path, tmp_path: Path) -> Path:
    path = tmp_path / "registry.sqlite"
    shutil.copy(migrated, path)
    return path


@pytest.fixture
def database(registry_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{registry_path}", lock_wait_s=5)
    yield database
    database.close()


@pytest.fixture(scope="session")
def populated_path(migrated: Path) -> Path:
    """Two tenants with a site each on the same LAN, a device each, a shared server and one of acme's own."""
    path = migrated.with_name("populated.sqlite")
    shutil.copy(migrated, path)
    database = Database(f"sqlite:///{path}")
    with database.write() as session:
        for tenant, block in (("acme", "10.10.0.0/16"), ("zenith", "10.20.0.0/16")):
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=OVERLAY, block=block, now=NOW)
        for site, tenant in (("tokyo-1", "acme"), ("osaka-1", "zenith")):
            sites.add(session, OPERATOR, site_id=site, tenant_id=tenant, lan="192.168.1.0/24", now=NOW)
            devices.add(session, OPERATOR, site_id=site, name="plc", lan_address="192.168.1.20")
        servers.add(session, OPERATOR, server_id="web", address="10.254.0.10", overlay=OVERLAY)
        servers.add(session, OPERATOR, server_id="db", address="10.254.0.11", tenant_id="acme", overlay=OVERLAY)
    database.close()
    return path


@pytest.fixture
def populated(populated_path: Path, tmp_path: Path) -> Iterator[Database]:
    """A copy of the populated registry."""
    path = tmp_path / "populated.sqlite"
    shutil.copy(populated_path, path)
    database = Database(f"sqlite:///{path}", lock_wait_s=5)
    yield database
    database.close()
