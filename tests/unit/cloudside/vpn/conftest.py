"""A small installation: registry with two tenants and three sites, PKI made."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from cloudside.config import Config
from cloudside.pki import enrolment, initialise
from cloudside.registry import policies, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

NOW = datetime.now(UTC)
POLICIES = {
    "acme": "tenant: acme\nallow:\n  - {from: tokyo, to: [osaka, web], services: [http]}\n",
    "birch": "tenant: birch\nallow:\n  - {from: nagoya, to: web, services: [ping]}\n",
}


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("installation")
    config = Config(state_directory=directory)
    database = Database(config.registry_url)
    database.migrate()
    with database.write() as session:
        initialise.initialise(session, config, now=NOW)
        for tenant, block in (("acme", "10.10.0.0/16"), ("birch", "10.20.0.0/16")):
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=config.gateway.overlay, block=block, now=NOW)
            enrolment.prepare_tenant(session, config, OPERATOR, tenant_id=tenant, now=NOW)
        for site, tenant, overlay in (
            ("tokyo", "acme", "10.10.1.0/24"),
            ("osaka", "acme", "10.10.2.0/24"),
            ("nagoya", "birch", "10.20.1.0/24"),
        ):
            sites.add(session, OPERATOR, site_id=site, tenant_id=tenant, overlay=overlay, now=NOW)
        servers.add(
            session, OPERATOR, server_id="web", address=ip_address("10.255.0.10"), overlay=config.gateway.overlay,
            tenant_id=None,
        )  # fmt: skip
        for tenant, text in POLICIES.items():
            policies.add_version(
                session, OPERATOR, tenant_id=tenant, text=text, file_name="p.yaml", author="t", now=NOW
            )
    database.close()
    return directory


@pytest.fixture
def config(installation: Path, tmp_path: Path) -> Config:
    state = tmp_path / "state"
    shutil.copytree(installation, state)
    return Config(state_directory=state, runtime_directory=tmp_path / "run")


@pytest.fixture
def database(config: Config) -> Iterator[Database]:
    database = Database(config.registry_url)
    yield database
    database.close()
