"""A running Kyoten on its ground: the cloud's daemons, the routers' agents, and ways to use them.

The product is used as its users use it: the daemons by their commands, the CLI for what a person does. Only filling the
registry goes through the library in this process, because a command's start-up times twenty would be the longest part.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.config import load as load_config
from cloudside.pki import initialise
from cloudside.registry import devices, policies, reports, servers, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell
from cloudside.vpn.connections import CONNECTION
from lab import enrolled, ground, mail_hosts, topology
from lab.ground import Ground
from lab.mail_hosts import MailHosts
from lab.network import Host, LabError, Network, Process, wait_until
from lab.topology import Plan
from linux.charon import Charon
from linux.charon_process import socket_path
from linux.errors import CharonUnavailableError
from linux.runner import Finished

BINARIES = Path(sys.executable).parent

#: The daemons of the cloud, one process each, as in production.
CLOUD_DAEMONS = ("gateway", "web", "relay", "worker")


@dataclass(slots=True)
class World:
    """One world. Build it with `build`; it lives as long as its box, or until `close`."""

    plan: Plan
    ground: Ground
    config: Config
    config_path: Path
    bundles: dict[str, Path] = field(default_factory=dict)
    mail: MailHosts | None = None
    #: Where steps show what does not fit in a line.
    console: Console = field(default_factory=lambda: Console(quiet=True))

    @property
    def gateway(self) -> Host:
        """The VPN server; the cloud's daemons and the CLI run here."""
        return self.ground.gateway

    def kyoten(self, *words: str, stdin: str = "", timeout_s: float = 60.0, check: bool = True) -> Finished:
        """Run the `kyoten` command as an operator on the gateway host would."""
        return self.gateway.run([str(BINARIES / "kyoten"), *words], stdin=stdin, timeout_s=timeout_s, check=check)

    def kyoten_json(self, *words: str) -> Any:
        """The same with ``--json``, parsed."""
        return json.loads(self.kyoten(*words, "--json").stdout)

    def start_cloud(self) -> None:
        """Start every daemon of the cloud."""
        for name in CLOUD_DAEMONS:
            self.start_daemon(name)

    def start_daemon(self, name: str) -> Process:
        """Start (again) one daemon of the cloud."""
        return self.gateway.start(name, [str(BINARIES / "kyoten"), name])

    def start_agent(self, site: str) -> Process:
        """Start the agent on a site's router."""
        router = self.ground.sites[site].router
        return router.start("agent", [
            str(BINARIES / "kyoten-agent"), "run",
            "--bundle", str(self.bundles[site]),
            "--state", str(router.directory / "state"),
            "--runtime", str(router.directory / "run"),
            *AGENT_PACE,
        ])  # fmt: skip

    def sites_in_charon(self) -> set[str]:
        """Sites whose tunnel is up now, asked of the gateway's charon itself; empty while it is away."""
        charon = Charon(socket_path(self.config.runtime_directory / "charon"))
        try:
            return {
                sa.remote_id
                for sa in charon.sas(connection=CONNECTION)
                if any(child.state == "INSTALLED" for child in sa.children)
            }
        except CharonUnavailableError:
            return set()
        finally:
            charon.close()

    def charon_pid(self) -> int:
        """Process id of the gateway's charon."""
        return int((self.config.runtime_directory / "charon" / "charon.pid").read_text())

    def charon_log(self) -> str:
        """What the gateway's charon has logged so far."""
        return (self.config.runtime_directory / "charon" / "charon.log").read_text(errors="replace")

    def wait_for_tunnels(self, wanted: set[str], *, timeout_s: float) -> float:
        """Wait until these sites' tunnels are up; seconds it took."""
        what = f"tunnels of {', '.join(sorted(wanted))}"
        return wait_until(what, lambda: self.sites_in_charon() >= wanted, timeout_s=timeout_s)

    def mailbox(self, address: str) -> list[Message]:
        """What lies in a customer's mailbox, oldest first."""
        if self.mail is None:
            raise LabError("this world was started without its mail hosts")
        return self.mail.mailboxes.messages(address)

    def wait_until_served(self, *, timeout_s: float) -> float:
        """Wait until relay and agents' endpoint listen and every site has sent a heartbeat; seconds it took."""
        ports = {(topology.SERVICE_ADDRESS, port) for port in (25, 587, 8443)}
        wanted = {f"{address}:{port}" for address, port in ports}

        def listening() -> bool:
            shown = self.gateway.run(["ss", "-Hltn"]).stdout
            return wanted <= {line.split()[3] for line in shown.splitlines()}

        took = wait_until("relay and agents' endpoint listen", listening, timeout_s=timeout_s)
        names = set(self.ground.sites)
        return took + wait_until("a heartbeat of every site", lambda: self.heard_of() >= names, timeout_s=timeout_s)

    def heard_of(self) -> set[str]:
        """Sites that have sent a heartbeat through their tunnel, as the registry has it."""
        with self.reading() as session:
            found = reports.heartbeats(session, OPERATOR)
        return {site for site, beat in found.items() if beat.source in self.config.gateway.overlay}

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A reading session of the registry."""
        with closing(Database(self.config.registry_url)) as database, database.read() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A writing session of the registry; after the commit the gateway is told, as a command would."""
        with closing(Database(self.config.registry_url)) as database, database.write() as session:
            yield session
        Doorbell(self.config.runtime_directory, "gateway").ring()

    def close(self) -> None:
        """End everything of this world."""
        self.ground.network.close()


