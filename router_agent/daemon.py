"""The composition root of the agent, and its loop.

One thread looks at every part twice a second and brings it to where it should be; a second one talks to the cloud. No
part can stop another one: trouble is put on the board and reported.
"""

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping as Dictionary
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address, ip_interface

from linux.charon import Charon
from linux.charon_process import socket_path
from linux.dataplane import Dataplane
from linux.errors import LinuxError
from linux.routes import InterfaceState, Routes
from linux.runner import Runner, SubprocessRunner
from router_agent import status
from router_agent.bundle import Address, Enrolment
from router_agent.clock import known
from router_agent.clock.keeper import ClockKeeper
from router_agent.console.report import ConsoleWatch
from router_agent.crash.watch import Crashes
from router_agent.enrolment.renew import Line as RenewalLine
from router_agent.enrolment.renewal import Renewal
from router_agent.errors import AgentError, StateError
from router_agent.exec.orders import boot_id
from router_agent.exec.reboot import Reboot
from router_agent.firewall.ruleset import render
from router_agent.identity import Identity
from router_agent.lan.keeper import LanKeeper
from router_agent.link import policy
from router_agent.link.echo import Target, targets_of
from router_agent.link.keeper import Lines
from router_agent.link.names import Names
from router_agent.link.uplinks import UplinkKind
from router_agent.logs import collect
from router_agent.logs import writer as log_writer
from router_agent.logs.units import AGENT, IKE, Places
from router_agent.mapping.routing import Mapping
from router_agent.modem.line import MobileLine
from router_agent.options import Options
from router_agent.problems import Problem, ProblemBoard
from router_agent.remote.keeper import SshKeeper
from router_agent.report import cloud, load
from router_agent.report.courier import Courier
from router_agent.report.documents import DesiredSettings, Heartbeat, LogRequest, SettingsReport, TunnelReport
from router_agent.reporting import Reporting
from router_agent.settings.journal import Journal
from router_agent.settings.keys import Settings
from router_agent.settings.machine import Version
from router_agent.settings.trial import SettingsTrial
from router_agent.support import Support
from router_agent.tunnel.ahead import Ahead, begin
from router_agent.tunnel.diagnosis import Diagnosis
from router_agent.tunnel.driver import TunnelDriver
from router_agent.tunnel.probe import Probe
from router_agent.update.ports import Scene
from router_agent.updating import Updating

_log = logging.getLogger(__name__)

#: The loop's pace, also while something is about to be decided, and how often netlink is asked, in seconds.
TICK_S = 0.5
URGENT_TICK_S = 0.1
LOOK_S = 1.0
STATUS_S = 2.0

#: charon answers in milliseconds. One that hangs may hold the loop up no longer than this.
VICI_TIMEOUT_S = 3.0

#: Causes of a missing tunnel that say nothing of the certificate.
UNANSWERED = frozenset(
    {"agent.no-uplink", "agent.tunnel-no-answer", "agent.udp-blocked", "agent.charon-silent", "agent.charon-down"}
)


