"""The daemon `kyoten gateway`: puts its parts together, wakes the reconciler, ends.

Ending it leaves charon, its tunnels and the kernel's rules as they are: a restart drops nothing, and the next start
takes all of it over. `shut_down` is the other way to end: no charon, no tunnels, nothing forwarded.
"""

import contextlib
import gc
import select
import socket
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cloudside.config import Config
from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.flow_watch import FlowWatch
from cloudside.datapath.flows import Flows
from cloudside.datapath.site_routes import SiteRoutes
from cloudside.datapath.skeleton import doors
from cloudside.errors import ConfigurationError
from cloudside.registry.database import Database, Doorbell
from cloudside.vpn.connections import charon_options
from cloudside.vpn.credentials import CredentialLoader
from cloudside.vpn.events import Events
from cloudside.vpn.parts import Parts
from cloudside.vpn.reconciler import Reconciler
from cloudside.vpn.reports import Report, Reporter
from cloudside.vpn.usage import UsageTeller
from cloudside.vpn.witness import Witness
from linux import locks
from linux.charon import Charon
from linux.charon_process import CharonProcess, socket_path, strongswan_conf
from linux.dataplane import Dataplane, detect, ensure_interface
from linux.errors import LinuxError
from linux.netfilter import Netfilter
from linux.routes import Routes
from linux.runner import SubprocessRunner
from rules.compile import RuleSet

log = structlog.get_logger("kyoten.gateway")

#: How long charon may take over one answer, in seconds. It lists 1,000 tunnels in 0.05 s.
CHARON_ANSWERS_S = 5.0

#: How long a wait may last at most, in seconds: then somebody looks whether to stop.
LOOK_UP_S = 0.2
#: Seconds after a batch of events in which more of them gather: when a thousand sites come at once, each batch costs
#: what all tunnels cost. The first event after a pause waits for nothing. After a batch of MANY it is longer: each core
#: that the daemon takes then is one that charon lacks. Well below tunnels_keeper.SETTLE_S, or charon would seem quiet
#: in between and be listed, which costs it more than anything else.
GATHER_S, GATHER_MANY_S, MANY = 0.1, 0.2, 10
#: Seconds between two times that what is held is taken out of the garbage collector's sight.
FREEZE_S = 60.0
#: Seconds that a thread may go on while another one waits for the interpreter: what reads the kernel back must not hold
#: up a change at each of its steps (Python's own is 5 ms).
SWITCH_S = 0.001


def run(config: Config, stop: threading.Event) -> None:
    """Be the gateway until ``stop`` is set. Drops everything first, then brings up what the registry wants.

    Raises ConfigurationError: another gateway runs here, or default deny cannot be established on this machine, so
    nothing is started.
    """
    runner = SubprocessRunner()
    config.runtime_directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as cleanup:
        lock = locks.take(config.runtime_directory / "gateway.lock")
        if lock is None:
            raise ConfigurationError("vpn.gateway-runs-already", path=str(config.runtime_directory))
        cleanup.enter_context(lock)
        try:
            # Before anything else is found out: the dataplane makes no difference to what drops.
            _enforcement(config, runner).hold()
        except LinuxError as error:
            raise ConfigurationError("datapath.no-default-deny", reason=str(error)) from error
        dataplane = detect(runner)
        enforcement = _enforcement(config, runner, dataplane)
        try:
            enforcement.hold()  # with the guard that this dataplane has
        except LinuxError as error:
            raise ConfigurationError("datapath.no-default-deny", reason=str(error)) from error
        log.info("start", gateway=config.gateway.name, dataplane=dataplane.value)
        routes = Routes()
        cleanup.callback(routes.close)
        site_routes = SiteRoutes(routes, runner, config.gateway.service_address)
        try:
            site_routes.prepare()
            ensure_interface(runner, dataplane)
        except (LinuxError, OSError) as error:
            raise ConfigurationError("datapath.no-routing", reason=str(error)) from error
        database = Database(config.registry_url, actor="gateway")
        cleanup.callback(database.close)
        # A listing is asked for twice when it fails; one that hangs is to be noticed within ten seconds all the same.
        charon, lister = (Charon(socket_path(_charon_directory(config)), timeout_s=CHARON_ANSWERS_S) for _ in range(2))
        cleanup.callback(charon.close)
        cleanup.callback(lister.close)
        waker, woken = socket.socketpair()
        cleanup.enter_context(waker)
        cleanup.enter_context(woken)
        events = Events(socket_path(_charon_directory(config)), lambda: _ring(waker))
        flow_watch = FlowWatch(runner)
        teller = UsageTeller(database, enforcement.traffic, gateway=config.gateway.name, every_s=config.gateway.usage_s)

        def decided(rule_set: RuleSet) -> None:
            flow_watch.use(rule_set)
            teller.use(rule_set)

        parts = Parts(
            database=database,
            process=_charon_process(config, dataplane),
            charon=charon,
            lister=lister,
            credentials=CredentialLoader(charon, config, dataplane),
            enforcement=enforcement,
            flows=Flows(runner),
            routes=routes,
            site_routes=site_routes,
            deciding=decided,
            events=events,
        )
        doorbell = cleanup.enter_context(Doorbell(config.runtime_directory, "gateway", database).listen())
        for listener in (doorbell, waker, woken):
            listener.setblocking(False)
        witness = Witness(_charon_directory(config) / "charon.log", since=datetime.now(UTC))
        cleanup.callback(witness.close)
        reporter = Reporter(database, flow_watch, gateway=config.gateway.name, witness=witness, teller=teller)
        reporter.start()
        cleanup.callback(reporter.stop)
        flow_watch.start()
        cleanup.callback(flow_watch.stop)
        events.start()
        cleanup.callback(events.stop)
        sys.setswitchinterval(SWITCH_S)
        reconciler = Reconciler(config, parts, dataplane, time.monotonic, lambda: _ring(waker))
        cleanup.callback(reconciler.close)
        _loop(config, stop, reconciler, events, reporter, doorbell, woken)
    log.info("stop", gateway=config.gateway.name)


