"""A fleet of two sites on a temporary registry, enrolled through the real PKI, and the endpoint on loopback."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from fleet_cloud import NOW, Cloud, Endpoint, Enrolled, free_port, until_listening

from cloudside import config as configuration
from cloudside.fleet import heartbeat, tls, web
from cloudside.fleet.endpoint import application
from cloudside.pki import initialise, published
from cloudside.registry import sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database


def _config(state: Path, port: int) -> configuration.Config:
    return configuration.Config(
        state_directory=state,
        runtime_directory=state,
        gateway=configuration.Gateway(public_addresses=("203.0.113.2",)),
        web=configuration.Web(listen=(configuration.Listen(address=ip_address("127.0.0.1"), port=port),)),
    )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with two tenants and a site each; made once and copied, because migrating takes a while."""
    state = tmp_path_factory.mktemp("state")
    config = _config(state, 8443)
    database = Database(config.registry_url)
    database.migrate()
    with database.write() as session:
        initialise.initialise(session, config, now=NOW)
        for tenant in ("acme", "birch"):
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=config.gateway.overlay, now=NOW)
        sites.add(session, OPERATOR, site_id="tokyo-1", tenant_id="acme", now=NOW)
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="birch", now=NOW)
    database.close()
    return state


@pytest.fixture
def cloud(prepared: Path, tmp_path: Path) -> Iterator[Cloud]:
    state = Path(shutil.copytree(prepared, tmp_path / "state"))
    config = _config(state, free_port())
    database = Database(config.registry_url, lock_wait_s=0.2)
    yield Cloud(config, database)
    database.close()


@pytest.fixture
def tokyo(cloud: Cloud, tmp_path: Path) -> Enrolled:
    return cloud.enrol("tokyo-1", tmp_path)


@pytest.fixture
def kobe(cloud: Cloud, tmp_path: Path) -> Enrolled:
    return cloud.enrol("kobe-1", tmp_path)


@pytest.fixture
async def endpoint(cloud: Cloud) -> AsyncIterator[Endpoint]:
    files = published.endpoint_files(cloud.config)
    intervals = heartbeat.Intervals(wired_s=30, mobile_s=120, confirm_s=60)
    stop = asyncio.Event()
    serving = asyncio.create_task(
        web.serve(
            application(cloud.database, cloud.config, intervals, clock=lambda: cloud.now),
            tls.server_context(files.chain, files.key, files.root),
            cloud.config.web.listen,
            stop,
        )
    )
    port = cloud.config.web.listen[0].port
    await until_listening(port)
    yield Endpoint(port, files.root)
    stop.set()
    await serving