#: The lab is impatient: what takes minutes on a mobile line takes seconds here.
AGENT_PACE = ("--probe-s", "1", "--check-s", "2")


def build(
    plan: Plan, *, name: str = "w", settings_confirm_s: float = 8.0, queue_directory: Path | None = None
) -> World:
    """Lay the ground, write the configuration, fill the registry, enrol every site. Starts nothing yet."""
    network = Network(name)
    laid = ground.build(plan, network)
    config_path = network.directory / "kyoten.toml"
    config_path.write_text(_configuration(network.directory, settings_confirm_s, queue_directory))
    laid.gateway.environment["KYOTEN_CONFIG"] = str(config_path)
    credentials = network.directory / "ses-credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(f"{mail_hosts.SES_USER}\n{mail_hosts.SES_PASSWORD}\n")
    world = World(plan, laid, load_config(config_path), config_path)
    _fill_registry(world)
    return world


def _configuration(directory: Path, settings_confirm_s: float, queue_directory: Path | None) -> str:
    service, public = topology.SERVICE_ADDRESS, topology.GATEWAY_PUBLIC
    return f"""\
state_directory = "{directory}/cloud"
runtime_directory = "{directory}/cloud-run"

[gateway]
name = "gw1"
public_addresses = ["{public}"]
service_address = "{service}"
overlay = "{topology.OVERLAY}"
resync_s = 2.0
dpd_delay_s = 10

[web]
listen = [{{ address = "{service}", port = 8443 }}, {{ address = "{public}", port = 8443 }}]
heartbeat_wired_s = 1.0
heartbeat_mobile_s = 1.0
settings_confirm_s = {settings_confirm_s}

[relay]
site_listen = {{ address = "{service}", port = 25 }}
submission_listen = {{ address = "{service}", port = 587 }}
bounce_listen = {{ address = "{public}", port = 25 }}
bounce_domain = "{mail_hosts.BOUNCE_DOMAIN}"
host_name = "relay.kyoten.example"
smarthost = "{topology.SES_PUBLIC}"
smarthost_port = 587
smarthost_credentials = "{directory}/ses-credentials"
smarthost_ca = "{directory}/ses/ca.crt"
queue_directory = "{queue_directory or directory / "cloud" / "mail"}"
retry_first_s = 2.0
retry_later_s = 5.0
hourly_limit_per_site = 20

[alerts]
# Heartbeats come each second here: a gateway's restart shall not look like four silent sites.
silent_after_intervals = 30
staff = ["{mail_hosts.STAFF}"]
sender = "kyoten@kyoten.example"
"""


def _fill_registry(world: World) -> None:
    config, plan, now = world.config, world.plan, datetime.now(UTC)
    config.state_directory.mkdir(mode=0o700, parents=True)
    with closing(Database(config.registry_url)) as database:
        database.migrate()
    with world.writing() as session:
        initialise.initialise(session, config, now=now)
        for tenant, block in plan.tenants.items():
            tenants.add(session, OPERATOR, tenant_id=tenant, overlay=config.gateway.overlay, block=block, now=now)
        for site in plan.sites:
            sites.add(
                session, OPERATOR, site_id=site.name, tenant_id=site.tenant, lan=site.lan, overlay=site.overlay,
                phase=site.phase, timezone="Asia/Tokyo", now=now,
            )  # fmt: skip
            for device, lan_address in site.controllers.items():
                devices.add(session, OPERATOR, site_id=site.name, name=device, lan_address=lan_address)
        for server, (tenant_or_none, address) in plan.servers.items():
            servers.add(
                session, OPERATOR, server_id=server, address=address, overlay=config.gateway.overlay,
                tenant_id=tenant_or_none,
            )  # fmt: skip
        for tenant, text in plan.policies.items():
            policies.add_version(
                session, OPERATOR, tenant_id=tenant, text=text, file_name=f"{tenant}.yaml", author="lab", now=now
            )
    for site in plan.sites:
        enrol(world, site.name)


def enrol(world: World, site: str) -> Path:
    """Write the enrolment bundle of a registered site; returns and remembers its path."""
    output = world.ground.network.directory / f"{site}.bundle"
    with world.writing() as session:
        enrolled.enrol(session, world.config, site_id=site, output=output, now=datetime.now(UTC))
    world.bundles[site] = output
    return output
