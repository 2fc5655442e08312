"""The tunnel ahead of everything else: it is asked for while most of the agent is not even loaded.

Loading the agent takes seconds on a small processor, and charon needs none of it. So at the router's start the doors
are shut first; then, beside the loading, charon is given what it needs and asked for the tunnel as soon as a wired line
has a default route. The agent finds charon at work and goes on from there. Nothing is forwarded before it says so.

Only the plain case: whatever is on trial, set by hand, or has to be looked up first is left to the agent.
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from linux.charon import Charon, Connection
from linux.charon_process import CharonProcess, socket_path, strongswan_conf
from linux.dataplane import Dataplane, detect, ensure_interface
from linux.errors import LinuxError
from linux.netfilter import Netfilter
from linux.runner import Runner
from router_agent import identity
from router_agent.errors import StateError
from router_agent.firewall.keeper import FirewallKeeper
from router_agent.firewall.ruleset import render
from router_agent.identity import Identity
from router_agent.tunnel import connection

_log = logging.getLogger(__name__)

#: How often it is looked for a line with a default route, in seconds.
LOOK_S = 0.1

#: How long the agent's loading stands back at most, in seconds: charon starts in less.
STAND_BACK_S = 6.0

#: Settings that say which way, or with whom, a tunnel is made begin so.
_DECIDING = ("tunnel.", "uplink.", "mobile.")

AUTHORITIES = ("root.crt", "cloud-authority.crt", "tenant-authority.crt")

_ROUTES = Path("/proc/net/route")
_IPV6 = Path("/proc/net/if_inet6")


def gateway(who: Identity, state: Path) -> str | None:
    """The gateway that is asked ahead; None: that is for the agent to decide."""
    if not _clock_may_be_right(who):
        return None  # the agent sets it first: certificates count by it
    if identity.is_on_trial(state) or not _plain(state / "settings.json"):
        return None
    first = next(iter(who.enrolment.gateways), "")
    try:
        return str(ip_address(first))
    except ValueError:
        return None  # a name: a resolver may take its time


def _clock_may_be_right(who: Identity) -> bool:
    """Whether the certificate was written before now. It says more itself, but reading it takes seconds."""
    try:
        return who.path("site.crt").stat().st_mtime <= time.time()
    except OSError:
        return False


def _plain(settings: Path) -> bool:
    """Whether no setting has a say in how the tunnel is made, and none is on trial."""
    try:
        document = json.loads(settings.read_text(encoding="utf-8"))
        values = document["current"]["values"]
        return document["candidate"] is None and not any(str(name).startswith(_DECIDING) for name in values)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def routed(table: str, lines: Sequence[str]) -> bool:
    """Whether one of the lines has a default route, by /proc/net/route (proc(5)). Pure."""
    rows = (row.split() for row in table.splitlines()[1:])
    return any(len(row) > 7 and row[0] in lines and row[1] == row[7] == "00000000" for row in rows)


def firewall(who: Identity, runner: Runner, plane: Dataplane, lan: str) -> FirewallKeeper:
    """The keeper of this router's packet filter."""
    ipv6 = Netfilter(runner, version=6) if _IPV6.exists() else None
    return FirewallKeeper(Netfilter(runner), ipv6, render(who.enrolment, plane, lan=lan))


class Ahead:
    """charon on its way to the first tunnel, in a thread of its own until `finish`."""

    def __init__(self, plane: Dataplane, process: CharonProcess, keeper: FirewallKeeper) -> None:
        self.plane = plane
        self.process = process
        self.firewall = keeper
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._asked = False
        self._thread: threading.Thread | None = None

    def begin(self, who: Identity, to: str, lines: Sequence[str]) -> None:
        """Give charon what it needs, and ask for the tunnel once there is a line. Returns at once."""
        self._thread = threading.Thread(target=self._work, args=(who, to, tuple(lines)), name="ahead", daemon=True)
        self._thread.start()

    def settle(self, most_s: float) -> None:
        """Leave the processor to charon until it has all it needs, no longer than this. No line is waited for."""
        if self._thread is not None:
            self._ready.wait(most_s)

    def finish(self) -> bool:
        """End it, whatever it has come to; whether charon has been asked for the tunnel."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._asked

    def _work(self, who: Identity, to: str, lines: tuple[str, ...]) -> None:
        charon = Charon(socket_path(self.process.directory))
        try:
            self.process.wait()
            load_identity(charon, who)
            charon.load_connection(connection.CONNECTION, _connection(who, to, self.plane))
            while not routed(_ROUTES.read_text(), lines):
                self._ready.set()
                if self._ended.wait(LOOK_S):
                    return
            charon.initiate(connection.CONNECTION, connection.CHILD)
            self._asked = True
        except (LinuxError, StateError, OSError) as error:
            # The agent does it all again, and says what is wrong.
            _log.info("no tunnel ahead: %s", error)
        finally:
            self._ready.set()
            charon.close()


def load_identity(charon: Charon, who: Identity) -> None:
    """Give charon the site's certificate and key, and whom to believe. Raises LinuxError, StateError."""
    for authority in AUTHORITIES:
        charon.load_authority(who.text(authority))
    charon.load_certificate(who.text("site.crt"))
    charon.load_private_key(who.text("site.key"))


def _connection(who: Identity, to: str, plane: Dataplane) -> Connection:
    return connection.connection(
        who.enrolment,
        gateway=to,
        dpd_s=connection.DEFAULT_DPD_S,
        site_certificate=who.text("site.crt"),
        cloud_authority=who.text("cloud-authority.crt"),
        dataplane=plane,
    )


def begin(who: Identity, state: Path, runtime: Path, lan: str, lines: Sequence[str], runner: Runner) -> Ahead:
    """Shut the doors, start charon, and go ahead if that is a plain matter. A charon that runs already is left alone.

    Raises LinuxError: what the agent cannot do without is not there.
    """
    begun = time.monotonic()
    plane = detect(runner)
    process = CharonProcess(runtime, strongswan_conf(runtime, plane, connection.charon_options()))
    keeper = firewall(who, runner, plane, lan)
    found = Ahead(plane, process, keeper)
    try:
        # It takes a while, and knows nobody before it is given a certificate: so beside the filter.
        fresh = process.begin()
    except (LinuxError, OSError) as error:
        _log.info("charon is not started ahead: %s", error)
        fresh = False
    ensure_interface(runner, plane)
    problem, _ = keeper.check()
    to = gateway(who, state)
    if fresh and to is not None and problem is None:
        found.begin(who, to, lines)
    _log.info("packet filter and charon after %.1f s", time.monotonic() - begun)
    return found
