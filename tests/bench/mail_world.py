"""A relay and a Postfix side by side on loopback, one smtp-sink behind both, their queues on the same disk.

Each daemon has an address of its own; smtp-source comes from 127.0.0.1, which is an address of the site ``bench``.
The relay is `kyoten relay` with a configuration file, in a process (or several) of its own, its log in a file; Postfix
keeps Debian's durable defaults. What differs from a relay in production is listed in ``SETTINGS``.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median

from cloudside.config import Config
from cloudside.config import load as load_config
from cloudside.pki import initialise
from cloudside.registry.database import Database
from cloudside.registry.tables import Site, Tenant
from lab import box
from lab.mail import PlainRelay
from lab.network import LabError, wait_until

RELAY, POSTFIX, SINK = IPv4Address("127.0.40.1"), IPv4Address("127.0.41.1"), IPv4Address("127.0.42.1")
SINK_PORT = 2525
TENANT, BLOCK = "bench", IPv4Network("127.0.0.0/9")
#: Site -> where it sends from. The kernel takes 127.0.0.1 for a client that does not say.
SITES = {"bench": IPv4Network("127.0.0.0/24"), "idle": IPv4Network("127.1.0.0/16")} | {
    f"alarm-{number}": IPv4Network(f"127.2.{number}.0/24") for number in range(10)
}
SENDER, RECIPIENT = "plc@site.example", "ops@customer.example"
#: Octets of a mail's body in all throughput figures.
BODY_BYTES = 10_240
START_S = 30.0

#: A process a core takes mail. And what a relay in production does not have: no limits for the one site that sends
#: everything, a smarthost without TLS and login, as many connections to it as Postfix makes by default
#: (default_destination_concurrency_limit).
SETTINGS: dict[str, object] = {
    "intake_processes": 2,
    "smarthost": str(SINK),
    "smarthost_port": SINK_PORT,
    "smarthost_tls": False,
    "smarthost_connections": 20,
    "rate_per_minute": 100_000_000,
    "connections_max": 11_000,
    "connections_per_site": 11_000,
    "hourly_limit_per_site": 1_000_000_000,
    "daily_limit_per_site": 1_000_000_000,
}


def toml(values: Mapping[str, object]) -> str:
    """``name = value`` lines of what a configuration file needs: texts, numbers, switches, listeners."""
    lines = []
    for name, value in values.items():
        if isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        elif isinstance(value, int | float):
            lines.append(f"{name} = {value}")
        elif isinstance(value, tuple):
            lines.append(f'{name} = {{ address = "{value[0]}", port = {value[1]} }}')
        else:
            lines.append(f'{name} = "{value}"')
    return "\n".join(lines) + "\n"


def listens(address: IPv4Address, port: int) -> bool:
    """Whether something listens there."""
    shown = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return f"{address}:{port}" in shown


def allow_many_files() -> None:
    """Let this process (and what it starts) open as many files as root allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass
class Relay:
    """`kyoten relay` in a directory of its own. ``more``: lines of other sections of its configuration."""

    directory: Path
    settings: dict[str, object] = field(default_factory=dict)
    more: str = ""
    port: int = 25
    config: Config = field(init=False)
    _process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        """Configuration, registry with the sites, certificates."""
        self.directory.mkdir(parents=True)
        path = self.directory / "kyoten.toml"
        relay = toml({
            "site_listen": (RELAY, self.port),
            "submission_listen": (RELAY, 587),
            "tls_listen": (RELAY, 465),
            "bounce_listen": (RELAY, 2526),
            "metrics_listen": (RELAY, 9100),
            "queue_directory": self.directory / "queue",
            **SETTINGS,
            **self.settings,
        })  # fmt: skip
        path.write_text(
            f'state_directory = "{self.directory}/state"\nruntime_directory = "{self.directory}/run"\n\n'
            f'[gateway]\nname = "gw1"\npublic_addresses = ["127.0.43.1"]\n\n[relay]\n{relay}\n{self.more}'
        )
        self.config = load_config(path)
        for made in (self.config.state_directory, self.config.runtime_directory):
            made.mkdir(mode=0o700)
        now = datetime.now(UTC)
        with closing(Database(self.config.registry_url)) as database:
            database.migrate()
            with database.write() as session:
                initialise.initialise(session, self.config, now=now)
                session.add(Tenant(id=TENANT, block=BLOCK, created_at=now))
                session.flush()
                for name, prefix in SITES.items():
                    session.add(Site(id=name, tenant_id=TENANT, overlay=prefix, lan=prefix, created_at=now))

    def start(self) -> None:
        """Start it; returns when it listens."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "kyoten"), "--config", str(self.directory / "kyoten.toml"), "relay"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._await(lambda: listens(RELAY, self.port))

    def _await(self, condition: object) -> None:
        assert callable(condition)
        try:
            wait_until("the relay listens", condition, timeout_s=START_S)
        except LabError:
            sys.stderr.write(self.log.read_text(errors="replace")[-4000:])
            raise

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.directory / "relay.log"

    def stop(self) -> None:
        """End it politely."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(90)

    def pids(self) -> list[int]:
        """Its process and all that it started."""
        assert self._process is not None
        return _family(self._process.pid)

    def rss_mib(self) -> float:
        """Resident memory of all its processes together; what they share (they are forked) counts once (Pss)."""
        return sum(_memory_kib(pid) for pid in self.pids()) / 1024


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            found += _family(int(child))
    return found


