"""An initialised installation with one site, made once and copied for each test: its registry and its key files."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pki_installation import Installation, configure

from cloudside.pki.enrolment import prepare_tenant
from cloudside.pki.initialise import initialise
from cloudside.registry import sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> Path:
    directory = tmp_path_factory.mktemp("installation") / "state"
    config = configure(directory)
    database = Database(config.registry_url)
    database.migrate()
    with database.write() as session:
        initialise(session, config, now=now)
        for tenant, block in (("acme", "10.10.0.0/16"), ("zenith", "10.20.0.0/16")):
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=config.gateway.overlay, block=block, now=now)
            prepare_tenant(session, config, OPERATOR, tenant_id=tenant, now=now)
        sites.add(session, OPERATOR, site_id="tokyo-1", tenant_id="acme", lan="192.168.1.0/24", now=now)
        sites.add(session, OPERATOR, site_id="osaka-1", tenant_id="zenith", lan="192.168.1.0/24", now=now)
    database.close()
    return directory


@pytest.fixture
def installation(template: Path, tmp_path: Path, now: datetime) -> Iterator[Installation]:
    config = configure(tmp_path / "state")
    shutil.copytree(template, config.state_directory)
    database = Database(config.registry_url)
    yield Installation(config, database, now)
    database.close()