class Agent:
    """Everything on this router. ``now`` everywhere: monotonic seconds."""

    def __init__(
        self, options: Options, identity: Identity, writer: log_writer.LogWriter, ahead: Ahead, *, now: float
    ) -> None:
        # First of all: certificates count by the clock.
        self._clock = ClockKeeper(known.bounds(identity)) if options.sets_clock else None
        if self._clock is not None:
            self._clock.begin()
        runner: Runner = SubprocessRunner()
        enrolment = identity.enrolment
        plane = ahead.plane
        port = next((endpoint.port for endpoint in enrolment.endpoints if endpoint.in_tunnel), 443)
        self._options = options
        self._enrolment = enrolment
        self._ports = _ports(enrolment)
        self._writer = writer
        self._routes = Routes()
        self._board = ProblemBoard()
        self._settings = Settings()
        self._tunnel = TunnelDriver(
            ahead.process,
            Charon(socket_path(options.runtime), timeout_s=VICI_TIMEOUT_S),
            identity,
            Probe(enrolment.router_address, enrolment.service_address, port),
            dataplane=plane,
            probe_s=options.probe_s,
            diagnosis=Diagnosis(options.runtime / "charon.log"),
            asked=ahead.finish(),
            home_s=options.home_s,
            now=now,
        )
        self._names = Names()
        self._lines = Lines(options.uplinks, hold_s=options.hold_s, near=(enrolment.lan,), now=now)
        self._gateways: tuple[Address, ...] = ()
        self._targets: tuple[Target, ...] = ()
        self._mapping = Mapping(self._routes, enrolment, lan=options.lan, owns_lan=options.owns_lan, dataplane=plane)
        self._firewall = ahead.firewall
        self._plane = plane
        self._lan = LanKeeper(
            enrolment.lan,
            interface=options.lan,
            runtime=options.runtime,
            state=options.state,
            uplinks=frozenset(options.uplinks),
        )
        self._remote = SshKeeper(identity, enrolment.router_address, options.runtime)
        self._courier = Courier(cloud.connect(identity, options.runtime, self._clock), self._collect_log)
        self._reporting = Reporting(
            self._courier,
            enrolment,
            self._board,
            compose=lambda at: self._heartbeat(at, to_cloud=True),
            offer=self._offer_settings,
            certificates=self._take_certificates,
            heard=self._heard,
            now=now,
        )
        self._renewal = Renewal(
            identity,
            options.state,
            ask=self._reporting.ask_for_certificate,
            adopt=self._adopt,
            prove=lambda proven: self._courier.use(cloud.connect(proven, options.runtime, self._clock)),
            now=now,
        )
        if self._renewal.on_trial:
            self._tunnel.use(identity)
        #: The identity to start over with: the site has moved.
        self.successor: Identity | None = None
        self._trial = SettingsTrial(Journal(options.state), self._apply_settings)
        self._mobile = MobileLine(
            next((name for name, kind in options.uplinks.items() if kind is UplinkKind.MOBILE), "wwan0"),
            options.modem,
            state=options.state,
            runtime=options.runtime,
            runner=runner,
            now=now,
        )
        self._mobile_view = self._mobile.view
        self._versions = _versions(plane)
        self.support = Support(
            options,
            site=enrolment.site,
            device_id=identity.device_id,
            runner=runner,
            client=lambda: self._courier.client,
            modem=lambda: None if (report := self._mobile.view.report) is None else report.document(),
            versions=self._versions,
        )
        self._reboot = Reboot(options.reboot)
        self._console = ConsoleWatch(options.state, boot_id())
        self._updating = Updating(
            options,
            enrolment.site,
            runner,
            agent=self._versions["agent"],
            modems=self._mobile.use_table,
            now=now,
        )
        self._lan_shut = False
        self._timezone = ""
        self._interfaces: tuple[InterfaceState, ...] = ()
        self._look_at = self._check_at = self._status_at = now
        self._shown: tuple[Problem, ...] = ()
        self._tunnel_problems: tuple[Problem, ...] = ()
        self._was_up = False

    def start(self, now: float) -> None:
        """Shut the doors first, then everything else."""
        self._check_firewall(now)
        self._mobile.start()
        self._trial.start(now)
        self._courier.start()
        self.support.start()
        self._updating.start(now)
        _log.info("agent started: site %s, overlay %s", self._enrolment.site, self._enrolment.overlay)

    def tick(self, now: float) -> None:
        """One look at everything."""
        roll = random.random()  # noqa: S311 - spreads routers in time, no secret
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(now)
            self.support.step(now)
        self._step_lines(now, roll)
        self._step_mobile(now)
        if now >= self._check_at:
            self._check_at = now + self._options.check_s
            self._check_firewall(now)
        self._tunnel.step(now, self._lines.line, self._gateways, alive=self._lines.alive)
        view = self._tunnel.view()
        self._tunnel_problems = self._tunnel.problems(heard=lambda address: self._lines.heard(address, now))
        self._board.set("tunnel", *self._tunnel_problems)
        problem = self._remote.ensure(now, roll)
        lan = next((state for state in self._interfaces if state.name == self._options.lan), None)
        own = () if lan is None else tuple(address.ip for address in lan.addresses)
        self._board.set("lan", *self._lan.ensure(now, roll, own))
        self._board.set("remote", *(() if problem is None else (problem,)))
        contact = self._reporting.contact
        self._step_renewal(now, roll)
        self._trial.step(now, probed_at=view.proven_at, heartbeat_began_at=contact.tunnel_began_at)
        self._board.set("settings", *self._trial.problems())
        trouble = self._writer.trouble
        unwritable = Problem("agent.state-unwritable", {"path": str(self._options.state), "reason": trouble or ""})
        self._board.set("state", *((unwritable,) if trouble else ()))
        if view.up is not self._was_up or self._trial_waits(view.proven_at, contact.tunnel_began_at):
            self._was_up = view.up
            self._reporting.hurry(now)
        self._reporting.step(now, interval_s=self._settings.heartbeat_s, tunnel_up=view.up, roll=roll)
        if self.support.restart:
            self._step_reboot()
        if now >= self._status_at:
            self._status_at = now + STATUS_S
            self._write_status(now)
        self._updating.gone_round(now)

    def step_update(self, now: float) -> None:
        """Firmware and modules; beside `tick`, so that a bug there does not keep the release away that mends it."""
        contact, view, mobile = self._reporting.contact, self._tunnel.view(), self._mobile.view.report
        budget = 0 if mobile is None else mobile.data_budget_bytes
        scene = Scene(
            clock=datetime.now(UTC),
            timezone=contact.timezone or "UTC",
            settings=self._settings.update,
            metered=self._lines.uplink.kind is UplinkKind.MOBILE,
            month_left_bytes=max(0, budget - ((mobile and mobile.data_used_bytes) or 0)) if budget else None,
            tunnel_up=view.up,
            tunnel_down_s=0.0 if view.up else now - view.since,
            heartbeat_at=contact.tunnel_began_at,
            heard_at=contact.heard_at,
            heartbeat_s=self._settings.heartbeat_s or self._reporting.interval_s,
            configured=self._firewall.in_force and self._trial.in_order,
            settings_trial=self._trial.trying,
            certificate_trial=self._renewal.on_trial,
            skew_s=contact.skew_s,
            visitors=self._remote.visited or self._console.visited,
        )
        roll = random.random()  # noqa: S311 - spreads routers in time, no secret
        if self._updating.step(now, scene, roll):
            self._reporting.hurry(now)
        self._board.set("update", *self._updating.problems())

    def _step_reboot(self) -> None:
        """Start the machine anew, once; the init system then ends this agent as it ends all others."""
        trouble = self._reboot.step()
        if trouble is not None:
            _log.error("the router does not start anew: %s", trouble)
            self.support.cannot_restart(trouble)

    def _step_renewal(self, now: float, roll: float) -> None:
        contact, clock = self._reporting.contact, datetime.now(UTC)
        told = {problem.key for problem in self._tunnel_problems}
        line = RenewalLine(proven=self._tunnel.renewed, unanswered=bool(told & UNANSWERED))
        self._renewal.step(now, clock, asked=contact.renew, skew_s=contact.skew_s, line=line, roll=roll)
        self._board.set("certificate", *self._renewal.problems(clock))

    def _take_certificates(self, answer: Dictionary[str, bytes] | AgentError, now: float) -> None:
        roll = random.random()  # noqa: S311 - spreads routers in time, no secret
        if isinstance(answer, AgentError):
            self._renewal.refused(answer, now, roll)
        else:
            self._renewal.answered(answer, now, datetime.now(UTC), roll)

    def _adopt(self, identity: Identity, given_back: bool) -> None:
        """Use what is installed now for the tunnel, or, when the site has moved, start over."""
        if self._clock is not None:
            self._clock.know(known.bounds(identity))
        if identity.enrolment != self._enrolment:
            _log.info("the site's enrolment has changed (overlay %s): starting over", identity.enrolment.overlay)
            self.successor = identity
            return
        self._tunnel.use(identity, given_back=given_back)

    def stop(self) -> None:
        """End what cannot be left alone. The tunnel stays up for the next agent unless the options say otherwise."""
        self._courier.stop(wait_s=1.0)
        self.support.stop(wait_s=1.0)
        self._updating.stop()
        self._mobile.stop(wait_s=2.0, hang_up=self._options.down_at_end)
        self._remote.stop()
        if self._options.down_at_end:
            self._lan.stop()
        if self.successor is not None:
            with contextlib.suppress(LinuxError):
                self._routes.delete_address("lo", ip_interface(self._enrolment.router_address))
        if self._options.down_at_end or self.successor is not None:
            self._tunnel.take_down()
            with contextlib.suppress(LinuxError):
                self._mapping.clear()
                policy.clear(self._routes)
        self._lines.close()
        self._routes.close()
        _log.info("agent stopped%s", ", tunnel taken down" if self._options.down_at_end else "")

    def _look(self, now: float) -> None:
        """Lines, addresses, routes."""
        try:
            self._interfaces = self._routes.interfaces()
            self._lines.look(self._interfaces, self._routes.default_routes(), now)
            self._lines.route(self._routes)
            self._mapping.reconcile(
                self._interfaces, frozenset(self._options.uplinks), filtered=self._firewall.in_force
            )
        except (LinuxError, OSError) as error:
            if self._board.set("mapping", Problem("agent.mapping-failed", {"reason": str(error)[:200]})):
                _log.error("addresses and routes: %s", error)
        else:
            self._board.set("mapping")

    def _step_lines(self, now: float, roll: float) -> None:
        """Probe the lines, and use another one when it is time."""
        names = self._settings.gateways or self._enrolment.gateways
        self._gateways = self._names.addresses(names, now)
        self._board.set("names", *self._names.problems(names))
        self._targets = targets_of((*self._gateways, *self._options.targets), self._ports)
        view = self._tunnel.view()
        changed = self._lines.step(
            now,
            self._targets,
            prefer=self._settings.prefer,
            tunnel_down=not view.up,
            proven=None if view.proven_at is None else (view.own, view.proven_at),
            roll=roll,
        )
        if changed:
            self._look(now)  # the route first, then the tunnel
            self._reporting.hurry(now)
        self._board.set("uplinks", *self._lines.problems())

    def pause_s(self, now: float) -> float:
        """How long to wait until the next tick."""
        return URGENT_TICK_S if self._tunnel.view().moving or self._lines.urgent(now) else TICK_S

    def _check_firewall(self, now: float) -> None:
        problem, repaired = self._firewall.check()
        self._board.set("firewall", *(() if problem is None else (problem,)))
        if repaired:
            self._board.note("firewall", Problem("agent.firewall-repaired"), now=now)
            self._reporting.hurry(now)

    def _trial_waits(self, proven_at: float | None, began_at: float | None) -> bool:
        """Whether a trial wants nothing more than a heartbeat through the tunnel that has carried a probe."""
        since = self._trial.applied_at
        return self._trial.trying and (proven_at or 0) > since and (began_at is None or began_at < since)

    def _apply_settings(self, settings: Settings, now: float) -> None:
        self._settings = settings
        log_writer.set_level(settings.log_level)
        gateways = settings.gateways or self._enrolment.gateways
        if self._tunnel.configure(gateways, settings.dpd_s, now=now):
            _log.info("tunnel started over with new settings")
        self._lan.configure(settings.lan)
        self._mobile.configure(settings.mobile)
        self.support.use(settings.mobile)
        self._updating.configure(settings)
        self._set_firewall(lan_shut=self._lan_shut)
        self._look_at = self._check_at = now

    def _set_firewall(self, *, lan_shut: bool) -> None:
        self._lan_shut = lan_shut
        lan = self._options.lan
        self._firewall.use(render(self._enrolment, self._plane, lan=lan, dhcp=self._lan.serves, lan_shut=lan_shut))

    def _step_mobile(self, now: float) -> None:
        """Take in what the modem's thread has published."""
        # A report speaks of one moment: the modem's state and its problems are of the same view.
        view = self._mobile_view = self._mobile.view
        if self._board.set("mobile", *view.problems):
            self._reporting.hurry(now)
        timezone = self._reporting.contact.timezone
        if timezone and timezone != self._timezone:
            self._timezone = timezone
            self._mobile.use_timezone(timezone)
        shut = view.lan_shut and self._lines.uplink.kind is UplinkKind.MOBILE
        if shut is not self._lan_shut:
            _log.warning("the LAN's traffic is %s", "stopped: the mobile data are spent" if shut else "let through")
            self._set_firewall(lan_shut=shut)
            self._check_firewall(now)

    def _offer_settings(self, wanted: DesiredSettings, now: float) -> None:
        if self._updating.on_trial:
            return  # one trial at a time: the cloud offers them again
        self._trial.offer(Version(wanted.version, wanted.values), wanted.confirm_s, now)

    def _heartbeat(self, now: float, *, to_cloud: bool = False) -> Heartbeat:
        view = self._tunnel.view()
        state = self._trial.state
        reverted = state.reverted
        return Heartbeat(
            site=self._enrolment.site,
            sent_at=datetime.now(UTC),
            uplink=self._lines.uplink,
            tunnel=TunnelReport(view.up, view.gateway, now - view.since, view.suite),
            load=load.read(),
            versions=self._versions,
            settings=SettingsReport(
                state.current.number, None if reverted is None else reverted.number, state.problem if reverted else None
            ),
            problems=self._board.current(now=now),
            lan_devices=self._lan.devices(wall_clock=time.time()),
            modem=self._mobile_view.report,
            uplinks=self._lines.report(now),
            firmware=self._updating.firmware(),
            modules=self._updating.modules(),
            console=self._console.report(to_cloud=to_cloud),
        )

    def _heard(self, heard: cloud.Heard, now: float) -> None:
        """The cloud has answered: what it asks for beside settings and certificates."""
        mobile = self._lines.uplink.kind is UplinkKind.MOBILE
        self.support.heard(heard.answer, heard.endpoint, mobile=mobile, now=now)
        self._updating.heard(heard.answer, now)
        self._console.heard(heard.answer.console_key)

    def _collect_log(self, request: LogRequest) -> bytes:
        """Runs in the courier's thread: reads files only."""
        places = Places(self._options.state, self._options.runtime)
        logs = {
            name: collect.last_lines(places.live(unit)[0], request.lines)
            for name, unit in (("agent", AGENT), ("charon", IKE))
        }
        return collect.compressed(collect.text(self._enrolment.site, logs, request.lines, now=datetime.now(UTC)))

    def _write_status(self, now: float) -> None:
        heard_at = self._reporting.contact.heard_at
        document = self._heartbeat(now).document()
        document["certificate_ends"] = self._renewal.ends.isoformat(timespec="minutes")
        document["cloud_heard_s"] = None if heard_at is None else round(now - heard_at, 1)
        try:
            status.write(self._options.runtime, document)
        except OSError as error:
            _log.debug("status not written: %s", error)


