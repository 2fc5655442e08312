"""Hosts, links and processes inside a box.

A host is a network namespace; a link is a veth pair, or a bridge for a LAN. Names of namespaces carry the network's
name, so several networks live side by side in one box. Everything is started by argv and ended by process id.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

from lab import box
from linux.runner import Finished, SubprocessRunner

Interface = IPv4Interface | IPv6Interface


class LabError(Exception):
    """The world could not be built, or something in it did not come up in time; the text names it."""


class Process:
    """A daemon started on a host. Its output goes to ``log``."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        """Process id within the box."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def rss_mib(self) -> float:
        """Resident memory in MiB, of this process alone."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise LabError(f"{self.name} has ended; see {self.log}")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, *, timeout_s: float = 5.0) -> int:
        """End it politely (SIGTERM), by force after ``timeout_s``; returns its exit status."""
        if self.running:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Host:
    """One machine of the world: a network namespace and the processes started in it."""

    def __init__(self, name: str, namespace: str, directory: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.directory = directory
        self.environment: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self._runner = SubprocessRunner(("ip", "netns", "exec", namespace))

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0, check: bool = True) -> Finished:
        """Run a program on this host to its end (see linux.runner)."""
        prefix = ["env", *(f"{key}={value}" for key, value in self.environment.items())] if self.environment else []
        return self._runner.run([*prefix, *argv], stdin=stdin, timeout_s=timeout_s, check=check)

    def ip(self, *words: str) -> Finished:
        """``ip`` on this host: ``host.ip("route", "add", ...)``."""
        return SubprocessRunner().run(["ip", "-n", self.namespace, *words])

    def start(self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Process:
        """Start a daemon on this host; its log is ``<directory>/<name>.log``, appended to."""
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *argv],
                env={**os.environ, **self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.processes[name] = process
        return process

    def set_sysctl(self, key: str, value: str) -> None:
        """Set a kernel parameter of this namespace."""
        self.run(["sysctl", "-q", "-w", f"{key}={value}"])


class Network:
    """A set of hosts and links with a directory for their files."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        self.name = name
        self.directory = (directory or box.directory()) / name
        self.directory.mkdir(parents=True)
        self.hosts: dict[str, Host] = {}

    def add_host(self, name: str, *, forwards: bool = False) -> Host:
        """A new host with its loopback up; ``forwards``: it routes packets between its interfaces."""
        namespace = f"{self.name}-{name}"
        directory = self.directory / name
        directory.mkdir()
        host = Host(name, namespace, directory)
        runner = SubprocessRunner()
        runner.run(["ip", "netns", "add", namespace])
        host.ip("link", "set", "lo", "up")
        if forwards:
            host.set_sysctl("net.ipv4.ip_forward", "1")
        self.hosts[name] = host
        return host

    def link(self, left: Host, left_interface: str, right: Host, right_interface: str) -> None:
        """A cable between two hosts, both ends up, no addresses yet."""
        SubprocessRunner().run([
            "ip", "link", "add", left_interface, "netns", left.namespace, "type", "veth",
            "peer", "name", right_interface, "netns", right.namespace,
        ])  # fmt: skip
        left.ip("link", "set", left_interface, "up")
        right.ip("link", "set", right_interface, "up")

    def switch(self, host: Host, bridge: str, members: Sequence[tuple[Host, str]]) -> None:
        """A switch inside ``host`` (a bridge named ``bridge``), with a cable to each member's interface."""
        host.ip("link", "add", bridge, "type", "bridge")
        # A switch is another device in the real world: its frames are not the host's packet filter's business.
        host.run(["sysctl", "-q", "-e", "-w", "net.bridge.bridge-nf-call-iptables=0"])
        host.ip("link", "set", bridge, "up")
        for number, (member, interface) in enumerate(members):
            port = f"{bridge}p{number}"
            self.link(host, port, member, interface)
            host.ip("link", "set", port, "master", bridge)

    def processes(self) -> list[Process]:
        """Every process started and not yet ended."""
        return [process for host in self.hosts.values() for process in host.processes.values() if process.running]

    def close(self) -> None:
        """End all processes of all hosts and remove the namespaces. (A box does this by itself when it ends.)"""
        for process in self.processes():
            process.stop(timeout_s=2)
        for host in self.hosts.values():
            # Daemons that left their parent (charon, sshd's sessions) are found by the namespace they live in.
            for pid in SubprocessRunner().run(["ip", "netns", "pids", host.namespace]).stdout.split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            SubprocessRunner().run(["ip", "netns", "del", host.namespace], check=False)


def address(host: Host, interface: str, text: str) -> Interface:
    """Give an interface an address such as ``192.0.2.1/24``."""
    parsed = ip_interface(text)
    host.ip("addr", "add", str(parsed), "dev", interface)
    return parsed


def default_route(host: Host, gateway: str, *, metric: int = 0) -> None:
    """Send everything else to ``gateway``."""
    host.ip("route", "add", "default", "via", gateway, *(("metric", str(metric)) if metric else ()))


def wait_until(what: str, condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.05) -> float:
    """Wait for a condition; returns the seconds it took. Raises LabError naming ``what`` when time is up."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise LabError(f"{what}: not so after {timeout_s:g} s")
        time.sleep(every_s)
    return time.monotonic() - start