def _memory_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


class Sink:
    """smtp-sink, and how many mails it has taken until when."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["smtp-sink", "-c", "-u", "nobody", f"{SINK}:{SINK_PORT}", "1024"], stdout=subprocess.PIPE
        )
        self._changed = threading.Condition()
        self._count = 0
        self._at = 0.0
        threading.Thread(target=self._read, daemon=True).start()
        wait_until("the sink listens", lambda: listens(SINK, SINK_PORT), timeout_s=10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while chunk := os.read(self._process.stdout.fileno(), 65536):
            at = time.perf_counter()
            *whole, rest = (rest + chunk).split(b"\r")
            if whole:
                with self._changed:
                    self._count, self._at = int(whole[-1].rpartition(b"=")[2]), at
                    self._changed.notify_all()

    @property
    def count(self) -> int:
        """Mails taken so far."""
        return self._count

    def wait(self, count: int, timeout_s: float) -> float:
        """When (time.perf_counter) it had taken ``count``. Raises LabError when it does not in time."""
        until = time.perf_counter() + timeout_s
        with self._changed:
            while self._count < count:
                left_s = until - time.perf_counter()
                if left_s <= 0 or not self._changed.wait(left_s):
                    raise LabError(f"the sink has {self._count} of {count} mails after {timeout_s:g} s")
            return self._at

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


@dataclass
class Postfix:
    """The reference, with the sink as its relayhost."""

    directory: Path
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Lay it out and start it; returns when it listens."""
        made = PlainRelay(self.directory, POSTFIX, "127.0.0.0/8", (SINK, SINK_PORT))
        made.write()
        # Postfix ends without a word when its address is on no interface.
        subprocess.run(["ip", "addr", "replace", f"{POSTFIX}/32", "dev", "lo"], check=True)
        self._process = subprocess.Popen(made.argv(), stdin=subprocess.DEVNULL)
        wait_until("Postfix listens", lambda: listens(POSTFIX, 25), timeout_s=START_S)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(90)


@dataclass(frozen=True, slots=True)
class World:
    """Relay, Postfix and sink, running."""

    relay: Relay
    postfix: Postfix
    sink: Sink

    def stop(self) -> None:
        """End everything."""
        self.relay.stop()
        self.postfix.stop()
        self.sink.stop()


def place(name: str) -> Path:
    """A new directory on the box's disk."""
    return box.directory() / f"{name}-{time.monotonic_ns():x}"


def build() -> World:
    """Start all three."""
    allow_many_files()
    relay = Relay(place("relay"))
    relay.write()
    sink, postfix = Sink(), Postfix(place("postfix"))
    postfix.start()
    relay.start()
    return World(relay, postfix, sink)


def source(address: IPv4Address, *, clients: int, messages: int, port: int = 25) -> float:
    """smtp-source hands over ``messages``, a connection each, ``clients`` at a time; perf_counter when it was done."""
    argv = [
        "smtp-source", "-s", str(clients), "-m", str(messages), "-l", str(BODY_BYTES), "-f", SENDER, "-t", RECIPIENT,
        "-M", "plc.site.example", f"{address}:{port}",
    ]  # fmt: skip
    subprocess.run(argv, check=True)
    return time.perf_counter()


def fsync_ms(directory: Path, times: int = 200) -> float:
    """The median of a 4 KiB write and fsync on the disk that ``directory`` is on, in milliseconds."""
    path = directory / "fsync"
    taken = []
    with path.open("wb") as stream:
        for _ in range(times):
            began = time.perf_counter()
            stream.write(os.urandom(4096))
            stream.flush()
            os.fsync(stream.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return median(taken)


def percentile(values: Sequence[float], per_cent: float) -> float:
    """The value that ``per_cent`` of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * per_cent / 100))]
