"""What can be made before the machine boots: configuration, registry and bundles of the lab's small world.

Emulated, a Python process takes half a minute to fill a registry; on the host it takes one second. The machine sees the
files at the same path and keeps its changes to itself.
"""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cloudside import config
from cloudside.pki import initialise
from cloudside.registry import devices, policies, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from lab import enrolled, topology

_CONFIGURATION = """\
state_directory = "{directory}/cloud"
runtime_directory = "/run/kyoten"

[gateway]
public_addresses = ["{public}"]
service_address = "{service}"
overlay = "{overlay}"
# Emulated, each look takes seconds: no more of them than are needed.
resync_s = 20.0
dpd_delay_s = 60

[web]
listen = [{{ address = "{service}", port = 8443 }}]
"""


def prepare(directory: Path) -> None:
    """Fill ``directory``: ``kyoten.toml``, ``cloud/``, and ``<site>.bundle`` for each site of `topology.SMALL`."""
    plan = topology.SMALL
    path = directory / "kyoten.toml"
    path.write_text(
        _CONFIGURATION.format(
            directory=directory,
            public=topology.GATEWAY_PUBLIC,
            service=topology.SERVICE_ADDRESS,
            overlay=topology.OVERLAY,
        )
    )
    wanted = config.load(path)
    wanted.state_directory.mkdir(mode=0o700)
    now = datetime.now(UTC)
    with closing(Database(wanted.registry_url)) as database:
        database.migrate()
        with database.write() as session:
            initialise.initialise(session, wanted, now=now)
            for tenant, block in plan.tenants.items():
                tenants.add(session, OPERATOR, tenant_id=tenant, overlay=topology.OVERLAY, block=block, now=now)
            for site in plan.sites:
                sites.add(
                    session, OPERATOR, site_id=site.name, tenant_id=site.tenant, lan=site.lan, overlay=site.overlay,
                    phase=site.phase, timezone="Asia/Tokyo", now=now,
                )  # fmt: skip
                for device, address in site.controllers.items():
                    devices.add(session, OPERATOR, site_id=site.name, name=device, lan_address=address)
            for server, (tenant_or_none, address) in plan.servers.items():
                servers.add(
                    session, OPERATOR, server_id=server, address=address, overlay=topology.OVERLAY,
                    tenant_id=tenant_or_none,
                )  # fmt: skip
            for tenant, text in plan.policies.items():
                policies.add_version(
                    session, OPERATOR, tenant_id=tenant, text=text, file_name=f"{tenant}.yaml", author="vm", now=now
                )
        with database.write() as session:
            for site in plan.sites:
                bundle = directory / f"{site.name}.bundle"
                enrolled.enrol(session, wanted, site_id=site.name, output=bundle, now=now)