def run(options: Options, identity: Identity, writer: log_writer.LogWriter, ahead: Ahead) -> None:
    """Run until SIGTERM or SIGINT."""
    os.environ["TZ"] = "UTC"  # charon's log lines are merged with ours by their time
    time.tzset()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    successor: Identity | None = identity
    while successor is not None:
        agent = Agent(options, successor, writer, ahead, now=time.monotonic())
        successor = _run_until(ended, agent)
        if successor is not None:
            ahead = begin(successor, options.state, options.runtime, options.lan, (), SubprocessRunner())
        if agent.support.restart is False and not ended.is_set():
            # The same command line in the same process: the init system notices nothing, the tunnel stays up.
            _log.info("the agent starts anew, as it was asked to")
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - it is this very program


def _run_until(ended: threading.Event, agent: Agent) -> Identity | None:
    """Run one agent; the answer is the identity to go on with when its site has moved."""
    agent.start(time.monotonic())
    try:
        while not ended.is_set() and agent.successor is None and agent.support.restart is not False:
            _survive(lambda: agent.tick(time.monotonic()), agent.support.crashes)
            _survive(lambda: agent.step_update(time.monotonic()), agent.support.crashes)
            ended.wait(agent.pause_s(time.monotonic()))
    finally:
        agent.stop()
    return None if ended.is_set() else agent.successor


def _survive(work: Callable[[], None], crashes: Crashes) -> None:
    """A bug in one tick must not end the agent: the router would be out of reach. It is logged whole, and reported."""
    try:
        work()
    except (AgentError, LinuxError, OSError, StateError) as error:
        _log.error("tick: %s", error)
    except Exception as error:
        _log.exception("tick: internal error")
        crashes.exception(error, "tick")


def _ports(enrolment: Enrolment) -> dict[Address, tuple[int, ...]]:
    """Where the cloud answers TCP outside the tunnel."""
    found: dict[Address, tuple[int, ...]] = {}
    for endpoint in enrolment.endpoints:
        if not endpoint.in_tunnel:
            with contextlib.suppress(ValueError):
                address = ip_address(endpoint.address)
                found[address] = (*found.get(address, ()), endpoint.port)
    return found


def _versions(plane: Dataplane) -> dict[str, str]:
    try:
        agent = version("kyoten")
    except PackageNotFoundError:
        agent = "unknown"
    return {"agent": agent, "kernel": load.kernel_version(), "esp": plane.value}
