"""Runs one dnsmasq for the LAN with a configuration of its own; starts it again when it dies, with pauses.

One that runs from an earlier agent with the same configuration is adopted: a restart of the agent is not seen on the
LAN. Without DHCP nothing runs.
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from linux.errors import LinuxError
from linux.files import write_durably
from linux.neighbours import neighbours
from router_agent.backoff import Backoff
from router_agent.bundle import Address, Network
from router_agent.lan import configuration
from router_agent.lan.configuration import Service
from router_agent.lan.devices import LanDevice, Neighbour, known
from router_agent.lan.settings import LanSettings
from router_agent.problems import Problem

_log = logging.getLogger(__name__)

PROGRAM = Path("/usr/sbin/dnsmasq")

_AGAIN = Backoff(1, 60)
#: A dnsmasq that ran this long was healthy: its death is not counted with earlier ones. Seconds.
_SETTLED_S = 30.0


class LanKeeper:
    """DHCP on one interface, and the devices behind it. Its files are in ``runtime``, the leases in ``state``."""

    def __init__(self, lan: Network, *, interface: str, runtime: Path, state: Path, uplinks: frozenset[str]) -> None:
        assert interface not in uplinks, "DHCP towards the Internet"  # noqa: S101 - a bug, not a setting
        self._lan = lan
        self._interface = interface
        self._runtime = runtime
        self._lease_file = state / "dhcp.leases"
        self._settings = LanSettings()
        self._child: subprocess.Popen[bytes] | None = None
        self._wanted: str | None = None
        self._failures = 0
        self._started_at = 0.0
        self._start_at = 0.0

    @property
    def serves(self) -> bool:
        """Whether DHCP is on: then the packet filter lets its requests in from the LAN."""
        return self._settings.dhcp

    @property
    def pid(self) -> int | None:
        """dnsmasq's process id, or None."""
        if self._child is not None:
            self._child.poll()
        try:
            pid = int((self._runtime / "dnsmasq.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        except (OSError, ValueError):
            # Between its start and its pid file it is known by our handle only.
            return self._child.pid if self._child is not None and self._child.returncode is None else None
        return pid if str(self._configuration_path) in command else None

    def configure(self, settings: LanSettings) -> None:
        """Use these settings from the next `ensure` on."""
        self._settings = settings

    def ensure(self, now: float, roll: float, addresses: tuple[Address, ...]) -> tuple[Problem, ...]:
        """Bring dnsmasq to the settings; what stands in the way. ``addresses``: the LAN interface's own."""
        service, problems = configuration.plan(self._settings, self._lan, addresses)
        wanted = None if service is None else self._rendered(service)
        if wanted is None:
            if self.pid is not None:
                self.stop()
                _log.info("DHCP is off")
            self._wanted = None
            self._failures = 0
            return tuple(problems)
        if self.pid is not None and wanted == self._running_configuration():
            self._wanted = wanted
            if now - self._started_at > _SETTLED_S:
                self._failures = 0
            elif self._failures:
                problems.append(Problem("agent.dhcp-down", {"failures": self._failures}))
            return tuple(problems)
        self._replace(wanted, now, roll)
        if self._failures:
            problems.append(Problem("agent.dhcp-down", {"failures": self._failures}))
        return tuple(problems)

    def devices(self, *, wall_clock: float) -> tuple[LanDevice, ...]:
        """Who is on the LAN; ``wall_clock``: seconds since the epoch, as leases are written."""
        try:
            leases = configuration.leases(self._lease_file.read_text(errors="replace"), now=wall_clock)
        except OSError:
            leases = ()
        try:
            heard = [
                Neighbour(found.mac, found.address, found.heard_s)
                for found in neighbours(self._interface, version=self._lan.version)
                if found.address in self._lan
            ]
        except LinuxError as error:
            _log.debug("neighbours: %s", error)
            heard = []
        stated: Mapping[str, Address] = dict(self._settings.devices)
        return known(
            reservations=self._settings.reservations,
            stated=stated,
            leases=leases if self._settings.dhcp else (),
            neighbours=heard,
        )

    def stop(self, wait_s: float = 3.0) -> None:
        """End dnsmasq and wait for it. Leases stay."""
        pid = self.pid
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + wait_s
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)

    @property
    def _configuration_path(self) -> Path:
        return self._runtime / "dnsmasq.conf"

    def _rendered(self, service: Service) -> str:
        return configuration.render(
            service,
            interface=self._interface,
            pid_file=self._runtime / "dnsmasq.pid",
            lease_file=self._lease_file,
        )

    def _running_configuration(self) -> str:
        try:
            return self._configuration_path.read_text()
        except OSError:
            return ""

    def _replace(self, wanted: str, now: float, roll: float) -> None:
        if wanted == self._wanted:
            if now < self._start_at:
                return
            self._failures += 1
            _log.warning("dnsmasq is not there (%d times): starting it", self._failures)
        else:
            self._failures = 0
        self._wanted = wanted
        self._start_at = now + _AGAIN.delay_s(self._failures + 1, roll)
        self._started_at = now
        try:
            self.stop()
            write_durably(self._configuration_path, wanted.encode())
            (self._runtime / "dnsmasq.pid").unlink(missing_ok=True)
            with (self._runtime / "dnsmasq.log").open("wb") as log:
                self._child = subprocess.Popen(
                    [
                        str(PROGRAM),
                        "--keep-in-foreground",
                        "--log-facility=-",
                        f"--conf-file={self._configuration_path}",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            self._failures += 1
            _log.error("dnsmasq cannot be started: %s", error)
        else:
            _log.info("DHCP is on: %s", self._interface)