def shut_down(config: Config) -> None:
    """Take the gateway out of service: charon ends, with it every tunnel, and nothing new is forwarded.

    The daemon must have ended before. Raises LinuxError.
    """
    runner = SubprocessRunner()
    config.runtime_directory.mkdir(parents=True, exist_ok=True)
    _enforcement(config, runner).close()
    _charon_process(config, detect(runner)).stop()


def end_charon(config: Config) -> bool:
    """End charon, politely, so that the daemon starts it anew; False: there was none. The daemon goes on."""
    process = _charon_process(config, Dataplane.USERLAND)  # the dataplane makes no difference to ending it
    if process.pid is None:
        return False
    process.stop()
    return True


def _loop(
    config: Config,
    stop: threading.Event,
    reconciler: Reconciler,
    events: Events,
    reporter: Reporter,
    doorbell: socket.socket,
    woken: socket.socket,
) -> None:
    freeze_at = report_at = time.monotonic()
    told: Report | None = None
    rung, whole = True, True
    gather_until = 0.0
    while not stop.is_set():
        happened = events.take() if time.monotonic() >= gather_until else []
        broke = events.broke()
        now = datetime.now(UTC)
        # A statement begins or ends to hold: that is a change of the policy like another.
        rung = rung or (reconciler.next_change is not None and reconciler.next_change <= now)
        if rung or happened:
            reconciler.take_up(happened, now=now, changed=rung, whole=whole)
            whole = False
            gather_until = time.monotonic() + (GATHER_MANY_S if len(happened) >= MANY else GATHER_S)
        if broke:
            reconciler.listen_again()
        looked = reconciler.look(now=now)
        clock = time.monotonic()
        if clock >= freeze_at:
            # What is held now stays: the collector would look at all of it again and again, 0.3 s each time.
            gc.freeze()
            freeze_at = clock + FREEZE_S
        if rung or happened or looked:
            report = reconciler.report(now=now)
            if told is None or clock >= report_at or replace(report, at=told.at) != told:
                reporter.submit(report)
                told, report_at = report, clock + config.gateway.resync_s
        wait_s = min(LOOK_UP_S, reconciler.wait_s())
        if events.waiting:
            wait_s = min(wait_s, max(0.0, gather_until - time.monotonic()))
        ready, _, _ = select.select([doorbell, woken], [], [], wait_s)
        rung = doorbell in ready
        for listener in ready:
            _drain(listener)


def _ring(waker: socket.socket) -> None:
    with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
        waker.send(b"\0")


def _drain(listener: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while listener.recv(4096):
            pass


def _enforcement(config: Config, runner: SubprocessRunner, dataplane: Dataplane = Dataplane.USERLAND) -> Enforcement:
    return Enforcement(Netfilter(runner), doors(config), dataplane)


def _charon_directory(config: Config) -> Path:
    return config.runtime_directory / "charon"


def _charon_process(config: Config, dataplane: Dataplane) -> CharonProcess:
    directory = _charon_directory(config)
    return CharonProcess(directory, strongswan_conf(directory, dataplane, charon_options(config.vpn)))
